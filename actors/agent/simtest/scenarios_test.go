package simtest

import (
	"testing"

	"troupe/actors/agent"
)

// calm is a world in which nothing fails by itself.
func calm() *World {
	w := New(2)
	w.Rates = Rates{}
	return w
}

// until lets the runner work and time pass until ok holds.
func (w *World) until(t *testing.T, what string, ok func(s *agent.State) bool) {
	t.Helper()
	for range 400 {
		if ok(w.st.view()) {
			return
		}
		w.Runner()
		w.Tick(500)
	}
	t.Fatalf("it never happened that %s; state %s", what, w.st.state)
}

// busy brings the world to a turn that the runner has confirmed.
func busy(t *testing.T) *World {
	w := calm()
	w.Send(false)
	w.until(t, "a turn is confirmed", func(s *agent.State) bool { return s.Turn != nil && s.Turn.Accepted })
	return w
}

// holder is the index of the node that acts for the agent.
func (w *World) holder() int {
	for i, n := range w.nodes {
		if n.member == w.st.fence.Member {
			return i
		}
	}
	return -1
}

// alive lets the runner's heartbeats go on while its turn does nothing that ends.
func (w *World) alive(ms int64) {
	for end := w.st.clock + ms; w.st.clock < end; {
		w.st.f.LeaseMS, w.st.f.HeartbeatMS = w.st.now()+agent.RunnerLease.Milliseconds(), w.st.now()
		w.Tick(10_000)
	}
}

// context is the runner's report of how much its last model call read.
func (w *World) context(tokens int64) error {
	r := w.pods.run
	r.progress++
	turn, entries := r.turn, []agent.ProgressEntry{{Seq: r.progress, Kind: "context", ContextTokens: tokens}}
	return r.ask(func(m *agent.Machine) error {
		_, _, err := m.Progress(turn, entries)
		return err
	})
}

// transcript is the runner's report of the transcript behind its session.
func (w *World) transcript(t *testing.T) {
	t.Helper()
	if err := w.pods.run.ask(func(m *agent.Machine) error { return m.SetTranscript(m.S.Session.ID, "sdk-1", 0, false) }); err != nil {
		t.Fatal(err)
	}
}

// condensed is the runner's report of the compaction that it was asked for.
func (w *World) condensed(after int64, sdk string) error {
	c := *w.st.view().Compaction
	return w.pods.run.ask(func(m *agent.Machine) error {
		return m.Compacted(c.Session, agent.CompactReport{ID: c.ID, Done: true, After: &after, SDK: sdk})
	})
}

// TestScenarios are the ways in which such systems are known to lose work, each played by hand. Those of schedules arrive with
// them.
func TestScenarios(t *testing.T) {
	for name, play := range map[string]func(t *testing.T) *World{
		"ack-before-durable": func(t *testing.T) *World {
			w := calm()
			w.Rates.Store = 100 // every call of the store fails, some after they took effect
			for range 50 {
				w.Send(false)
			}
			if len(w.acked) != 0 {
				t.Errorf("%d messages were acknowledged and nobody knows that they are stored", len(w.acked))
			}
			return w
		},
		"recovery-keeps-queue": func(t *testing.T) *World {
			w := busy(t)
			first := w.st.view().Turn.Batch[0].ID
			w.Send(false)
			w.KillRunner()
			w.until(t, "the turn is resumed", func(s *agent.State) bool { return s.Turn != nil && s.Turn.Attempt == 2 && s.Turn.Accepted })
			if b := w.st.view().Turn.Batch; len(b) != 1 || b[0].ID != first || len(w.st.queue) != 1 {
				t.Errorf("REC-2: the batch became %v, %d wait", b, len(w.st.queue))
			}
			return w
		},
		"frozen-owner-returns": func(t *testing.T) *World {
			w := busy(t)
			i := w.holder()
			w.Freeze(i)
			for range 3 { // it has these in its hands when it wakes
				_ = w.command(func(m *agent.Machine) error { return m.Command(agent.Stop) })
			}
			w.Blind = true // and does not look before it acts
			w.Tick(8000)
			w.until(t, "another node owns the agent", func(*agent.State) bool { w.look(); return w.holder() != i })
			commits, starts := w.Commits, w.Starts
			w.Thaw(i)
			if w.Commits != commits || w.Starts != starts || w.Refused == 0 || w.st.f.Status != agent.Active {
				t.Errorf("FENCE-7: %d writes, %d pods of a stale node; %d refused; status %s", w.Commits-commits, w.Starts-starts, w.Refused, w.st.f.Status)
			}
			return w
		},
		"zombie-run-blocks-lane": func(t *testing.T) *World {
			w := busy(t)
			w.Send(false)
			w.pods.run.epoch = 0 // it works on and is never heard again
			w.pods.run.incarnation = -1
			for range 100 {
				w.Tick(1000)
			}
			if w.st.view().Turn != nil && w.st.view().Turn.SentMS > 0 && w.st.view().Turn.Attempt == 1 {
				t.Errorf("RUN-2: the turn is still given to a runner that is silent: %s", w.st.state)
			}
			return w
		},
		"wakeup-lost": func(t *testing.T) *World {
			w := calm()
			w.until(t, "the runner is there", func(s *agent.State) bool { return s.Pod.Phase == agent.PodUp })
			if err := w.st.accept("lost", false); err != nil { // the node died before its hint
				t.Fatal(err)
			}
			w.acked["lost"] = true
			w.Kill(w.holder())
			w.until(t, "the message is taken", func(s *agent.State) bool { return len(w.st.queue) == 0 })
			return w
		},
		"idle-misjudged": func(t *testing.T) *World {
			w := calm()
			window := int64(agent.MinWarmthMS)
			w.spec.WarmthMS, w.spec.Config.TimeoutSeconds = &window, agent.MaxTimeoutSeconds
			w.Send(false)
			w.until(t, "a turn is confirmed", func(s *agent.State) bool { return s.Turn != nil && s.Turn.Accepted })
			for range 90 { // half an hour of one tool call, with heartbeats
				w.st.f.LeaseMS = w.st.now() + agent.RunnerLease.Milliseconds()
				w.Tick(20_000)
			}
			if s := w.st.view(); s.Turn == nil || s.Turn.Attempt != 1 || s.Pod.Phase != agent.PodUp {
				t.Errorf("POD-4: a working pod was taken for idle: %s", w.st.state)
			}
			w.until(t, "the turn ends", func(s *agent.State) bool { return s.Turn == nil })
			for range 40 {
				w.Runner()
				w.Tick(10_000)
			}
			if s := w.st.view(); s.Pod.Phase != agent.PodAbsent || s.Pod.Want {
				t.Errorf("POD-4: an idle pod stays: %s", w.st.state)
			}
			return w
		},
		"adopt-wrong-incarnation": func(t *testing.T) *World {
			w := busy(t)
			old := w.pods.run
			w.KillRunner()
			w.until(t, "the next incarnation works", func(s *agent.State) bool { return s.Turn != nil && s.Turn.Attempt == 2 && s.Turn.Accepted })
			now := w.pods.run
			w.pods.run, old.epoch = old, 0 // what was thought dead comes back
			old.move()
			if w.pods.run == old {
				t.Error("FENCE-4: a runner of an older incarnation was let in")
			}
			w.pods.run = now
			return w
		},
		"stale-cache-overcreates": func(t *testing.T) *World {
			w := calm()
			for range 20 { // everybody looks at once
				w.look()
			}
			if w.Starts != 1 {
				t.Errorf("POD-1: %d pods were started", w.Starts)
			}
			return w
		},
		"success-without-effect": func(t *testing.T) *World {
			w := busy(t)
			w.pods.run.ended = &agent.End{Turn: w.pods.run.turn, Outcome: agent.Completed, Replies: []agent.ReplyDraft{{Content: "done"}}}
			for range 3 { // the answers are lost, the call is repeated
				e := *w.pods.run.ended
				w.pods.run.end()
				w.pods.run.turn, w.pods.run.ended = e.Turn, &e
			}
			replies := 0
			for _, m := range w.st.msgs {
				if m.Role == agent.RoleAssistant {
					replies++
				}
			}
			if replies != 1 || w.st.view().Turn != nil {
				t.Errorf("FENCE-5: three times the same end left %d replies", replies)
			}
			return w
		},
		"reminder-feeds-itself": func(t *testing.T) *World {
			w := calm()
			w.spec.Config.TimeoutSeconds = 7200
			w.Send(false)
			w.until(t, "a turn is confirmed", func(s *agent.State) bool { return s.Turn != nil && s.Turn.Accepted })
			w.Send(false) // it waits unread
			starts, began := w.Starts, w.st.clock
			for range 10 {
				before := w.sent["reminder"]
				w.alive(w.spec.Config.ReminderMS + 10_000)
				if n := w.sent["reminder"] - before; n < 1 || n > 2 {
					t.Errorf("REM-3: %d reminders in an interval", n)
				}
				for range 20 { // what the model does about it is no reason for another one
					if err := w.context(1000); err != nil {
						t.Fatal(err)
					}
				}
			}
			most := int((w.st.clock-began)/w.spec.Config.ReminderMS) + 1
			if n := w.sent["reminder"]; n > most || w.Starts != starts {
				t.Errorf("%d reminders where %d are due, %d pods", n, most, w.Starts-starts+1)
			}
			return w
		},
		"compaction-no-progress": func(t *testing.T) *World {
			w := busy(t)
			w.spec.Config.TimeoutSeconds = 7200
			w.transcript(t)
			full := w.spec.Config.Compaction.Threshold + 1
			for i := range 5 { // condensed, and as large as before
				if err := w.context(full); err != nil {
					t.Fatal(err)
				}
				if w.st.view().Compaction == nil {
					if i == 0 {
						t.Fatal("COMP-1: no compaction is due")
					}
					break
				}
				if i > 0 {
					t.Fatal("COMP-6: the turn is condensed again")
				}
				if err := w.condensed(full, "sdk-2"); err != nil {
					t.Fatal(err)
				}
			}
			asked := 0
			for i := range 20 { // nor later, until there is something more to condense (COMP-5)
				w.Send(false)
				told := false
				w.until(t, "it is answered", func(s *agent.State) bool {
					if s.Turn != nil && s.Turn.Accepted && !told {
						told = true
						_ = w.context(full + int64(i)*3000)
						s = w.st.view()
					}
					if s.Compaction != nil && s.Compaction.SentMS > 0 && w.pods.run != nil && w.pods.run.epoch > 0 {
						asked++
						_ = w.condensed(s.Session.Context, "sdk-3")
					}
					return s.Turn == nil && len(w.st.queue) == 0 && s.Compaction == nil
				})
			}
			if asked == 0 || asked > 8 { // 60000 tokens more
				t.Errorf("%d compactions in 20 turns led to nothing", asked)
			}
			return w
		},
		"checkpoint-promoted-early": func(t *testing.T) *World {
			w := busy(t)
			w.transcript(t)
			if err := w.context(w.spec.Config.Compaction.Threshold + 1); err != nil {
				t.Fatal(err)
			}
			w.Rates.Store = 100
			for range 20 {
				if err := w.condensed(100, "sdk-2"); err == nil {
					t.Fatal("a report was taken that is stored nowhere")
				}
				if s := w.st.view(); s.Compaction == nil { // it took effect, and only the answer was lost
					break
				} else if s.Session.SDK != "sdk-1" {
					t.Fatalf("COMP-5: the session is %s before the report is durable", s.Session.SDK)
				}
			}
			w.Rates.Store = 0
			if w.st.view().Compaction != nil {
				if err := w.condensed(100, "sdk-2"); err != nil {
					t.Fatal(err)
				}
			}
			if s := w.st.view().Session; s.SDK != "sdk-2" || s.Compactions != 1 {
				t.Errorf("%+v", s)
			}
			return w
		},
		"unbounded-history": func(t *testing.T) *World {
			w := calm()
			for range 300 {
				w.Send(false)
				w.until(t, "it is answered", func(s *agent.State) bool { return s.Turn == nil && len(w.st.queue) == 0 })
			}
			if n := len(w.st.state); n > 2048 || len(w.st.cmds) > 100 {
				t.Errorf("after 300 turns the state has %d bytes, %d commands are kept", n, len(w.st.cmds))
			}
			return w
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := play(t)
			w.Settle()
			for _, p := range w.Problems {
				t.Error(p)
			}
		})
	}
}
