package agent

import (
	"strings"
	"testing"
)

// reminders counts what the log holds of them, and returns the newest.
func (b *bench) reminders() (n int, last Command) {
	for _, c := range b.log {
		for _, x := range c.Commands {
			if x.Kind == "reminder" {
				n, last = n+1, x
			}
		}
	}
	return n, last
}

// later lets time pass with heartbeats and looks.
func (b *bench) later(ms int64) *bench {
	b.m.Now += ms
	b.m.F.LeaseMS = b.m.Now + RunnerLease.Milliseconds()
	b.look()
	return b
}

func TestREM_3_TheOldestCountsWhateverComesBeforeIt(t *testing.T) {
	b := newBench(t)
	b.m.Spec.Config.ReminderMS = 60_000
	b.say("a").up().accepted()
	b.say("b").later(0)
	want := b.m.Now + 60_000
	b.later(59_000).task("urgent", TaskBody{Priority: 9}).later(0)
	if at, count := b.m.NextReminder(b.pending()); at != want || count != 2 {
		t.Errorf("of %d messages at %d, not %d", count, at, want)
	}
}

func TestREM_3_RemindersComeOncePerInterval(t *testing.T) {
	b := newBench(t)
	b.m.Spec.Config.ReminderMS = 60_000
	b.say("a").up().accepted().later(30_000)
	b.say("b").later(0)
	accepted := b.m.Now
	if at, count := b.m.NextReminder(b.pending()); at != accepted+60_000 || count != 1 || b.m.Due() > at {
		t.Fatalf("the first is due at %d, want one interval after %d", at, accepted)
	}
	if n, _ := b.later(59_000).reminders(); n != 0 {
		t.Fatal("a reminder came early")
	}
	b.say("c")
	n, last := b.later(1_000).reminders()
	if n != 1 || !strings.Contains(string(last.Body), `"message_count":2`) || !strings.Contains(string(last.Body), "Reminder: 2 message(s)") {
		t.Fatalf("REM-2: %d reminders, %s", n, last.Body)
	}
	if n, _ := b.later(30_000).reminders(); n != 1 {
		t.Fatal("a second one within the interval")
	}
	b.m.Spec.Config.ReminderMS = 300_000 // applies from the next firing
	if n, _ := b.later(30_000).reminders(); n != 1 {
		t.Fatal("REM-3: the changed interval was ignored")
	}
	if n, _ := b.later(1_500_000).reminders(); n != 2 { // the node was away for five of them
		t.Fatalf("REM-4: %d reminders, missed ones were made up for", n)
	}
	if log := b.log[len(b.log)-1]; len(log.Confirm) != 1 || log.Confirm[0] != ConfirmReminder {
		t.Errorf("REM-4: the older one is not replaced: %v", log.Confirm)
	}
}

func TestREM_1_NothingIsRemindedOfUnlessATurnRuns(t *testing.T) {
	b := newBench(t)
	b.say("a").later(3_600_000) // no runner
	if n, _ := b.reminders(); n != 0 || b.m.S.Turn != nil {
		t.Fatalf("%d reminders without a turn", n)
	}
	b.up().accepted()
	b.say("b")
	b.must(b.step(func(m *Machine) error { return m.Command(Pause) }))
	if n, _ := b.later(3_600_000 - 1).reminders(); n != 0 {
		t.Fatal("a paused agent was reminded")
	}
}

func TestREM_2_MessagesPulledInCountUntilTheyAreRead(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.say("b")
	pull := func(read bool) {
		b.must(b.step(func(m *Machine) error {
			_, _, err := m.MarkBatch(m.S.Turn.ID, read, []Message{*b.msgs["b"]}, []MessageID{"b"})
			return err
		}))
	}
	pull(false)
	if _, count := b.m.NextReminder(b.pending()); count != 1 {
		t.Errorf("%d count, one was pulled in and not read", count)
	}
	pull(true)
	if at, count := b.m.NextReminder(b.pending()); at != 0 || count != 0 {
		t.Errorf("%d count after all were read", count)
	}
	b.later(10_000)
	b.say("c")
	if at, _ := b.m.NextReminder(b.pending()); at != b.msgs["c"].CreatedMS+b.m.Spec.Config.ReminderMS {
		t.Error("REM-3: the timer did not start anew")
	}
}

// TestREM_2_NobodyIsRemindedOfFewerThanNone: a message that comes between the count and the look at the queue makes the count too small.
func TestREM_2_NobodyIsRemindedOfFewerThanNone(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.must(b.step(func(m *Machine) error {
		m.F.Pending = -1
		if at, count := m.NextReminder(nil); at != 0 || count != 0 {
			t.Errorf("a reminder of %d at %d", count, at)
		}
		m.F.Pending = 0
		return nil
	}))
}
