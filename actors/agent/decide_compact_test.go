package agent

import (
	"strings"
	"testing"

	"troupe/actors/fault"
)

// full brings a persistent session whose last model call had so many input tokens, with a turn that is confirmed.
func full(t *testing.T, context int64) *bench {
	b := newBench(t)
	b.m.Spec.SessionMode = Persistent
	b.say("a").up().accepted()
	b.must(b.step(func(m *Machine) error { return m.SetTranscript(m.S.Session.ID, "sdk-1", 0, false) }))
	b.must(b.step(func(m *Machine) error {
		_, _, err := m.Progress(m.S.Turn.ID, []ProgressEntry{{Seq: m.S.Turn.Progress + 1, Kind: "context", ContextTokens: context}})
		return err
	}))
	return b
}

func (b *bench) compacted(done bool, after int64, why string) error {
	id := ""
	if c := b.m.S.Compaction; c != nil {
		id = c.ID
	}
	return b.step(func(m *Machine) error {
		return m.Compacted(m.S.Session.ID, CompactReport{ID: id, Done: done, After: &after, SDK: "sdk-2", Error: why})
	})
}

func (b *bench) commands(kind string) (n int, last Command) {
	for _, c := range b.log {
		for _, x := range c.Commands {
			if x.Kind == kind {
				n, last = n+1, x
			}
		}
	}
	return n, last
}

func TestCOMP_1_DueAtTheThreshold(t *testing.T) {
	if b := full(t, DefaultThreshold-1); b.m.S.Compaction != nil {
		t.Fatal("compaction below the threshold")
	}
	b := full(t, DefaultThreshold)
	c := b.m.S.Compaction
	if c == nil || c.Turn != b.m.S.Turn.ID || c.Before != DefaultThreshold {
		t.Fatalf("%+v", c)
	}
	_, cmd := b.commands("session.compact")
	if !strings.Contains(string(cmd.Body), "{{transcript}}") || !strings.Contains(string(cmd.Body), "{{summary}}") || !strings.Contains(string(cmd.Body), "sdk-1") {
		t.Errorf("COMP-2: %s", cmd.Body)
	}
	session := b.m.S.Session.ID
	b.must(b.compacted(true, 900, ""))
	if s := b.m.S.Session; s.ID != session || s.SDK != "sdk-2" || s.Compactions != 1 || b.m.S.Compaction != nil || b.m.S.Turn == nil {
		t.Errorf("COMP-2: %+v", s)
	}
}

func TestCOMP_3_BetweenTurnsNothingIsStarted(t *testing.T) {
	b := full(t, 0)
	b.must(b.step(func(m *Machine) error {
		_, err := m.EndTurn(End{Turn: m.S.Turn.ID, Outcome: Completed, Context: DefaultThreshold}, nil)
		return err
	}))
	c := b.m.S.Compaction
	if c == nil || c.Turn != "" || b.m.S.Turn != nil || b.log[len(b.log)-1].Head[HeadCompaction] != c.ID {
		t.Fatalf("%+v", c)
	}
	b.say("b").look()
	if b.m.S.Turn != nil {
		t.Fatal("TURN-1: a turn started while the session is condensed")
	}
	if at, _ := b.m.NextReminder(b.pending()); at != 0 {
		t.Error("REM-1: a reminder during compaction")
	}
	b.must(b.compacted(true, 900, ""))
	if b.m.S.Turn == nil || b.m.S.Turn.Start == "new" {
		t.Fatalf("the message waits although the compaction is over: %+v", b.m.S.Turn)
	}
}

func TestCOMP_5_ThreeAttemptsThenTheSessionGoesOn(t *testing.T) {
	b := full(t, DefaultThreshold)
	for attempt, pause := range []int64{2000, 8000} {
		b.must(b.compacted(false, 0, "it broke"))
		if c := b.m.S.Compaction; c == nil || c.SentMS != 0 || c.RetryMS != b.m.Now+pause || c.Attempt != attempt+2 {
			t.Fatalf("attempt %d: %+v", attempt+1, c)
		}
		if due := b.m.Due(); due > b.m.Now+pause {
			t.Fatalf("the next attempt is due at %d", due)
		}
		b.later(pause - 1)
		if n, _ := b.commands("session.compact"); n != attempt+1 {
			t.Fatal("an attempt came early")
		}
		b.later(1)
	}
	b.must(b.compacted(false, 0, "it broke"))
	if b.m.S.Compaction != nil || b.m.S.Turn == nil || b.m.S.Session.SDK != "sdk-1" || !strings.Contains(b.m.S.LastError, "it broke") {
		t.Fatalf("%+v", b.m.S)
	}
	if n, _ := b.later(60_000).commands("session.compact"); n != 3 {
		t.Fatalf("%d attempts", n)
	}
	if err := b.step(func(m *Machine) error {
		return m.Compacted(m.S.Session.ID, CompactReport{ID: m.S.LastCompaction, Done: true, SDK: "late"})
	}); fault.Of(err) == nil || fault.Of(err).Code != "stale_compaction" {
		t.Errorf("a late success of a compaction that was given up: %v", err)
	}
	b.must(b.step(func(m *Machine) error { m.S.Turn.Compacted = false; m.S.Session.Context += compactStep; return nil }))
	if b.m.S.Compaction == nil {
		t.Error("it is tried again after 10000 more tokens")
	}
}

func TestCOMP_6_NoLoop(t *testing.T) {
	b := full(t, DefaultThreshold)
	b.must(b.compacted(true, DefaultThreshold, ""))
	b.later(1000)
	b.must(b.step(func(m *Machine) error {
		_, _, err := m.Progress(m.S.Turn.ID, []ProgressEntry{{Seq: m.S.Turn.Progress + 1, Kind: "context", ContextTokens: 2 * DefaultThreshold}})
		return err
	}))
	if n, _ := b.commands("session.compact"); n != 1 {
		t.Fatalf("%d compactions in one turn", n)
	}
	id := b.m.S.LastCompaction
	if err := b.step(func(m *Machine) error {
		return m.Compacted(m.S.Session.ID, CompactReport{ID: id, Done: true, SDK: "sdk-2"})
	}); err != nil {
		t.Errorf("a repeat of the report: %v", err)
	}
}

func TestQUE_4_AnInterruptDuringCompactionCancelsNothing(t *testing.T) {
	b := full(t, DefaultThreshold)
	b.say("now")
	b.m.F.Interrupt = b.msgs["now"].Seq
	b.look()
	if b.m.S.Turn.Cancel != nil {
		t.Fatal("it cancelled the turn")
	}
	b.must(b.compacted(true, 900, ""))
	if b.m.S.Turn.Cancel != nil {
		t.Error("it cancelled the turn afterwards")
	}
}

func TestCOMP_5_ARunnerThatDiesIsAskedAgain(t *testing.T) {
	b := full(t, DefaultThreshold)
	id := b.m.S.Compaction.ID
	b.must(b.step(func(m *Machine) error { return m.Attach(Attach{Incarnation: 1, Turn: m.S.Turn.ID}) }))
	if n, _ := b.commands("session.compact"); n != 2 || b.m.S.Compaction.ID != id || b.m.S.Compaction.Attempt != 1 {
		t.Fatalf("%d commands, %+v", n, b.m.S.Compaction)
	}
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	_, err := b.end(Cancelled)
	b.must(err)
	if b.m.S.Compaction != nil {
		t.Error("it outlives its turn")
	}
}

func TestCOMP_4_InstructionsAreAppended(t *testing.T) {
	c := NewSpec("a", settings).Config
	keep := "Keep ticket numbers."
	c.Compaction.Instructions = &keep
	if text := c.SummarizeText(); !strings.HasSuffix(text, "\n\nKeep ticket numbers.") {
		t.Errorf("%q", text)
	}
	c.Hooks = map[string]string{string(HookSummarize): "Be brief.", string(HookContinuation): "Go on."}
	if text := c.SummarizeText(); text != "Be brief.\n\n{{transcript}}" {
		t.Errorf("HOOK-5: %q", text)
	}
	if text := c.ContinuationText(); text != "Go on.\n\n{{summary}}" {
		t.Errorf("HOOK-5: %q", text)
	}
}

func TestCOMP_1_WhatTheGatewayCountedCounts(t *testing.T) {
	b := full(t, DefaultThreshold-1)
	if b.m.S.Compaction != nil {
		t.Fatal("due too early")
	}
	b.say("more").look()
	b.accepted()
	b.m.F.Context, b.m.F.ContextOf = DefaultThreshold+5, b.m.S.Session.ID
	b.must(b.step(func(m *Machine) error {
		_, _, err := m.Progress(m.S.Turn.ID, []ProgressEntry{{Seq: m.S.Turn.Progress + 1, Kind: "context", ContextTokens: 17}})
		return err
	}))
	if c := b.m.S.Compaction; c == nil || c.Before != DefaultThreshold+5 {
		t.Fatalf("the runner's word was taken: %+v", c)
	}
	b.m.F.Context, b.m.F.ContextOf = 1<<20, "another session"
	if b.m.counted(17) != 17 {
		t.Error("the count of another session was taken")
	}
}
