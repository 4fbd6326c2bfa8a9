package agent

import (
	"cmp"
	"encoding/json"
	"hash/fnv"
	"net/url"
	"slices"
	"strings"
	"time"

	"troupe/actors/fault"
)

// Events that an agent's webhooks tell of (OUT-1), under their canonical names (OUT-2).
const (
	EventComplete = "message_complete"
	EventFailed   = "message_failed"
	EventAwaiting = "task_awaiting_input"
	EventError    = "agent_error"
)

// WebhookEvents lists them.
var WebhookEvents = []string{EventComplete, EventFailed, EventAwaiting, EventError}

// legacyEvents are the names under which tasks know them (LEG-7).
var legacyEvents = map[string]string{EventComplete: "task_complete", EventFailed: "task_failed", EventAwaiting: "task_awaiting_input"}

// Limits of deliveries (OUT-5, OUT-7, OUT-8).
const (
	AttemptTimeout  = 10 * time.Second
	DeliveryBudget  = 24 * time.Hour      // from the first attempt to the last
	DeliveryAge     = 30 * 24 * time.Hour // how long the log keeps them
	MaxFlying       = 8                   // attempts under way per agent
	MaxRetryAfter   = time.Hour
	MaxGrace        = 7 * 24 * time.Hour // of a replaced signing secret
	DefaultGrace    = 24 * time.Hour
	MaxDeliveryNote = 500             // code points of last_error
	deliveryLook    = 5 * time.Second // while attempts are under way, in case that this activation ends
	lastDelay       = 4 * time.Hour
)

// deliveryDelays are the pauses after failed attempts; then it is lastDelay (OUT-8).
var deliveryDelays = []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, 135 * time.Second, 405 * time.Second, 1215 * time.Second, 3645 * time.Second, 10935 * time.Second}

// How far a delivery has come. Dead is a dead letter: given up, kept with its reason.
const (
	DeliveryPending = "pending"
	DeliveryDone    = "delivered"
	DeliveryDead    = "dead"
)

// Delivery is one event on its way to a webhook: an entry of the outbox while it is pending, of the log for DeliveryAge. What is sent is
// a record of its own, made in the step of the cause and never changed (OUT-3).
type Delivery struct {
	ID          string    `json:"id"`
	Event       string    `json:"event"`
	URL         string    `json:"url"`
	Callback    bool      `json:"callback,omitempty"` // of one task, not of the configuration (LEG-7)
	Gen         int       `json:"gen,omitempty"`      // State.HookGen of the event when it was made
	Message     MessageID `json:"message,omitempty"`
	Status      string    `json:"status"`
	Attempts    int       `json:"attempts,omitempty"`
	Tries       int       `json:"tries,omitempty"`    // attempts of the present budget
	FirstMS     int64     `json:"first_ms,omitempty"` // and when it began
	CreatedMS   int64     `json:"created_ms"`
	NextMS      int64     `json:"next_ms,omitempty"`
	DeliveredMS int64     `json:"delivered_ms,omitempty"`
	Code        int       `json:"code,omitempty"` // of the last answer; 0: none
	Error       string    `json:"error,omitempty"`
}

// Outgoing is a delivery with what is to be sent.
type Outgoing struct {
	Delivery
	Payload []byte
}

// Attempt is what became of one attempt.
type Attempt struct {
	Code  int           // 0: no answer
	Error string        // why it is no success, safe to show
	After time.Duration // Retry-After of the receiver
}

// payload is the body of an event. All members but the last are always there.
type payload struct {
	Event     string          `json:"event"`
	ID        string          `json:"delivery_id"`
	Agent     ID              `json:"agent_id"`
	Message   *string         `json:"message_id"`
	Reply     *string         `json:"reply_id"`
	Content   *string         `json:"content"`
	Error     *string         `json:"error"`
	Reason    *string         `json:"reason"`
	Metadata  json.RawMessage `json:"metadata"`
	Session   *string         `json:"session_id"`
	Turn      *string         `json:"turn_id"`
	At        string          `json:"occurred_at"`
	LegacyAs  string          `json:"legacy_event,omitempty"`
	toMessage MessageID
}

func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// DeliveryID is the id as the outside knows it.
func DeliveryID(id string) string { return "whd_" + id }

// owe puts an event into the outbox, in the step of its cause (OUT-6). An empty URL is owed nothing.
func (m *Machine) owe(to string, callback bool, p payload) {
	if to == "" || m.S.Deleting { // OUT-10
		return
	}
	d := Delivery{ID: m.NewID(), Event: p.Event, URL: to, Callback: callback, Message: p.toMessage, Status: DeliveryPending, CreatedMS: m.Now, NextMS: m.Now}
	if !callback {
		d.Gen = m.S.HookGen[p.Event]
	}
	p.ID, p.Agent, p.At = DeliveryID(d.ID), m.Spec.ID, Stamp(m.Now)
	if p.toMessage != "" {
		p.Message = some(p.toMessage.String())
	}
	if len(p.Metadata) == 0 {
		p.Metadata = json.RawMessage("{}")
	}
	body := Encode(&p)
	m.record(Record{Kind: RecordPayload, ID: d.ID, Body: body})
	m.putDelivery(&d)
	m.S.Owed++
	m.S.NotifyMS = m.Now
	if len(m.Fresh) < MaxFlying {
		m.Fresh = append(m.Fresh, Outgoing{d, body})
	}
}

// putDelivery stores a delivery in the log, and in the outbox while it is pending.
func (m *Machine) putDelivery(d *Delivery) {
	body := Encode(d)
	m.record(Record{Kind: RecordDelivery, ID: d.ID, Score: d.CreatedMS, Body: body})
	if d.Status != DeliveryPending {
		body = nil
	}
	m.record(Record{Kind: RecordOwed, ID: d.ID, Score: d.NextMS, Body: body})
}

// eventOf is the event that tells of an outcome (OUT-1).
func eventOf(o Outcome) string {
	return map[Outcome]string{Completed: EventComplete, AwaitingInput: EventAwaiting, Failed: EventFailed, Cancelled: EventFailed}[o]
}

// reasons are failures for people; where the runner told what happened, that is said instead.
var reasons = map[string]string{
	"timeout": "The turn took too long", "interrupted": "The turn was interrupted by another message", "cancelled": "The message was cancelled",
	"balance_exhausted": "The output token balance is exhausted", "runner_lost": "The runner was lost three times", "agent_error": "The agent failed",
}

func failure(outcome Outcome, reason, told string) *string {
	if outcome != Failed && outcome != Cancelled {
		return nil
	}
	return some(cmp.Or(told, reasons[reason], reason, string(outcome)))
}

// notifyEntry tells what became of one message of the running turn.
func (m *Machine) notifyEntry(e *Entry, outcome Outcome, reason string) {
	t, event := m.S.Turn, eventOf(outcome)
	to := m.Spec.Config.Webhooks[event]
	if to == "" {
		return
	}
	p := payload{Event: event, toMessage: e.ID, Reason: some(reason), Error: failure(outcome, reason, t.Error), Session: some(string(t.Session)), Turn: some(string(t.ID)),
		Content: m.text(e.Reply), Reply: replyID(e.Reply)}
	if t.Task != "" {
		p.LegacyAs = legacyEvents[event]
	}
	if e.Metadata {
		p.Metadata = m.loaded(e.ID).Metadata
	}
	m.owe(to, false, p)
}

// notifyDropped tells of a message that left the queue without a turn.
func (m *Machine) notifyDropped(x *Message) {
	p := payload{Event: EventFailed, toMessage: x.ID, Reason: some(x.Reason), Error: failure(Cancelled, "cancelled", ""), Metadata: x.Metadata}
	if x.TaskID() != "" {
		p.LegacyAs = legacyEvents[EventFailed]
	}
	m.owe(m.Spec.Config.Webhooks[EventFailed], false, p)
}

// callBack tells a task's caller that it is over or waits for input (LEG-7).
func (m *Machine) callBack(to string, task *Task) {
	if to == "" || task.Status == "" {
		return
	}
	p := payload{Event: eventOf(task.Status), toMessage: task.ID, Content: m.text(task.Reply), Reply: replyID(task.Reply)}
	p.LegacyAs = legacyEvents[p.Event]
	if t := m.S.Turn; t != nil && t.Task == task.ID {
		p.Session, p.Turn = some(string(t.Session)), some(string(t.ID))
		p.Reason, p.Error = some(t.Reason), failure(task.Status, t.Reason, t.Error)
	} else {
		p.Reason, p.Error = some("cancelled"), failure(task.Status, "cancelled", "")
	}
	m.owe(to, true, p)
}

// notifyError tells that the agent, or a part of it, failed in a way that its owner should know (OUT-1).
func (m *Machine) notifyError(reason, why string) {
	m.owe(m.Spec.Config.Webhooks[EventError], false, payload{Event: EventError, Reason: &reason, Error: &why})
}

func replyID(id MessageID) *string {
	if id == "" {
		return nil
	}
	return some(id.String())
}

// text is the content of a reply: of this step, or loaded for it.
func (m *Machine) text(reply MessageID) *string {
	if reply == "" {
		return nil
	}
	for i := range m.C.Append {
		if m.C.Append[i].ID == reply {
			return &m.C.Append[i].Body.Content
		}
	}
	content := m.loaded(reply).Content
	return &content
}

// loaded returns a message that the step needs. One that is not there is asked for by Missing, and the step is decided again.
func (m *Machine) loaded(id MessageID) Message {
	x, ok := m.Loaded[id]
	if !ok && !slices.Contains(m.Missing, id) {
		m.Missing = append(m.Missing, id)
	}
	return x
}

// retryDelay is the pause after the nth try of a budget, within a fifth of the table at a place that is the same for every node.
func retryDelay(id string, tries int) time.Duration {
	d := lastDelay
	if tries <= len(deliveryDelays) {
		d = deliveryDelays[tries-1]
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // a hash takes everything
	_, _ = h.Write([]byte{byte(tries)})
	return d*4/5 + time.Duration(float64(d)*0.4*float64(h.Sum32())/float64(1<<32))
}

// Attempted takes in an attempt and returns what became of the delivery: delivered, retried or dead. Next is the earliest of the other
// pending ones that nobody works on, 0 for none; flying how many are under way.
func (m *Machine) Attempted(d Delivery, a Attempt, next int64, flying int) string {
	if m.S.Deleting {
		return "dropped"
	}
	d.Attempts++
	d.Tries++
	if d.FirstMS == 0 {
		d.FirstMS = m.Now
	}
	d.Code, d.Error = a.Code, clip(a.Error, MaxDeliveryNote)
	delay := max(retryDelay(d.ID, d.Tries), min(a.After, MaxRetryAfter))
	d.NextMS = m.Now + delay.Milliseconds()
	result := "retried"
	switch {
	case a.Code >= 200 && a.Code < 300:
		d.Status, d.DeliveredMS, d.Error, result = DeliveryDone, m.Now, "", DeliveryDone
	case !d.Callback && (m.Spec.Config.Webhooks[d.Event] == "" || m.S.Removed(&d)):
		d.Error = removed
		fallthrough
	case a.Code == 410, d.NextMS > d.FirstMS+DeliveryBudget.Milliseconds():
		d.Status, result = DeliveryDead, DeliveryDead
	}
	if d.Status != DeliveryPending {
		d.NextMS = 0
		m.S.Owed--
	}
	m.putDelivery(&d)
	m.S.NotifyMS = 0
	for _, at := range []int64{next, d.NextMS} {
		m.notifyAt(at)
	}
	if flying > 0 {
		m.notifyAt(m.Now + deliveryLook.Milliseconds())
	}
	return result
}

func (m *Machine) notifyAt(at int64) {
	if at > 0 && (m.S.NotifyMS == 0 || at < m.S.NotifyMS) {
		m.S.NotifyMS = at
	}
}

const removed = "The URL was removed"

// dropWebhooks notes that URLs were removed: what is pending for them is given up (OUT-10).
func (m *Machine) dropWebhooks(old, now map[string]string) {
	for _, event := range WebhookEvents {
		if old[event] != "" && now[event] == "" {
			if m.S.HookGen == nil {
				m.S.HookGen = map[string]int{}
			}
			m.S.HookGen[event]++
			m.S.Sweeping = m.S.Owed > 0
		}
	}
}

// Removed says whether the URL of a delivery was removed after it was made, or made anew.
func (s *State) Removed(d *Delivery) bool { return !d.Callback && d.Gen != s.HookGen[d.Event] }

// GiveUp gives up those of a page of pending deliveries whose URL was removed; it returns how many are kept. Last says that the page is the
// last one. Those under way are left to their attempt; one that is missed is not sent either, when its time comes.
func (m *Machine) GiveUp(page []Delivery, last bool, flying []string) (kept int) {
	for _, d := range page {
		if !m.S.Removed(&d) || slices.Contains(flying, d.ID) {
			kept++
			continue
		}
		d.Status, d.NextMS, d.Error = DeliveryDead, 0, removed
		m.S.Owed--
		m.putDelivery(&d)
	}
	if last {
		m.S.Sweeping = false
	}
	if m.S.Owed == 0 {
		m.S.NotifyMS = 0
	}
	return kept
}

// Recount takes in what the outbox holds, and the earliest instant in it.
func (m *Machine) Recount(owed, next int64) { m.S.Owed, m.S.NotifyMS = owed, next }

// Forgotten says whether the log no longer keeps the delivery (OUT-8).
func (d *Delivery) Forgotten(nowMS int64) bool {
	return d.Status != DeliveryPending && d.CreatedMS < nowMS-DeliveryAge.Milliseconds()
}

// Prune drops those of the oldest deliveries that the log no longer keeps, and returns how many.
func (m *Machine) Prune(oldest []Delivery) (dropped int) {
	for _, d := range oldest {
		if d.Forgotten(m.Now) {
			m.record(Record{Kind: RecordDelivery, ID: d.ID})
			m.record(Record{Kind: RecordPayload, ID: d.ID})
			dropped++
		}
	}
	return dropped
}

// NoDelivery is the answer for an id that is no delivery of the agent.
func NoDelivery() error { return fault.New(fault.NotFound, "not_found", "Delivery not found") }

// Redeliver puts a delivery that is over back into the outbox, with a new budget and the URL that is configured now.
func (m *Machine) Redeliver(d Delivery) (Delivery, error) {
	to := d.URL
	if !d.Callback {
		to = m.Spec.Config.Webhooks[d.Event]
	}
	switch {
	case m.S.Deleting:
		return d, Gone()
	case d.Status == DeliveryPending:
		return d, fault.New(fault.Conflict, "delivery_pending", "The delivery is still pending")
	case to == "":
		return d, fault.Newf(fault.Conflict, "webhook_not_configured", "The agent has no URL for %s", d.Event)
	}
	if !d.Callback {
		d.Gen = m.S.HookGen[d.Event]
	}
	d.URL, d.Status, d.Tries, d.FirstMS, d.NextMS, d.DeliveredMS = to, DeliveryPending, 0, 0, m.Now, 0
	m.putDelivery(&d)
	m.S.Owed++
	m.S.NotifyMS = m.Now
	return d, nil
}

// Rotate replaces the signing secret by a sealed one (OUT-5). The present one, sealed anew for its other slot, goes on signing for grace.
// It returns until when, 0 if it does not.
func (m *Machine) Rotate(sealed, previous string, grace time.Duration) (untilMS int64, err error) {
	if m.S.Deleting {
		return 0, Gone()
	}
	next := m.Spec.Clone()
	if next.Sealed == nil {
		next.Sealed = map[string]string{}
	}
	delete(next.Sealed, SlotWebhookOld)
	next.FormerMS = 0
	if previous != "" && grace > 0 {
		next.Sealed[SlotWebhookOld], next.FormerMS = previous, m.Now+grace.Milliseconds()
	}
	next.Sealed[SlotWebhook] = sealed
	m.PutSpec(next)
	return next.FormerMS, nil
}

// ShownURL is a receiver's address without what may be secret in it.
func ShownURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.Fragment = nil, ""
	if u.RawQuery != "" {
		parts := strings.Split(u.RawQuery, "&")
		for i, p := range parts {
			if name, _, has := strings.Cut(p, "="); has {
				parts[i] = name + "=***"
			}
		}
		u.RawQuery = strings.Join(parts, "&")
	}
	return u.String()
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}
