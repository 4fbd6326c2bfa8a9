package agent

import (
	"slices"

	"troupe/actors/fault"
)

// Status is what the owner sees of an agent's life. Pod phase and turn state are tables of their own.
type Status string

// The states of an agent (§7).
const (
	Active  Status = "active"
	Paused  Status = "paused"
	Stopped Status = "stopped"
	Errored Status = "error"
)

// Verb is a command that changes the status.
type Verb string

// The verbs: three commands, and the direct setting of a status.
const (
	Pause      Verb = "pause"
	Resume     Verb = "resume"
	Stop       Verb = "stop"
	SetActive  Verb = "set_active"
	SetPaused  Verb = "set_paused"
	SetStopped Verb = "set_stopped"
)

type move struct {
	from []Status
	to   Status
	noop bool // from its own target: 200 without effect, otherwise invalid_state
}

// moves is the table of §7. LIFE-1: no other transition exists; Fail and Delete are decided elsewhere.
var moves = map[Verb]move{
	Pause:      {from: []Status{Active}, to: Paused},
	Resume:     {from: []Status{Paused, Stopped, Errored}, to: Active},
	Stop:       {from: []Status{Active, Paused, Errored}, to: Stopped},
	SetActive:  {from: []Status{Paused, Stopped, Errored}, to: Active, noop: true},
	SetPaused:  {from: []Status{Active, Stopped, Errored}, to: Paused, noop: true},
	SetStopped: {from: []Status{Active, Paused, Errored}, to: Stopped, noop: true},
}

// Next returns the status verb leads to. The same status means there is nothing to do.
// Errors: fault.Invalid with code invalid_state, naming both.
func (s Status) Next(verb Verb) (Status, error) {
	m, known := moves[verb]
	if known && m.noop && s == m.to {
		return s, nil
	}
	if !known || !slices.Contains(m.from, s) {
		return s, fault.Newf(fault.Invalid, "invalid_state", "Cannot %s an agent that is %s", verb, s)
	}
	return m.to, nil
}

// SetVerb returns the verb that sets status directly; ok is false for error, which no caller can set.
func SetVerb(status string) (Verb, bool) {
	switch Status(status) {
	case Active:
		return SetActive, true
	case Paused:
		return SetPaused, true
	case Stopped:
		return SetStopped, true
	}
	return "", false
}

// Accepts says whether a message may be stored for an agent in this status; the fault names why not (MSG-1). Tasks are not
// taken by a paused agent either (LEG-4).
func (s Status) Accepts(reason string, task bool) error {
	switch s {
	case Paused:
		if task {
			return fault.New(fault.Unavailable, "agent_unavailable", "Agent is paused")
		}
	case Stopped:
		return fault.New(fault.Unavailable, "agent_unavailable", "Agent is stopped")
	case Errored:
		if reason != "" {
			reason = ": " + reason
		}
		return fault.New(fault.Unavailable, "agent_unavailable", "Agent is in error state"+reason)
	}
	return nil
}

// PodStatus is what the owner sees of the pod (LIFE-8).
type PodStatus string

// The pod states of the contract.
const (
	PodRunning    PodStatus = "running"
	PodPending    PodStatus = "pending"
	PodNotRunning PodStatus = "not_running"
	PodError      PodStatus = "error"
)
