package agent

import (
	"encoding/json"
	"strings"
	"testing"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// task puts a task, or input to one, into the queue.
func (b *bench) task(id MessageID, body TaskBody) *bench {
	b.say(id)
	b.msgs[id].Source, b.msgs[id].Task = SourceTask, &body
	return b
}

// record returns the newest record of a task, nil for none.
func (b *bench) record(id MessageID) *Task {
	b.t.Helper()
	for i := len(b.log) - 1; i >= 0; i-- {
		for _, r := range b.log[i].Records {
			if r.Kind == RecordTask && r.ID == string(id) {
				if r.Body == nil {
					return nil
				}
				var t Task
				if err := json.Unmarshal(r.Body, &t); err != nil {
					b.t.Fatal(err)
				}
				return &t
			}
		}
	}
	return nil
}

func (b *bench) batch() string {
	if b.m.S.Turn == nil {
		return ""
	}
	var ids []string
	for _, e := range b.m.S.Turn.Batch {
		ids = append(ids, string(e.ID))
	}
	return strings.Join(ids, " ")
}

func (b *bench) cancelTask(id MessageID) (at int64, err error) {
	err = b.step(func(m *Machine) error {
		var err error
		at, err = m.CancelTask(*b.msgs[id], b.record(id))
		return err
	})
	return at, err
}

func TestQUE_6_ATaskHasItsTurnToItself(t *testing.T) {
	b := newBench(t)
	b.task("low", TaskBody{Priority: 1}).say("p1").task("t", TaskBody{Priority: 5}).say("p2").task("high", TaskBody{Priority: 9, TimeoutS: 60}).task("in", TaskBody{Of: "high", Priority: 9}).up()
	for _, want := range []string{"high in", "p1 p2", "t", "low"} {
		if b.accepted(); b.batch() != want {
			t.Fatalf("the turn is of %q, not %q", b.batch(), want)
		}
		if want == "high in" && b.m.S.Turn.DeadlineMS != b.m.Now+60_000 {
			t.Errorf("TURN-4: timeout_override: %d", b.m.S.Turn.DeadlineMS-b.m.Now)
		}
		// what waits cannot be pulled into a turn of another kind
		for id, m := range b.msgs {
			if m.Status == Pending {
				b.must(b.step(func(mm *Machine) error {
					_, ignored, err := mm.MarkBatch(mm.S.Turn.ID, false, []Message{*m}, []MessageID{id})
					if len(ignored) != 1 {
						t.Errorf("%s joined the turn of %s", id, want)
					}
					return err
				}))
			}
		}
		_, err := b.end(Completed)
		b.must(err)
	}
	for _, id := range []MessageID{"low", "t", "high"} {
		if r := b.record(id); r.StatusText() != "completed" || r.Reply == "" || r.EndedMS == 0 {
			t.Errorf("LEG-5: %s %+v", id, r)
		}
	}
}

func TestLEG_6_InputGoesOnInTheSameSession(t *testing.T) {
	b := newBench(t).task("t", TaskBody{Priority: 5}).up().accepted()
	session := b.m.S.Session.ID
	_, err := b.end(AwaitingInput)
	b.must(err)
	if r := b.record("t"); r.StatusText() != "awaiting_input" || r.Final() || b.m.S.Session == nil || b.m.S.Session.ID != session {
		t.Fatalf("%+v, session %+v", r, b.m.S.Session)
	}
	body, err := TaskInput(*b.msgs["t"], b.record("t"), "the answer")
	b.must(err)
	if body.Rank() <= (&Body{Task: &TaskBody{Priority: 10}}).Rank() || body.SourceUUID != "t" || body.IsTask() {
		t.Errorf("%+v", body)
	}
	b.task("in", *body.Task).look()
	if b.accepted(); b.m.S.Turn.Session != session || b.m.S.Turn.Start == "new" && b.m.S.Session.SDK != "" || b.record("t").StatusText() != "running" {
		t.Fatalf("turn %+v, task %s", b.m.S.Turn, b.record("t").StatusText())
	}
	b.task("in2", TaskBody{Of: "t", Priority: inputPriority}).say("plain")
	_, err = b.end(Completed)
	b.must(err)
	if b.batch() != "in2" || b.m.S.Turn.Session != session || b.record("t").StatusText() != "running" {
		t.Fatalf("input that came during the turn: batch %q in %s, task %s", b.batch(), b.m.S.Turn.Session, b.record("t").StatusText())
	}
	b.accepted()
	_, err = b.end(Failed)
	b.must(err)
	if r := b.record("t"); r.StatusText() != "failed" || r.Error == "" {
		t.Errorf("the outcome is that of the last turn: %+v", r)
	}
	if b.batch() != "plain" || b.m.S.Turn.Session == session {
		t.Errorf("the session of a task that is over took %q", b.batch())
	}
	_, err = TaskInput(*b.msgs["t"], b.record("t"), "more")
	if !fault.Is(err, fault.Invalid) || fault.Of(err).Code != "invalid_state" {
		t.Errorf("input to a task that is over: %v", err)
	}
}

func TestLEG_6_AnotherTriggerReplacesTheWaitingSession(t *testing.T) {
	b := newBench(t).task("t", TaskBody{Priority: 5}).up().accepted()
	_, err := b.end(AwaitingInput)
	b.must(err)
	first := b.m.S.Session.ID
	b.say("plain").look()
	if b.m.S.Session.ID == first {
		t.Fatal("a plain message went on in the session of a task")
	}
	replaced := false
	for _, c := range b.log {
		for _, r := range c.Records {
			replaced = replaced || r.Kind == RecordSession && r.ID == string(first) && strings.Contains(string(r.Body), `"end_reason":"replaced"`)
		}
	}
	if !replaced || b.record("t").StatusText() != "awaiting_input" {
		t.Errorf("replaced: %v, task %s", replaced, b.record("t").StatusText())
	}
}

func TestLEG_8_Cancel(t *testing.T) {
	b := newBench(t).task("queued", TaskBody{Priority: 5}).task("in", TaskBody{Of: "queued", Priority: 5})
	at, err := b.cancelTask("queued")
	b.must(err)
	b.wants("queued", Read, Cancelled).wants("in", Read, Cancelled)
	b.m.Now += 1000
	if again, err := b.cancelTask("queued"); err != nil || again != at {
		t.Errorf("cancelled again at %d, not %d: %v", again, at, err)
	}
	if b.up(); b.m.S.Turn != nil {
		t.Error("a cancelled task got a turn")
	}

	b.task("runs", TaskBody{Priority: 5}).look()
	b.accepted()
	b.m.Now += 1000
	at, err = b.cancelTask("runs")
	b.must(err)
	if c := b.m.S.Turn.Cancel; at != b.m.Now || c == nil || c.Command != "cancelled" || b.record("runs").StatusText() != "cancelled" {
		t.Fatalf("%d %+v", at, b.m.S.Turn.Cancel)
	}
	b.m.Now += 5000
	_, err = b.end(Cancelled)
	b.must(err)
	b.wants("runs", Read, Cancelled)
	if r := b.record("runs"); r.CancelledMS != at || r.StatusText() != "cancelled" {
		t.Errorf("%+v", r)
	}

	b.task("done", TaskBody{Priority: 5}).look()
	b.accepted()
	_, err = b.end(Completed)
	b.must(err)
	if _, err := b.cancelTask("done"); !fault.Is(err, fault.Invalid) || fault.Of(err).Code != "invalid_state" {
		t.Errorf("a completed task was cancelled: %v", err)
	}

	b.task("waits", TaskBody{Priority: 5}).look()
	b.accepted()
	_, err = b.end(AwaitingInput)
	b.must(err)
	if _, err := b.cancelTask("waits"); err != nil || b.m.S.Session != nil || b.record("waits").StatusText() != "cancelled" {
		t.Errorf("a waiting task: %v, session %+v", err, b.m.S.Session)
	}
}

func TestLEG_3_ATaskThatReturnsToTheQueueIsQueuedAgain(t *testing.T) {
	b := newBench(t).task("t", TaskBody{Priority: 8}).up().accepted()
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	if _, err := b.end(Cancelled); err != nil {
		t.Fatal(err)
	}
	b.wants("t", Pending, "")
	last := b.log[len(b.log)-1]
	if p := last.Requeue["t"]; b.record("t").StatusText() != "queued" || p.Rank != 3 {
		t.Errorf("%s at %+v", b.record("t").StatusText(), p)
	}
}

func TestLEG_8_ACancelThatWasAnsweredHolds(t *testing.T) {
	// the agent is being stopped, and the turn's end would put the task back
	b := newBench(t).task("t", TaskBody{Priority: 5}).up().accepted()
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	_, err := b.cancelTask("t")
	b.must(err)
	_, err = b.end(Cancelled)
	b.must(err)
	if b.wants("t", Read, Cancelled); b.record("t").StatusText() != "cancelled" {
		t.Errorf("%+v", b.record("t"))
	}

	// the runner reports a step after it
	b = newBench(t).task("t", TaskBody{Priority: 5}).up().accepted()
	_, err = b.cancelTask("t")
	b.must(err)
	b.must(b.step(func(m *Machine) error {
		_, _, err := m.Progress(m.S.Turn.ID, []ProgressEntry{{Seq: 9, Kind: "step", Step: &Step{Current: "late"}}})
		return err
	}))
	if r := b.record("t"); r.StatusText() != "cancelled" || r.Step.Current != "late" {
		t.Errorf("%+v", r)
	}
	if _, err := TaskInput(*b.msgs["t"], b.record("t"), "more"); !fault.Is(err, fault.Invalid) {
		t.Errorf("input to a cancelled task: %v", err)
	}

	// input that stood too far back to be seen starts nothing when its turn comes
	b.task("in", TaskBody{Of: "t", Priority: 1})
	_, err = b.end(Cancelled)
	b.must(err)
	b.look()
	if b.wants("in", Read, Cancelled); b.m.S.Turn != nil || b.record("t").StatusText() != "cancelled" {
		t.Errorf("turn %+v, task %s", b.m.S.Turn, b.record("t").StatusText())
	}
}

func TestLEG_6_AStopPutsInputBackAndKeepsTheSession(t *testing.T) {
	b := newBench(t).task("t", TaskBody{Priority: 5}).up().accepted()
	session := b.m.S.Session.ID
	_, err := b.end(AwaitingInput)
	b.must(err)
	b.task("in", TaskBody{Of: "t", Priority: inputPriority}).look()
	b.accepted()
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	_, err = b.end(Cancelled)
	b.must(err)
	if b.wants("in", Pending, ""); b.record("t").StatusText() != "awaiting_input" || b.m.S.Session == nil || b.m.S.Session.ID != session {
		t.Errorf("task %+v, session %+v", b.record("t"), b.m.S.Session)
	}
	if _, err := TaskInput(*b.msgs["t"], b.record("t"), "more"); err != nil {
		t.Error(err)
	}
}

func TestLEG_7_ACallbackNeedsItsURL(t *testing.T) {
	read := func(s string) (Body, error) {
		doc, err := field.Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return ReadTask(&doc, settings)
	}
	if _, err := read(`{"message":"x","callback_mode":"webhook"}`); err == nil || !strings.Contains(err.Error(), "webhook_url") {
		t.Errorf("%v", err)
	}
	b, err := read(`{"message":"x","callback_mode":"webhook","webhook_url":"https://hooks.acme.test/x"}`)
	if err != nil || b.Task.Callback != "https://hooks.acme.test/x" || b.Task.Priority != 5 || b.Rank() != 0 {
		t.Errorf("%+v %v", b.Task, err)
	}
	for _, bad := range []string{`{}`, `{"message":" "}`, `{"message":"x","priority":11}`, `{"message":"x","priority":0}`, `{"message":"x","timeout_override":0}`, `{"message":"x","callback_mode":"push"}`, `{"message":"x","metadata":{"_a":1}}`} {
		if _, err := read(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
