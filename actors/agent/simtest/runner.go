package simtest

import (
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// pods is the runtime: at most one pod of the agent lives (POD-1). It is asked late, twice, and by stale owners.
type pods struct {
	w      *World
	run    *runner
	newest int64
}

// start makes sure that this incarnation runs; a later one is left alone. An older one is killed first. It says whether
// something new came to life.
func (p *pods) start(incarnation int64) bool {
	if incarnation < p.newest || p.run != nil && p.run.incarnation == incarnation {
		return false
	}
	if incarnation > p.newest {
		p.newest = incarnation
	}
	p.run = &runner{w: p.w, incarnation: incarnation}
	p.w.Starts++
	return true
}

// stop ends the pod of an incarnation; a later one is left alone.
func (p *pods) stop(incarnation int64) {
	if p.run != nil && p.run.incarnation <= incarnation {
		p.run = nil
	}
}

func (p *pods) lives(incarnation int64) bool { return p.run != nil && p.run.incarnation == incarnation }

// runner is the process in the pod.
type runner struct {
	w           *World
	incarnation int64
	epoch       int64 // 0: not attached
	highest     int64 // activation epoch seen (FENCE-6)
	turn        agent.TurnID
	attempt     int
	accepted    bool
	replied     bool
	progress    int64
	ended       *agent.End // sent, no answer yet
}

// ask makes a call of the runner; one that was replaced ends (FENCE-4).
func (r *runner) ask(d decision) error {
	g := agent.RunnerGuard{Incarnation: r.incarnation, Epoch: r.epoch} // the call is what it was when it was sent
	err := r.w.command(func(m *agent.Machine) error {
		if err := m.CheckRunner(&g); err != nil {
			return err
		}
		m.C.Guard = &g
		return d(m)
	})
	if f := fault.Of(err); err != nil && (f.Kind == fault.Unauthenticated || f.Code == "stale_runner") && r.w.pods.run == r {
		r.w.pods.run = nil
	}
	return err
}

// move is the next thing that the runner does.
func (r *runner) move() {
	w := r.w
	if r.epoch == 0 {
		r.attach()
		return
	}
	if w.st.f.Incarnation != r.incarnation || w.st.f.RunnerEpoch != r.epoch { // its next call, whatever it is, is refused
		if w.st.f.Incarnation != r.incarnation {
			w.pods.run = nil
		} else {
			r.epoch = 0
		}
		return
	}
	w.st.f.LeaseMS, w.st.f.HeartbeatMS, w.st.f.SubscribedMS = w.st.now()+agent.RunnerLease.Milliseconds(), w.st.now(), w.st.now()
	r.sync()
	switch {
	case r.turn == "":
	case r.ended != nil:
		r.end()
	case !r.accepted:
		r.report()
	case !r.replied && w.r.IntN(3) == 0:
		turn := r.turn
		if r.ask(func(m *agent.Machine) error {
			_, err := m.Reply(turn, agent.ReplyDraft{Content: "on its way"}, func(agent.MessageID) (agent.Message, bool) { return agent.Message{}, false })
			return err
		}) == nil {
			r.replied = true
		}
	case w.r.IntN(2) == 0:
		e := agent.End{Turn: r.turn, Outcome: agent.Completed, Replies: []agent.ReplyDraft{{Content: "done"}}}
		if w.r.IntN(10) == 0 {
			e.Outcome, e.Replies = agent.Failed, nil
		}
		r.ended = &e
		r.end()
	}
}

func (r *runner) attach() {
	var epoch int64
	a := agent.Attach{Incarnation: r.incarnation, Turn: r.turn, Version: "sim"}
	err := r.w.command(func(m *agent.Machine) error {
		if err := m.Attach(a); err != nil {
			return err
		}
		epoch = m.F.RunnerEpoch
		return nil
	})
	if f := fault.Of(err); err != nil && (f.Code == "stale_runner" || f.Kind == fault.Unauthenticated) && r.w.pods.run == r {
		r.w.pods.run = nil
		return
	}
	if err == nil {
		r.epoch = epoch
	}
}

// sync compares with what the store says should run (RUN-5).
func (r *runner) sync() {
	if r.w.st.fence.Epoch < r.highest {
		r.w.broken("FENCE-6: the claim's epoch went back")
	}
	r.highest = r.w.st.fence.Epoch
	t := r.w.st.view().Turn
	switch {
	case t == nil || t.SentMS == 0:
		r.drop()
	case t.Cancel != nil:
		if r.turn == t.ID && r.ended == nil && r.w.r.IntN(2) == 0 {
			r.ended = &agent.End{Turn: t.ID, Outcome: agent.Cancelled}
		}
	case t.ID != r.turn || t.Attempt != r.attempt:
		r.drop()
		r.turn, r.attempt = t.ID, t.Attempt
	}
}

func (r *runner) drop() {
	r.turn, r.attempt, r.accepted, r.replied, r.ended, r.progress = "", 0, false, false, nil, 0
}

func (r *runner) report() {
	r.progress++
	turn, entries := r.turn, []agent.ProgressEntry{{Seq: r.progress, Kind: "accepted"}}
	if r.ask(func(m *agent.Machine) error {
		_, _, err := m.Progress(turn, entries)
		return err
	}) == nil {
		r.accepted = true
	}
}

// end is repeated until it is answered (RUN-9).
func (r *runner) end() {
	e := *r.ended
	err := r.ask(func(m *agent.Machine) error {
		_, err := m.EndTurn(e, func(agent.MessageID) (agent.Message, bool) { return agent.Message{}, false })
		return err
	})
	if err == nil || !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Fenced) {
		r.drop()
	}
}
