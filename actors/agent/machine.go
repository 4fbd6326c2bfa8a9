package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"troupe/actors/fault"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// Machine decides for one agent. It holds what the activation knows and builds the commit of one step; it does no I/O.
// Every method that decides either returns an error and changes nothing, or fills C, to be stored before anything is done.
type Machine struct {
	Spec Spec
	S    State
	F    Figures
	Set  Settings
	Now  int64 // ms, the store's time
	C    Commit
	// Queued is the head of the queue as read with the figures.
	Queued []Message
	// Over names the tasks that are over and have input in Queued.
	Over map[MessageID]bool
	// Schedules are given when a slot was worked out, or they are to be changed.
	Schedules Scheduled
	// Lags are how late schedules fired in this step, ms.
	Lags []int64
	// Fresh are deliveries of this step, for the notifier to begin with.
	Fresh []Outgoing
	// Loaded are messages by id; Missing names those without which the step cannot be stored: it is decided again with them.
	Loaded  map[MessageID]Message
	Missing []MessageID
	// NewID makes ids; it is a field so that tests are deterministic.
	NewID func() string

	was        standing // as stored
	subscribed bool     // the former runner had opened its command stream
	remindMS   int64    // when the next reminder is due, as the last look found; 0: none
}

// standing is what the head repeats of the state.
type standing struct {
	status Status
	reason string
}

// Restore reads what was committed. The spec is not changed in place, so steps may share it.
func (m *Machine) Restore(spec Spec, state []byte) error {
	m.Spec = spec
	if err := json.Unmarshal(state, &m.S); err != nil {
		return fmt.Errorf("decode state of agent: %w", err)
	}
	m.was = standing{m.S.Status, m.S.Reason}
	return nil
}

// Finish completes the commit with the state, what of the head is new and the next instant at which to look again.
func (m *Machine) Finish() *Commit {
	m.C.State = Encode(&m.S)
	if m.S.Status != m.was.status || m.S.Status != m.F.Status {
		m.head(HeadStatus, string(m.S.Status))
	}
	if m.S.Reason != m.was.reason {
		m.head(HeadReason, m.S.Reason)
	}
	m.C.Due = m.Alarm()
	return &m.C
}

func (m *Machine) head(field, value string) {
	if m.C.Head == nil {
		m.C.Head = map[string]string{}
	}
	m.C.Head[field] = value
}

func (m *Machine) event(typ string, data any) {
	b, err := json.Marshal(data)
	if err != nil {
		panic("encode event: " + err.Error()) // made of strings and numbers
	}
	m.C.Events = append(m.C.Events, Event{Type: typ, Data: b})
}

// messagePending is the data of the event of that name.
type messagePending struct {
	MessageID string  `json:"message_id"`
	Role      Role    `json:"role"`
	Channel   Channel `json:"channel"`
}

func (m *Machine) command(kind string, body any) {
	m.C.Commands = append(m.C.Commands, Command{Kind: kind, Body: Encode(body)})
}

// PutSpec stores a new spec in this step.
func (m *Machine) PutSpec(s Spec) {
	m.Spec = s
	m.C.Spec = Encode(&m.Spec)
	m.head(HeadCard, string(s.MakeCard()))
}

// setStatus moves the status and tells it.
func (m *Machine) setStatus(to Status, reason string) {
	if m.S.Status != to {
		m.event("agent.status", map[string]any{"status": to, "previous": m.S.Status, "reason": orNil(reason)})
	}
	m.S.Status, m.S.Reason = to, reason
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Command applies a status command (§7). Pod and turn follow: stop cancels the turn (LIFE-4), leaving stopped or error
// asks for a pod at once.
func (m *Machine) Command(verb Verb) error {
	if m.S.Deleting {
		return Gone()
	}
	from := m.S.Status
	to, err := from.Next(verb)
	if err != nil || to == from {
		return err
	}
	m.setStatus(to, "")
	switch to {
	case Stopped:
		m.cancel("stop")
		m.wantPod(false, "stopped")
	case Active, Paused:
		if from == Stopped || from == Errored {
			m.S.Pod.Failed, m.S.Pod.RetryMS = 0, 0
			m.S.ActiveMS = m.Now
			m.wantPod(true, "woken")
		}
	}
	return nil
}

// Gone is the answer for an agent that is deleted or being deleted.
func Gone() error { return fault.New(fault.NotFound, "not_found", "Agent not found") }

// Fail moves the agent to error (LIFE-9): the running turn fails, the pod goes.
func (m *Machine) Fail(reason string) {
	if m.S.Status == Stopped || m.S.Status == Errored || m.S.Deleting {
		return
	}
	m.setStatus(Errored, reason)
	m.notifyError("agent_error", reason)
	if m.cancel("agent_error"); m.S.Turn != nil {
		m.finalize()
	}
	m.wantPod(false, "error")
	m.stopPod("error")
}

// Delete begins LIFE-6: from this commit on the agent is 404 everywhere.
func (m *Machine) Delete(force bool) error {
	if m.S.Deleting {
		return Gone()
	}
	if m.S.Turn != nil && !force {
		return fault.New(fault.Conflict, "turn_running", "A turn is running; set force to cancel it and delete")
	}
	m.S.Deleting = true
	if m.S.Turn != nil {
		m.cancel("delete")
		m.finalize()
	}
	m.head(HeadDeleted, "1")
	m.wantPod(false, "deleted")
	m.stopPod("deleted")
	return nil
}

// ChangeBalance sets or adds to the balance (BAL-1). The bounds are checked by the store in the same step.
func (m *Machine) ChangeBalance(ch BalanceChange) error {
	if m.S.Deleting {
		return Gone()
	}
	m.C.Balance = &ch
	return nil
}

// wantPod records whether a pod is wanted; lookPod acts on it once no turn stands in the way.
func (m *Machine) wantPod(want bool, why string) {
	p := &m.S.Pod
	if p.Want != want || !want {
		p.Why = why
	}
	p.Want = want
}

// orderly are the reasons to stop a pod for which its runner is told to shut down and may say goodbye (RUN-11): its key dies
// when the pod is gone. In every other case the key is dead from this commit on.
var orderly = map[string]bool{"stopped": true, "evicted": true, "scaled_to_zero": true, "replaced": true}

// stopPod gives the present incarnation up; it must be confirmed gone before the next one may start (POD-1).
func (m *Machine) stopPod(why string) {
	p := &m.S.Pod
	if p.Phase != PodStarting && p.Phase != PodUp {
		return
	}
	if m.F.RunnerLive() {
		m.shutdownRunner(why)
	}
	p.Phase, p.Why = PodStopping, why
	m.head(HeadLease, "")
	m.F.LeaseMS = 0
	if !orderly[why] || m.S.Deleting {
		m.head(HeadIncarnation, "")
	}
}

func (m *Machine) shutdownRunner(why string) {
	reason := map[string]string{"scaled_to_zero": "scale_to_zero", "deleted": "delete", "replaced": "replaced", "lost": "restart"}[why]
	if reason == "" {
		reason = "stop"
	}
	m.command("shutdown", map[string]any{"reason": reason, "grace_ms": ShutdownGrace.Milliseconds()})
}

// PodStatus is what the owner sees (LIFE-8).
func (m *Machine) PodStatus() PodStatus { return PodStatusOf(&m.S, &m.F) }

// PodStatusOf derives the owner's view of the pod.
func PodStatusOf(s *State, f *Figures) PodStatus {
	switch {
	case s.Status == Errored:
		return PodError
	case s.Pod.Phase == PodUp && f.RunnerLive():
		return PodRunning
	case s.Pod.Phase == PodAbsent && s.Pod.Want && s.Pod.Failed > 0:
		return PodError
	case s.Pod.Phase == PodStarting || s.Pod.Phase == PodUp || s.Pod.Phase == PodAbsent && s.Pod.Want:
		return PodPending
	}
	return PodNotRunning
}

// Readiness derives LIFE-7.
func Readiness(s *State, f *Figures) (ready bool, pod PodStatus, reason string) {
	pod = PodStatusOf(s, f)
	switch {
	case s.Status == Paused:
		reason = "Agent is paused"
	case s.Status == Stopped:
		reason = "Agent pod is stopped"
	case s.Status == Errored:
		reason = "Agent is in error state: " + s.Reason
	case f.Balance <= 0:
		reason = "Output token balance exhausted"
	case pod == PodNotRunning:
		reason = "Agent pod is scaled to zero; the next message wakes it"
	case pod != PodRunning || s.FilesDue:
		reason = "Agent pod is starting"
	default:
		return true, pod, ""
	}
	return false, pod, reason
}

// Alarm is Due by the store's clock, which rings: where that went back, the agent's own time is ahead of it.
func (m *Machine) Alarm() int64 {
	due := m.Due()
	if due > 0 && m.F.ClockMS > 0 {
		due -= m.Now - m.F.ClockMS
	}
	return due
}

// Due returns the next instant at which the agent must look at itself, in its own time; 0 for none.
func (m *Machine) Due() int64 {
	var due []int64
	s := &m.S
	if s.Deleting {
		return m.Now + 5000
	}
	if len(s.Intents) > 0 {
		due = append(due, m.Now+5000) // in case that this activation ends before they are delivered
	}
	if t := s.Turn; t != nil {
		due = append(due, m.Now+TurnLook.Milliseconds())
		switch {
		case t.Cancel != nil:
			due = append(due, t.Cancel.DueMS)
		default:
			due = append(due, t.DeadlineMS)
			if t.SentMS > 0 && !t.Accepted {
				if !t.Resent {
					due = append(due, t.SentMS+AcceptResend.Milliseconds())
				} else {
					due = append(due, t.SentMS+AcceptLost.Milliseconds())
				}
			}
		}
	}
	if c := s.Compaction; c != nil && c.SentMS > 0 {
		due = append(due, c.SentMS+CompactTimeout.Milliseconds())
	} else if c != nil {
		due = append(due, max(c.RetryMS, m.Now+100))
	}
	if m.remindMS > 0 {
		due = append(due, m.remindMS)
	}
	if s.Pod.Phase == PodUp && (s.Turn != nil || s.Pod.Want) {
		lease := max(m.F.LeaseMS, m.Now)
		due = append(due, lease+1000)
	}
	if s.Pod.Want && s.Pod.Phase == PodAbsent {
		due = append(due, max(s.Pod.RetryMS, m.Now+100))
	}
	if s.Pod.Phase == PodStarting && s.Pod.Waiting {
		due = append(due, m.Now+WaitingLook.Milliseconds())
	}
	if s.Pod.Phase == PodStarting && !s.Pod.Waiting {
		due = append(due, s.Pod.StartedMS+m.Set.StartTimeout.Milliseconds())
	}
	if s.SlotMS > 0 {
		at := s.SlotMS
		if at <= m.Now {
			at = m.Now + SlotLook.Milliseconds() // it is worked out now; this is in case that it cannot be
		}
		due = append(due, at)
	}
	if s.Owed > 0 && s.NotifyMS > 0 {
		at := s.NotifyMS
		if at <= m.Now {
			at = m.Now + deliveryLook.Milliseconds() // the notifier is told now; this is in case that it cannot be
		}
		due = append(due, at)
	}
	for _, h := range s.Relays {
		if h.NextMS <= m.Now {
			due = append(due, m.Now+relayLook.Milliseconds()) // it is worked on now; this is in case that it cannot be
		} else {
			due = append(due, h.NextMS)
		}
	}
	if s.Sweeping || m.BotsDue() || m.RoutesDue() {
		due = append(due, m.Now+deliveryLook.Milliseconds())
	}
	if s.Resize > 0 {
		due = append(due, m.Now+ResizeLook.Milliseconds())
	}
	if s.Pod.Phase == PodStopping {
		due = append(due, m.Now+5000)
	}
	if w := m.warmthEnd(); w > 0 {
		due = append(due, w)
	}
	if len(due) == 0 {
		return 0
	}
	return slices.Min(due)
}

// warmthEnd returns when an idle pod is scaled to zero, 0 for never or not idle (POD-4).
func (m *Machine) warmthEnd() int64 {
	s := &m.S
	if s.Pod.Phase != PodUp || s.Turn != nil || m.Spec.WarmthMS == nil || s.Update != "" || s.Compaction != nil {
		return 0
	}
	return max(s.ActiveMS+*m.Spec.WarmthMS, s.HoldMS)
}
