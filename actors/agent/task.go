package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// Priorities of the queue (QUE-6). A plain message counts as 5; input to a task that has begun comes before everything.
const (
	plainPriority = 5
	inputPriority = 11
)

// SourceTask is the source of tasks and of input to them.
const SourceTask = "task"

// TaskBody is what a message of source "task" carries besides its text (§29).
type TaskBody struct {
	Of       MessageID `json:"of,omitempty"` // the task that this is input to; "" for a task itself
	Priority int       `json:"priority,omitempty"`
	TimeoutS int64     `json:"timeout_s,omitempty"` // 0: the agent's (TURN-4)
	Callback string    `json:"callback,omitempty"`  // where the final event goes (LEG-7)
}

// IsTask says whether the message is a task, rather than input to one or a plain message.
func (b *Body) IsTask() bool { return b.Task != nil && b.Task.Of == "" }

// Rank is the message's place in the queue relative to plain ones: higher ranks come first, then the order of acceptance.
func (b *Body) Rank() int {
	if b.Task == nil {
		return 0
	}
	return b.Task.Priority - plainPriority
}

// TaskID returns the task that the message is, or is input to; "" for a plain one.
func (m *Message) TaskID() MessageID {
	switch {
	case m.Task == nil:
		return ""
	case m.Task.Of != "":
		return m.Task.Of
	}
	return m.ID
}

// Place is where a message returns to in the queue (LIFE-4).
type Place struct {
	Seq  int64
	Rank int
}

// rankStep keeps the ranks of the queue apart: sequences stay below it.
const rankStep = 1 << 49

// Score orders the queue in one number, the least first. It is exact in a double.
func (p Place) Score() int64 { return p.Seq - int64(p.Rank)*rankStep }

// TakeTurn returns what the head of the queue starts (QUE-2, QUE-6): a plain message takes all plain ones, a task only itself
// and what was sent to it.
func TakeTurn(pending []Message) []Message {
	if len(pending) == 0 {
		return nil
	}
	head := pending[0].TaskID()
	if !slices.ContainsFunc(pending, func(m Message) bool { return m.TaskID() != head }) && head == "" {
		return TakeBatch(pending)
	}
	var batch []Message
	for _, m := range pending {
		if m.TaskID() == head {
			batch = append(batch, m)
		}
	}
	slices.SortFunc(batch, func(a, b Message) int { return cmp.Compare(a.Seq, b.Seq) })
	return TakeBatch(batch)
}

// Task is the record of a task whose first turn has begun, or that was cancelled before. Without one it is queued (LEG-3).
type Task struct {
	ID          MessageID       `json:"id"`
	Status      Outcome         `json:"status,omitempty"` // "": running
	EndedMS     int64           `json:"ended_ms,omitempty"`
	CancelledMS int64           `json:"cancelled_ms,omitempty"`
	Step        *Step           `json:"step,omitempty"`
	Result      json.RawMessage `json:"result,omitempty"`
	Error       string          `json:"error,omitempty"`
	Reply       MessageID       `json:"reply,omitempty"` // the last reply of the last turn
}

// Step is how far a task has come, as its runner tells.
type Step struct {
	Current   string `json:"current_step,omitempty"`
	Completed *int64 `json:"steps_completed,omitempty"`
	Total     *int64 `json:"total_steps,omitempty"`
}

// NoTask is the answer for an id that is no task of the agent (LEG-3).
func NoTask() error { return fault.New(fault.NotFound, "not_found", "Task not found") }

// LoadTask reads the record of a task, nil for one that is queued.
func LoadTask(ctx context.Context, s Records, id ID, task MessageID) (*Task, error) {
	b, err := s.Record(ctx, id, RecordTask, string(task))
	if err != nil || b == nil {
		return nil, err
	}
	var t Task
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("decode task %s: %w", task, err)
	}
	return &t, nil
}

// Final says whether the task is over.
func (t *Task) Final() bool { return t != nil && t.Status != "" && t.Status != AwaitingInput }

// StatusText is the state as the oldest generation names it.
func (t *Task) StatusText() string {
	switch {
	case t == nil:
		return "queued"
	case t.Status == "":
		return "running"
	}
	return string(t.Status)
}

func (m *Machine) putTask(t Task) {
	m.record(Record{Kind: RecordTask, ID: string(t.ID), Score: m.Now, Body: Encode(t)})
}

// putRunning stores how far the task of the running turn has come; it may have been cancelled already.
func (m *Machine) putRunning() {
	t := m.S.Turn
	r := Task{ID: t.Task, Step: t.Step}
	if c := t.Cancel; c != nil && c.AskedMS > 0 {
		r.Status, r.CancelledMS = Cancelled, c.AskedMS
	}
	m.putTask(r)
}

// dropOver takes input out of the queue whose task is over: it stood too far back when that happened.
func (m *Machine) dropOver() {
	for _, x := range m.Queued {
		if m.Over[x.TaskID()] && !slices.Contains(m.C.Take, x.ID) {
			m.dropMessage(x)
		}
	}
}

// waits says whether input to a task stands in the queue.
func (m *Machine) waits(task MessageID) bool {
	return slices.ContainsFunc(m.Queued, func(x Message) bool {
		return x.Task != nil && x.Task.Of == task && !slices.Contains(m.C.Take, x.ID)
	})
}

// goesOn says whether a task's session stays open after the running turn, which ends like that: for the answer it waits for,
// or for input that stands in the queue (LEG-6).
func (m *Machine) goesOn(outcome Outcome) bool {
	t := m.S.Turn
	if t.Task == "" || m.S.Deleting {
		return false
	}
	switch c := t.Cancel; {
	case c == nil:
	case c.Requeue: // stopped: input that returned to the queue goes on there
		return m.returned() && !m.returns(t.Task)
	case c.AskedMS > 0 || c.Command == "cancelled" || c.Command == "delete":
		return false
	}
	return outcome == AwaitingInput || m.waits(t.Task)
}

// returns says whether a message of the running turn goes back to the queue in this step, returned whether any does (LIFE-4).
func (m *Machine) returns(id MessageID) bool { _, back := m.C.Requeue[id]; return back }

func (m *Machine) returned() bool {
	return slices.ContainsFunc(m.S.Turn.Batch, func(e Entry) bool { return m.returns(e.ID) })
}

// endTask brings the record of the running turn's task up to date (LEG-5, LEG-6).
func (m *Machine) endTask(outcome Outcome, reason string) {
	t := m.S.Turn
	if t.Task == "" {
		return
	}
	if m.returns(t.Task) {
		m.record(Record{Kind: RecordTask, ID: string(t.Task)})
		return
	}
	back := m.returned() // only its input did
	if back {
		outcome = AwaitingInput
	}
	out := Task{ID: t.Task, Step: t.Step, Result: t.Result}
	if n := len(t.Replies); n > 0 {
		out.Reply = t.Replies[n-1]
	}
	if outcome == AwaitingInput || !m.goesOn(outcome) {
		out.Status, out.EndedMS = outcome, m.Now
	}
	if out.Status == Failed {
		if out.Error = t.Error; out.Error == "" {
			out.Error = reason
		}
	}
	if out.Status == Cancelled {
		out.CancelledMS = m.Now
		if t.Cancel != nil && t.Cancel.AskedMS > 0 {
			out.CancelledMS = t.Cancel.AskedMS
		}
	}
	m.putTask(out)
	if !back { // else it was told before
		m.callBack(t.Callback, &out)
	}
}

// CancelTask cancels a queued or running task (LEG-8) and returns when. Known is its record, nil for none; msg the task.
func (m *Machine) CancelTask(msg Message, known *Task) (int64, error) {
	if m.S.Deleting {
		return 0, Gone()
	}
	if known != nil && known.Status == Cancelled {
		return known.CancelledMS, nil
	}
	if known.Final() {
		return 0, fault.Newf(fault.Invalid, "invalid_state", "The task is %s", known.Status)
	}
	if t := m.S.Turn; t != nil && t.Task == msg.ID {
		if t.Cancel != nil && t.Cancel.Outcome != Cancelled {
			return 0, fault.Newf(fault.Invalid, "invalid_state", "The task is ending as %s", t.Cancel.Outcome)
		}
		if m.cancel("cancelled"); t.Cancel.AskedMS == 0 {
			t.Cancel.AskedMS = m.Now
		}
		t.Cancel.Requeue = false // also when the agent is being stopped
		m.putRunning()
		m.dropQueued(msg.ID)
		return t.Cancel.AskedMS, nil
	}
	m.dropQueued(msg.ID)
	if msg.Status == Pending && !slices.Contains(m.C.Take, msg.ID) { // it stands too far back to be among the first
		m.dropMessage(msg)
	}
	if s := m.S.Session; s != nil && s.Task == msg.ID && s.Mode == Ephemeral {
		m.closeSession("interrupted")
	}
	over := Task{ID: msg.ID, Status: Cancelled, CancelledMS: m.Now}
	m.putTask(over)
	m.callBack(msg.Task.Callback, &over)
	return m.Now, nil
}

// dropQueued cancels a task and its input where they stand in the queue.
func (m *Machine) dropQueued(task MessageID) {
	for _, x := range m.Queued {
		if x.TaskID() == task && !slices.Contains(m.C.Take, x.ID) {
			m.dropMessage(x)
		}
	}
}

func (m *Machine) dropMessage(x Message) {
	m.C.Take = append(m.C.Take, x.ID)
	m.F.Pending--
	m.C.Marks = append(m.C.Marks, MarkPut{ID: x.ID, Party: x.Counterparty, Unread: -1, Mark: Mark{Status: Read, ReadMS: m.Now, Outcome: Cancelled, Reason: "cancelled"}})
	m.event("message.failed", map[string]any{"message_id": x.ID.String(), "role": RoleUser, "channel": x.Channel, "reason": "cancelled"})
	x.Reason = "cancelled"
	m.notifyDropped(&x)
}

// TaskInput returns the body of input to a task, with its place in the queue: right behind a task that is queued, before
// everything once it has begun (LEG-6).
func TaskInput(task Message, known *Task, text string) (Body, error) {
	if known.Final() {
		return Body{}, fault.Newf(fault.Invalid, "invalid_state", "The task is %s", known.Status)
	}
	b := task.Body
	b.Content, b.Metadata, b.SourceUUID = text, nil, string(task.ID)
	b.Task = &TaskBody{Of: task.ID, Priority: task.Task.Priority, TimeoutS: task.Task.TimeoutS, Callback: task.Task.Callback}
	if known != nil {
		b.Task.Priority = inputPriority
	}
	return b, nil
}

// ReadTask reads the body of "submit a task". The result lacks its sender.
func ReadTask(doc *field.Value, set Settings) (Body, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	r.Require("message")
	t := &TaskBody{Priority: plainPriority}
	b := Body{Role: RoleUser, Channel: ChannelAPI, QueueMode: "collect", Source: SourceTask, Task: t}
	b.Content = ReadContent(r, "message")
	if n, ok := r.Int("priority", 1, 10, false); ok {
		t.Priority = int(n)
	}
	t.TimeoutS, _ = r.Int("timeout_override", 1, MaxTimeoutSeconds, false)
	b.Metadata = ReadMetadata(r, "metadata")
	mode, _ := r.String("callback_mode", field.Text{Enum: []string{"poll", "webhook"}})
	url, ok := ReadURL(r, "webhook_url", set)
	switch {
	case mode != "webhook":
	case ok:
		t.Callback = url
	case !r.Has("webhook_url"):
		r.Fail("webhook_url", "is required with callback_mode webhook")
	}
	return b, errs.Err()
}

// ReadTaskInput reads the body of "send input to a task".
func ReadTaskInput(doc *field.Value) (string, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	r.Require("message")
	text := ReadContent(r, "message")
	return text, errs.Err()
}
