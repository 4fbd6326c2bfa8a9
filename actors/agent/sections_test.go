package agent

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTURN_3_AStartThatIsNotConfirmed(t *testing.T) {
	b := newBench(t).say("a").up()
	b.m.F.SubscribedMS = b.m.Now
	turn, attempt := b.m.S.Turn.ID, b.m.S.Turn.Attempt
	after := func(ms int64) {
		b.m.Now = b.m.S.Turn.StartedMS + ms
		b.m.F.LeaseMS = b.m.Now + 45_000 // the runner's heartbeats go on
		b.look()
	}
	for _, step := range []struct {
		ms     int64
		starts int
	}{{29_999, 1}, {30_000, 2}, {45_000, 2}, {59_999, 2}} {
		after(step.ms)
		if n, _ := b.commands("turn.start"); n != step.starts || b.m.S.Turn.ID != turn || b.m.S.Turn.Attempt != attempt || b.m.S.Pod.Phase != PodUp {
			t.Fatalf("after %d ms: %d starts, turn %s attempt %d, pod %s", step.ms, n, b.m.S.Turn.ID, b.m.S.Turn.Attempt, b.m.S.Pod.Phase)
		}
	}
	after(60_000)
	if b.m.S.Pod.Phase != PodStopping || b.m.S.Turn == nil || b.m.S.Turn.SentMS != 0 {
		t.Fatalf("the runner does not count as lost: pod %s, turn %+v", b.m.S.Pod.Phase, b.m.S.Turn)
	}
}

func TestTURN_7_EveryTurnEnds(t *testing.T) {
	for name, life := range map[string]func(b *bench){
		"the runner hangs":          func(b *bench) { b.m.F.LeaseMS = b.m.Now + 45_000 },
		"the runner is lost":        func(b *bench) {},
		"the owner stops the agent": func(b *bench) { _ = b.step(func(m *Machine) error { return m.Command(Stop) }) },
	} {
		b := newBench(t).say("a").up().accepted()
		turn, end := b.m.S.Turn.ID, b.m.S.Turn.DeadlineMS+60_000
		for b.m.S.Turn != nil && b.m.S.Turn.ID == turn {
			due := b.m.Due()
			if due == 0 || due > end {
				t.Fatalf("%s: nothing is due before the bound", name)
			}
			b.m.Now = max(due, b.m.Now+1)
			life(b)
			b.look()
		}
		if b.m.Now > end {
			t.Errorf("%s: the turn was open %d ms too long", name, b.m.Now-end)
		}
	}
}

func TestSESS_4_SwitchingTheMode(t *testing.T) {
	b := newBench(t)
	b.m.Spec.SessionMode = Persistent
	turn := func(id MessageID) *Session {
		t.Helper()
		b.say(id).look()
		b.accepted()
		s := *b.m.S.Session
		_, err := b.end(Completed)
		b.must(err)
		return &s
	}
	b.up()
	first := turn("a")
	if s := turn("b"); s.ID != first.ID {
		t.Fatal("SESS-2: a persistent session did not go on")
	}
	b.m.Spec.SessionMode = Ephemeral
	if b.look(); b.m.S.Session == nil || b.m.S.Session.ID != first.ID {
		t.Fatal("the open session closed before the next trigger")
	}
	second := turn("c")
	if second.ID == first.ID || second.Mode != Ephemeral || b.m.S.Session != nil {
		t.Fatalf("%+v, open %+v", second, b.m.S.Session)
	}
	if !slices.ContainsFunc(b.log, func(c Commit) bool {
		return slices.ContainsFunc(c.Records, func(r Record) bool {
			return r.ID == string(first.ID) && strings.Contains(string(r.Body), `"end_reason":"mode_changed"`)
		})
	}) {
		t.Error("the former session did not close as mode_changed")
	}
	b.m.Spec.SessionMode = Persistent
	if s := turn("d"); s.Mode != Persistent || b.m.S.Session == nil || b.m.S.Session.ID != s.ID {
		t.Errorf("the next session did not stay open: %+v", b.m.S.Session)
	}
}

// rest lets the warmth window pass.
func (b *bench) rest() {
	b.m.Now = b.m.S.ActiveMS + *b.m.Spec.WarmthMS
	b.m.F.LeaseMS = b.m.Now + 45_000
	b.look()
}

func TestPOD_5_WhatCannotStartDoesNotKeepThePodUp(t *testing.T) {
	window := int64(300_000)
	for name, hold := range map[string]func(b *bench){
		"paused": func(b *bench) { b.must(b.step(func(m *Machine) error { return m.Command(Pause) })) },
		"empty":  func(b *bench) { b.m.F.Balance = 0 },
	} {
		b := newBench(t).up()
		b.m.Spec.WarmthMS = &window
		hold(b)
		b.say("a")
		if b.rest(); b.m.S.Pod.Phase != PodStopping || b.m.S.Pod.Why != "scaled_to_zero" || b.m.S.Turn != nil {
			t.Errorf("%s: pod %s (%s)", name, b.m.S.Pod.Phase, b.m.S.Pod.Why)
		}
		b.wants("a", Pending, "")
	}
	b := newBench(t).up()
	b.m.Spec.WarmthMS = &window
	b.say("a")
	b.m.F.LeaseMS = 0
	b.m.Now = b.m.S.ActiveMS + window
	if b.look(); b.m.S.Pod.Why == "scaled_to_zero" {
		t.Error("POD-4: a pod with a message that can start a turn was scaled to zero")
	}
}

func TestPOD_7_AMessageDuringTheShutdown(t *testing.T) {
	b := newBench(t).up()
	window, old := int64(300_000), b.m.S.Pod.Incarnation
	b.m.Spec.WarmthMS = &window
	b.rest()
	b.say("a").look()
	if b.m.S.Turn != nil || b.m.S.Pod.Phase != PodStopping || b.m.S.Pod.Incarnation != old {
		t.Fatalf("the dying runner got a turn: %+v, pod %s %d", b.m.S.Turn, b.m.S.Pod.Phase, b.m.S.Pod.Incarnation)
	}
	if _, err := b.end(Completed); err == nil {
		t.Fatal("it ended a turn it never had")
	}
	b.must(b.step(func(m *Machine) error {
		m.Observed(Observation{Incarnation: old, Phase: PhaseGone})
		return nil
	}))
	if b.m.S.Pod.Phase != PodStarting || b.m.S.Pod.Incarnation != old+1 {
		t.Fatalf("pod %s %d", b.m.S.Pod.Phase, b.m.S.Pod.Incarnation)
	}
	b.up()
	if b.m.S.Turn == nil || b.m.S.Turn.Incarnation != old+1 {
		t.Errorf("%+v", b.m.S.Turn)
	}
}

func TestHOOK_2_TheTableOfTheContract(t *testing.T) {
	doc, err := os.ReadFile("../../http/api/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]*) \\| `([^`]*)` \\|$")
	found := map[string]bool{}
	for _, r := range row.FindAllStringSubmatch(string(doc), -1) {
		h, known := hooks[Hook(r[1])]
		if !known {
			continue
		}
		found[r[1]] = true
		if want := strings.ReplaceAll(r[3], "⏎", "\n"); h.text != want {
			t.Errorf("%s:\n%q\nnot\n%q", r[1], h.text, want)
		}
		if got := strings.Join(h.variables, ", "); got != strings.Trim(r[2], "– ") {
			t.Errorf("%s offers %q, not %q", r[1], got, r[2])
		}
		var c Configuration
		if c.HookText(Hook(r[1])) != h.text {
			t.Errorf("%s has another default", r[1])
		}
	}
	if len(found) != len(hooks) || len(HookNames) != len(hooks) {
		t.Errorf("the contract has %d of the %d hooks", len(found), len(hooks))
	}
}

// TestQUE_3_TheMatrix is the table of section 10: what one new message does to an active agent.
func TestQUE_3_TheMatrix(t *testing.T) {
	for _, mode := range []SessionMode{Ephemeral, Persistent} {
		for _, queue := range []string{"collect", "interrupt"} {
			for _, state := range []string{"idle", "running", "compacting", "paused", "empty"} {
				name := string(mode) + ", " + queue + ", " + state
				b := newBench(t)
				b.m.Spec.SessionMode = mode
				b.up()
				finished := func(id MessageID) {
					b.say(id).look()
					b.accepted()
					_, err := b.end(Completed)
					b.must(err)
				}
				finished("before")
				former := b.m.S.Session
				var running TurnID
				switch state {
				case "running":
					b.say("first").look()
					b.accepted()
					running, former = b.m.S.Turn.ID, b.m.S.Session
				case "compacting":
					if mode == Ephemeral { // a session that closes with its turn is not condensed between turns
						continue
					}
					b.m.S.Session.SDK, b.m.S.Session.Context = "sdk-1", b.m.Spec.Config.Compaction.Threshold
					if b.look(); b.m.S.Compaction == nil {
						t.Fatal("no compaction is due")
					}
				case "paused":
					b.must(b.step(func(m *Machine) error { return m.Command(Pause) }))
				case "empty":
					b.m.F.Balance = 0
				}
				b.say("new")
				if queue == "interrupt" {
					b.m.F.Interrupt = b.msgs["new"].Seq
				}
				b.look()
				switch state {
				case "paused", "empty":
					if b.m.S.Turn != nil {
						t.Errorf("%s: a turn started", name)
					}
					b.wants("new", Pending, "")
					continue
				case "compacting":
					if b.m.S.Turn != nil || b.m.S.Compaction == nil {
						t.Fatalf("%s: it did not wait for the compaction", name)
					}
					c := b.m.S.Compaction.ID
					b.must(b.step(func(m *Machine) error {
						after := int64(100)
						return m.Compacted(m.S.Session.ID, CompactReport{ID: c, Done: true, After: &after, SDK: "sdk-2"})
					}))
				case "running":
					cancelled := b.m.S.Turn.Cancel != nil
					if b.m.S.Turn.ID != running || cancelled != (queue == "interrupt") {
						t.Fatalf("%s: turn %+v", name, b.m.S.Turn)
					}
					b.wants("new", Pending, "")
					outcome := Completed
					if cancelled {
						outcome = Cancelled
					}
					_, err := b.end(outcome)
					b.must(err)
					b.wants("first", Read, outcome)
				}
				turn := b.m.S.Turn
				if turn == nil || b.batch() != "new" {
					t.Fatalf("%s: no turn for the new message: %q", name, b.batch())
				}
				if same := former != nil && turn.Session == former.ID; same != (mode == Persistent) {
					t.Errorf("%s: the session went on: %v", name, same)
				}
				if hook := turn.Hook == HookInterrupt; hook != (mode == Persistent && queue == "interrupt" && state == "running") {
					t.Errorf("HOOK-8: %s: hook %s", name, turn.Hook)
				}
			}
		}
	}
}
