package agent

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"troupe/actors/fault"
)

// bench is a small stand-in for the store: it applies what the machine commits, so that a test reads as a story.
type bench struct {
	t    *testing.T
	m    *Machine
	n    int
	msgs map[MessageID]*Message
	log  []Commit
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, msgs: map[MessageID]*Message{}}
	spec := NewSpec("agent", settings)
	b.m = &Machine{Spec: spec, S: State{Status: Active, Pod: Pod{Want: true, Why: "created"}}, Set: settings, Now: 1_000_000}
	b.m.F = Figures{Balance: 100, Status: Active, NowMS: b.m.Now}
	b.m.NewID = func() string { b.n++; return fmt.Sprintf("id-%d", b.n) }
	return b
}

func (b *bench) pending() (out []Message) {
	for _, m := range b.msgs {
		if m.Status == Pending {
			out = append(out, *m)
		}
	}
	slices.SortFunc(out, func(x, y Message) int {
		return cmp.Compare(Place{x.Seq, x.Rank()}.Score(), Place{y.Seq, y.Rank()}.Score())
	})
	return out
}

func (b *bench) say(id MessageID) *bench {
	seq := int64(len(b.msgs) + 1)
	b.msgs[id] = &Message{ID: id, Seq: seq, CreatedMS: b.m.Now, Body: Body{Role: RoleUser, Channel: ChannelAPI, Counterparty: "owner", Content: string(id)}, Mark: Mark{Status: Pending}}
	b.m.F.Pending = int64(len(b.pending()))
	return b
}

// step decides, looks and applies, like the grain does.
func (b *bench) step(decide func(m *Machine) error) error {
	b.t.Helper()
	before := b.m.S
	b.m.C = Commit{}
	b.m.F.Pending = int64(len(b.pending()))
	b.m.F.NowMS, b.m.Queued, b.m.Over = b.m.Now, b.pending(), map[MessageID]bool{}
	for _, x := range b.m.Queued {
		b.m.Over[x.TaskID()] = b.record(x.TaskID()).Final()
	}
	if err := decide(b.m); err != nil {
		b.m.S = before
		return err
	}
	if !b.m.S.Deleting {
		b.m.Look(b.pending())
	}
	c := *b.m.Finish()
	b.log = append(b.log, c)
	for _, mk := range c.Marks {
		if b.msgs[mk.ID] != nil {
			b.msgs[mk.ID].Mark = mk.Mark
		}
	}
	if v, set := c.Head[HeadLease]; set && v == "" && c.Attach == 0 {
		b.m.F.LeaseMS = 0
	}
	return nil
}

func (b *bench) look() { _ = b.step(func(*Machine) error { return nil }) }

func (b *bench) must(err error) *bench {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	return b
}

// up brings a runner of the present incarnation to life.
func (b *bench) up() *bench {
	b.t.Helper()
	b.look()
	return b.must(b.step(func(m *Machine) error { return m.Attach(Attach{Incarnation: m.S.Pod.Incarnation}) }))
}

func (b *bench) accepted() *bench {
	b.t.Helper()
	b.m.F.SubscribedMS = b.m.Now
	return b.must(b.step(func(m *Machine) error {
		_, _, err := m.Progress(m.S.Turn.ID, []ProgressEntry{{Seq: m.S.Turn.Progress + 1, Kind: "accepted"}})
		return err
	}))
}

func (b *bench) end(outcome Outcome) (e Ended, err error) {
	id := TurnID("none")
	if b.m.S.Turn != nil {
		id = b.m.S.Turn.ID
	} else if b.m.S.LastTurn != "" {
		id = b.m.S.LastTurn
	}
	err = b.step(func(m *Machine) error {
		var err error
		e, err = m.EndTurn(End{Turn: id, Outcome: outcome, Replies: []ReplyDraft{{Content: "hi"}}}, func(MessageID) (Message, bool) { return Message{}, false })
		return err
	})
	return e, err
}

func (b *bench) wants(id MessageID, status MessageStatus, outcome Outcome) *bench {
	b.t.Helper()
	if m := b.msgs[id]; m.Status != status || m.Outcome != outcome {
		b.t.Fatalf("message %s is %s/%s, want %s/%s", id, m.Status, m.Outcome, status, outcome)
	}
	return b
}

func TestTURN_2_OneTurnAnswersTheBatch(t *testing.T) {
	b := newBench(t).say("a").say("b").up()
	if b.m.S.Turn == nil || len(b.m.S.Turn.Batch) != 2 {
		t.Fatalf("MSG-2: turn %+v", b.m.S.Turn)
	}
	b.wants("a", Delivered, "").wants("b", Delivered, "").accepted()
	e, err := b.end(Completed)
	b.must(err)
	if len(e.Replies) != 1 || e.Duplicate {
		t.Fatalf("ended %+v", e)
	}
	b.wants("a", Read, Completed).wants("b", Read, Completed)
	if b.m.S.Session != nil || b.m.S.Turn != nil {
		t.Fatal("SESS-1: an ephemeral session closes with its turn")
	}
	again, err := b.end(Completed)
	b.must(err)
	if !again.Duplicate || !slices.Equal(again.Replies, e.Replies) {
		t.Fatalf("FENCE-5: repeated end %+v", again)
	}
	if _, err := b.end(Failed); fault.Of(err) == nil || fault.Of(err).Code != "turn_ended" {
		t.Fatalf("another outcome: %v", err)
	}
}

func TestLIFE_3_OnlyActiveAgentsStartTurns(t *testing.T) {
	b := newBench(t).up().must(nil)
	b.must(b.step(func(m *Machine) error { return m.Command(Pause) }))
	b.say("a").look()
	if b.m.S.Turn != nil {
		t.Fatal("a paused agent started a turn")
	}
	b.must(b.step(func(m *Machine) error { return m.Command(Resume) }))
	if b.m.S.Turn == nil {
		t.Fatal("resume processes the queue")
	}
}

func TestLIFE_4_StopReturnsOpenMessages(t *testing.T) {
	b := newBench(t).say("a").say("b").up().accepted()
	b.must(b.step(func(m *Machine) error {
		_, _, err := m.MarkBatch(m.S.Turn.ID, true, []Message{*b.msgs["b"]}, []MessageID{"b"})
		return err
	}))
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	if b.m.S.Turn == nil || b.m.S.Turn.Cancel.Command != "stop" || b.m.S.Pod.Phase != PodUp {
		t.Fatalf("the turn gets its grace first: %+v pod %s", b.m.S.Turn, b.m.S.Pod.Phase)
	}
	e, err := b.end(Completed)
	b.must(err)
	if e.Outcome != Cancelled {
		t.Fatalf("TURN-5: the outcome was decided, got %s", e.Outcome)
	}
	b.wants("a", Pending, "").wants("b", Read, Cancelled)
	if b.m.S.Pod.Phase != PodStopping || b.m.S.Status != Stopped {
		t.Fatalf("pod %s, status %s", b.m.S.Pod.Phase, b.m.S.Status)
	}
	last := b.log[len(b.log)-1]
	if last.Requeue["a"].Seq != 1 {
		t.Fatalf("the queue lost its order: %v", last.Requeue)
	}
	b.must(b.step(func(m *Machine) error { m.Observed(Observation{Incarnation: 1, Phase: PhaseGone}); return nil }))
	b.must(b.step(func(m *Machine) error { return m.Command(Resume) })).up() // LIFE-5
	if b.m.S.Turn == nil || b.m.S.Turn.Batch[0].ID != "a" {
		t.Fatal("LIFE-5: pending messages are processed after a resume")
	}
}

func TestLIFE_6_DeleteNeedsForceWhileATurnRuns(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	if err := b.step(func(m *Machine) error { return m.Delete(false) }); fault.Of(err) == nil || fault.Of(err).Code != "turn_running" {
		t.Fatalf("got %v", err)
	}
	b.must(b.step(func(m *Machine) error { return m.Delete(true) }))
	if !b.m.S.Deleting || b.m.S.Pod.Phase != PodStopping || b.log[len(b.log)-1].Head[HeadDeleted] == "" {
		t.Fatalf("%+v", b.m.S)
	}
	if err := b.step(func(m *Machine) error { return m.Command(Pause) }); !fault.Is(err, fault.NotFound) {
		t.Fatalf("a deleted agent took a command: %v", err)
	}
}

func TestLIFE_7_Readiness(t *testing.T) {
	b := newBench(t)
	check := func(want bool, reason string) {
		t.Helper()
		b.m.F.NowMS = b.m.Now
		if got, _, why := Readiness(&b.m.S, &b.m.F); got != want || why != reason {
			t.Fatalf("got %v %q, want %v %q", got, why, want, reason)
		}
	}
	check(false, "Agent pod is starting")
	b.up()
	check(true, "")
	b.m.F.Balance = 0
	check(false, "Output token balance exhausted")
	b.m.F.Balance = 1
	b.must(b.step(func(m *Machine) error { return m.Command(Pause) }))
	check(false, "Agent is paused")
	b.must(b.step(func(m *Machine) error { return m.Command(Stop) }))
	check(false, "Agent pod is stopped")
}

func TestLIFE_8_PodStatus(t *testing.T) {
	b := newBench(t)
	is := func(want PodStatus) {
		t.Helper()
		b.m.F.NowMS = b.m.Now
		if got := b.m.PodStatus(); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	is(PodPending)
	b.up()
	is(PodRunning)
	b.m.Now += *b.m.Spec.WarmthMS + 1
	b.m.F.LeaseMS = b.m.Now + 1000
	b.look()
	is(PodNotRunning) // POD-4
	b.must(b.step(func(m *Machine) error { m.Observed(Observation{Incarnation: 1, Phase: PhaseGone}); return nil }))
	b.say("a").look()
	is(PodPending) // POD-6
	b.must(b.step(func(m *Machine) error {
		m.Observed(Observation{Incarnation: 2, Phase: PhaseGone, Reason: "exit 1"})
		return nil
	}))
	is(PodError)
}

func TestLIFE_9_FiveFailedStartsAreAnError(t *testing.T) {
	b := newBench(t).say("a")
	for i := range int64(5) {
		b.look()
		if b.m.S.Pod.Phase != PodStarting || b.m.S.Pod.Incarnation != i+1 {
			t.Fatalf("start %d: %+v", i, b.m.S.Pod)
		}
		b.must(b.step(func(m *Machine) error {
			m.Observed(Observation{Incarnation: i + 1, Phase: PhaseGone, Reason: "exit 1"})
			return nil
		}))
		b.look()
		if i < 4 && b.m.S.Pod.Phase != PodAbsent {
			t.Fatalf("POD-8: no backoff after start %d", i)
		}
		b.m.Now += 10_000
	}
	if b.m.S.Status != Errored || b.m.S.Reason == "" {
		t.Fatalf("status %s", b.m.S.Status)
	}
	b.wants("a", Pending, "")
	b.must(b.step(func(m *Machine) error { return m.Command(Resume) }))
	if b.m.S.Pod.Failed != 0 || b.m.S.Pod.Phase != PodStarting {
		t.Fatalf("resume from error starts a new pod: %+v", b.m.S.Pod)
	}
	b.must(b.step(func(m *Machine) error { m.Report("error", "disk broken", true); return nil }))
	if b.m.S.Status != Errored || b.m.S.Reason != "disk broken" {
		t.Fatalf("a fatal report: %s %q", b.m.S.Status, b.m.S.Reason)
	}
}

func TestLIFE_2_CommandsKeepToTheTableInAnyOrder(t *testing.T) {
	verbs := []Verb{Pause, Resume, Stop, SetActive, SetPaused, SetStopped}
	for seed := range 2000 {
		b := newBench(t)
		if seed%2 == 0 {
			b.say("a")
		}
		x := seed
		for range 8 {
			switch x % 9 {
			case 6:
				b.look()
			case 7:
				if b.m.S.Pod.Phase == PodStarting {
					_ = b.step(func(m *Machine) error { return m.Attach(Attach{Incarnation: m.S.Pod.Incarnation}) })
				}
			case 8:
				_ = b.step(func(m *Machine) error {
					m.Observed(Observation{Incarnation: m.S.Pod.Incarnation, Phase: PhaseGone})
					return nil
				})
			default:
				from := b.m.S.Status
				err := b.step(func(m *Machine) error { return m.Command(verbs[x%9]) })
				to, want := from.Next(verbs[x%9])
				if (err == nil) != (want == nil) || err == nil && b.m.S.Status != to {
					t.Fatalf("seed %d: %s from %s gave %s, %v", seed, verbs[x%9], from, b.m.S.Status, err)
				}
			}
			if b.m.S.Turn != nil && b.m.S.Turn.Cancel == nil && b.m.S.Status == Stopped {
				t.Fatalf("seed %d: a stopped agent has a running turn", seed)
			}
			x = x*31 + 7
			if x < 0 {
				x = -x
			}
		}
	}
}

func TestTURN_4_Timeout(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.m.Now += b.m.Spec.Config.TimeoutSeconds*1000 + 1
	b.m.F.LeaseMS = b.m.Now + 20_000
	b.look()
	b.m.F.Execution = "working" // it still reports the turn
	if c := b.m.S.Turn.Cancel; c == nil || c.Command != "timeout" {
		t.Fatalf("%+v", b.m.S.Turn)
	}
	b.m.Now += CancelGrace.Milliseconds()
	b.look()
	b.wants("a", Read, Failed)
	if b.msgs["a"].Reason != "timeout" || b.m.S.Status != Active || b.m.S.Pod.Phase != PodStopping {
		t.Fatalf("TURN-5: %+v, pod %s", b.msgs["a"], b.m.S.Pod.Phase)
	}
}

func TestTURN_10_AnsweredMessagesCompleteWhateverBecomesOfTheTurn(t *testing.T) {
	b := newBench(t).say("a").say("b").up().accepted()
	b.must(b.step(func(m *Machine) error {
		_, err := m.Reply(m.S.Turn.ID, ReplyDraft{ReplyTo: "a", Content: "x"}, nil)
		return err
	}))
	b.must(b.step(func(m *Machine) error {
		_, err := m.EndTurn(End{Turn: m.S.Turn.ID, Outcome: Failed, Error: "x"}, nil)
		return err
	})).wants("a", Read, Completed).wants("b", Read, Failed)
}

func TestREC_5_ThreeAttempts(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	for attempt := 1; attempt <= 3; attempt++ {
		if b.m.S.Turn.Attempt != attempt {
			t.Fatalf("attempt %d, want %d", b.m.S.Turn.Attempt, attempt)
		}
		b.m.Now += 20_000
		inc := b.m.S.Pod.Incarnation
		b.must(b.step(func(m *Machine) error { m.Observed(Observation{Incarnation: inc, Phase: PhaseGone}); return nil }))
		if attempt < 3 {
			b.up()
			if b.m.S.Turn.Hook != HookRestart || b.m.S.Turn.Start != "resume" {
				t.Fatalf("REC-4: %+v", b.m.S.Turn)
			}
			b.accepted()
		}
	}
	b.wants("a", Read, Failed)
	if b.msgs["a"].Reason != "runner_lost" || b.m.S.Status != Active {
		t.Fatalf("%+v", b.msgs["a"])
	}
}

func TestRUN_1_ALivingRunnerThatAttachesAgainKeepsItsTurn(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	id := b.m.S.Turn.ID
	b.must(b.step(func(m *Machine) error { return m.Attach(Attach{Incarnation: 1, Turn: id}) }))
	if tn := b.m.S.Turn; tn.ID != id || tn.Attempt != 1 || !tn.Accepted {
		t.Fatalf("%+v", tn)
	}
}

func TestFENCE_4_AnOldIncarnationIsNotLetIn(t *testing.T) {
	b := newBench(t).up()
	if err := b.step(func(m *Machine) error { return m.Attach(Attach{Incarnation: 0}) }); fault.Of(err) == nil || fault.Of(err).Code != "stale_runner" {
		t.Fatalf("got %v", err)
	}
}

func TestQUE_3_InterruptTakesTheQueueAlong(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.say("b").say("c")
	b.m.F.Interrupt = 3
	b.look()
	if c := b.m.S.Turn.Cancel; c == nil || c.Command != "interrupt" {
		t.Fatalf("%+v", b.m.S.Turn)
	}
	_, err := b.end(Cancelled)
	b.must(err).wants("a", Read, Cancelled)
	if b.m.S.Turn == nil || len(b.m.S.Turn.Batch) != 2 {
		t.Fatalf("all pending messages form one batch: %+v", b.m.S.Turn)
	}
}

func TestBAL_6_ExhaustedTurnsFail(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.must(b.step(func(m *Machine) error { m.Exhaust(m.S.Turn.ID); return nil }))
	_, err := b.end(Completed)
	b.must(err).wants("a", Read, Failed)
	if b.msgs["a"].Reason != "balance_exhausted" {
		t.Fatalf("%+v", b.msgs["a"])
	}
	b.m.F.Balance = 0
	b.say("b").look()
	if b.m.S.Turn != nil {
		t.Fatal("BAL-3: a turn started without balance")
	}
}

func TestSESS_2_PersistentSessionsStayOpen(t *testing.T) {
	b := newBench(t)
	b.m.Spec.SessionMode = Persistent
	b.say("a").up().accepted()
	first := b.m.S.Session.ID
	_, err := b.end(Completed)
	b.must(err)
	b.m.S.Session.SDK = "transcript"
	b.say("b").look()
	if b.m.S.Session.ID != first || b.m.S.Turn.Start != "continue" || b.m.S.Turn.Number != 2 {
		t.Fatalf("%+v %+v", b.m.S.Session, b.m.S.Turn)
	}
}

func TestCFG_5_UpdatesRaiseTheVersion(t *testing.T) {
	b := newBench(t)
	was := b.m.Spec
	b.must(b.step(func(m *Machine) error { m.Update(m.Spec, nil, Opt[int64]{}); return nil }))
	if b.m.Spec.ConfigVersion != was.ConfigVersion {
		t.Fatal("an update without a change raised the version")
	}
	b.must(b.step(func(m *Machine) error { m.Update(m.Spec, []string{"model"}, Opt[int64]{}); return nil }))
	if b.m.Spec.ConfigVersion != was.ConfigVersion+1 || b.m.Spec.UpdatedMS <= was.UpdatedMS {
		t.Fatalf("%+v", b.m.Spec)
	}
}

func TestCFG_7_EnvReplacesThePodAfterTheTurn(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.must(b.step(func(m *Machine) error { m.Update(m.Spec, []string{"custom_env"}, Opt[int64]{}); return nil }))
	if b.m.S.Pod.Phase != PodUp {
		t.Fatal("the running turn was cut")
	}
	_, err := b.end(Completed)
	b.must(err)
	if b.m.S.Pod.Phase != PodStopping || !b.m.S.Pod.Want {
		t.Fatalf("%+v", b.m.S.Pod)
	}
}

func TestPOD_9_InitialFilesComeBeforeTheFirstTurn(t *testing.T) {
	b := newBench(t).say("a")
	b.m.S.FilesDue = true
	b.up()
	if b.m.S.Turn != nil {
		t.Fatal("a turn started before the files were there")
	}
	b.must(b.step(func(m *Machine) error { m.FilesApplied(DiskUsage{Files: 1, Bytes: 2}); return nil }))
	if b.m.S.Turn == nil || b.m.S.Disk.Files != 1 {
		t.Fatalf("%+v", b.m.S)
	}
}

func TestPOD_1_TheNextPodWaitsUntilTheOldOneIsGone(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.m.Now = b.m.F.LeaseMS + 1
	b.look()
	if b.m.S.Pod.Phase != PodStopping || b.m.S.Pod.Incarnation != 1 {
		t.Fatalf("%+v", b.m.S.Pod)
	}
	b.look()
	if b.m.S.Pod.Incarnation != 1 {
		t.Fatal("a second pod was asked for while the first may live")
	}
	if head := b.log[len(b.log)-2].Head; head[HeadIncarnation] != "" {
		t.Fatalf("the key must be dead at once: %v", head)
	}
	b.must(b.step(func(m *Machine) error { m.Observed(Observation{Incarnation: 1, Phase: PhaseGone}); return nil }))
	b.look()
	if b.m.S.Pod.Incarnation != 2 || b.m.S.Pod.Phase != PodStarting {
		t.Fatalf("%+v", b.m.S.Pod)
	}
}

func TestRUN_2_ASilentRunnerIsLost(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.m.Now += RunnerLease.Milliseconds() + 1 // no heartbeat came
	b.look()
	if turn := b.m.S.Turn; turn == nil || turn.SentMS != 0 || b.m.S.Pod.Phase != PodStopping {
		t.Fatalf("turn %+v, pod %s", turn, b.m.S.Pod.Phase)
	}
	b.must(b.step(func(m *Machine) error { m.Observed(Observation{Incarnation: 1, Phase: PhaseGone}); return nil }))
	b.m.Now += 60_000
	b.up()
	if turn := b.m.S.Turn; turn.Attempt != 2 || turn.Hook != HookRestart || turn.Start != "resume" || turn.Batch[0].ID != "a" {
		t.Errorf("REC-3, REC-4: %+v", turn)
	}
}

func TestGEN_1_AlarmsRingByTheStoresClock(t *testing.T) {
	b := newBench(t).say("a").up().accepted()
	b.m.F.ClockMS = b.m.Now - 30_000 // the store's clock went back
	if due, alarm := b.m.Due(), b.m.Alarm(); alarm != due-30_000 {
		t.Errorf("due at %d in the agent's time, the alarm is set to %d", due, alarm)
	}
}

func TestPOD_4_ACallInTheWorkspaceKeepsThePodUp(t *testing.T) {
	b := newBench(t).up()
	warm := int64(5_000)
	b.m.Spec.WarmthMS = &warm
	wake := func() {
		b.must(b.step(func(m *Machine) error {
			if !m.Wake() {
				t.Error("not ready")
			}
			return nil
		}))
	}
	for range 4 { // it says every few seconds that it goes on
		wake()
		if b.m.Now += 5_000; b.m.S.Pod.Phase != PodUp {
			t.Fatal("the pod went away during the call")
		}
		b.m.F.LeaseMS = b.m.Now + 60_000
		b.look()
	}
	b.m.Now += wakeHold
	b.look()
	if b.m.S.Pod.Want || b.m.S.Pod.Why != "scaled_to_zero" {
		t.Errorf("%+v", b.m.S.Pod)
	}
	if b.must(b.step(func(m *Machine) error { m.Wake(); return nil })); !b.m.S.Pod.Want {
		t.Error("a call does not wake the pod")
	}
}
