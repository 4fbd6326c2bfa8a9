package agentgrain

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/protocol"
)

// turnClock is what the turn child keeps time for: one turn, and when it must be looked at next.
type turnClock struct {
	turn agent.TurnID
	wait time.Duration
}

// turnChild owns the clock of the running turn. When time is up it tells its parent to look; what is due is decided there.
type turnChild struct {
	timer *time.Timer
	gen   int
}

// Receive implements actor.Actor.
func (t *turnChild) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case turnClock:
		t.stop()
		gen, self, root := t.gen, c.Self(), c.ActorSystem().Root
		t.timer = time.AfterFunc(m.wait, func() { root.Send(self, tick{gen}) })
	case tick:
		if m.gen == t.gen {
			c.Send(c.Parent(), &protocol.Command{Kind: protocol.Look})
		}
	case *actor.Stopping:
		t.stop()
	}
}

func (t *turnChild) stop() {
	t.gen++
	if t.timer != nil {
		t.timer.Stop()
	}
}

// tellTurn keeps the turn child in step with the committed turn.
func (g *Grain) tellTurn(c actor.Context, m *agent.Machine) {
	t := m.S.Turn
	if t == nil {
		if g.turn != nil {
			c.Unwatch(g.turn)
			c.Stop(g.turn)
			g.turn = nil
		}
		return
	}
	if g.turn == nil {
		g.turn = c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &turnChild{} }))
		c.Watch(g.turn)
	}
	due := t.DeadlineMS
	switch {
	case t.Cancel != nil:
		due = t.Cancel.DueMS
	case t.SentMS > 0 && !t.Accepted && !t.Resent:
		due = min(due, t.SentMS+agent.AcceptResend.Milliseconds())
	case t.SentMS > 0 && !t.Accepted:
		due = min(due, t.SentMS+agent.AcceptLost.Milliseconds())
	}
	c.Send(g.turn, turnClock{turn: t.ID, wait: max(time.Duration(due-m.Now)*time.Millisecond, time.Millisecond)})
}
