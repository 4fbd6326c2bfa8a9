package member

import (
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
)

// gateLimit is how many messages may wait for one activation; more are answered as overloaded.
const gateLimit = 256

// heldAgain is after which time a message waits anew for the lease.
const heldAgain = 200 * time.Millisecond

// keptLimit is how many messages wait for the lease.
const keptLimit = 1024

// Gate is a mailbox that can be shut and has a limit. The library throws away whatever is queued behind a poison pill; a
// shut gate answers those senders with a dead-letter response, so that they ask the next activation at once. So does the gate
// of a member that does not hold its lease for certain: what waited for a frozen process is not carried out when it wakes.
type Gate struct {
	actor.Mailbox
	shut atomic.Bool
	root *actor.RootContext
	inv  actor.MessageInvoker
	busy func() any // the answer above the limit
	held func() bool
	kept []any // messages without a sender that wait for the lease, in their order; of the actor's own goroutine
}

func newGate(root *actor.RootContext, busy func() any, held func() bool) *Gate {
	return &Gate{Mailbox: actor.UnboundedLockfree()(), root: root, busy: busy, held: held}
}

// Shut lets nothing in any more.
func (g *Gate) Shut() { g.shut.Store(true) }

func (g *Gate) bounce(msg any) bool {
	env, ok := msg.(*actor.MessageEnvelope)
	if !ok || env.Sender == nil {
		return false
	}
	g.root.Send(env.Sender, &actor.DeadLetterResponse{})
	return true
}

// PostUserMessage implements actor.Mailbox.
func (g *Gate) PostUserMessage(msg any) {
	if _, poison := msg.(*actor.PoisonPill); !poison {
		if g.shut.Load() && g.bounce(msg) {
			return
		}
		if env, ok := msg.(*actor.MessageEnvelope); ok && g.UserMessageCount() >= gateLimit {
			if env.Sender != nil && g.busy != nil {
				g.root.Send(env.Sender, g.busy())
			}
			return // a hint that is dropped changes nothing
		}
	}
	g.Mailbox.PostUserMessage(msg)
}

// system says whether a message is about the life of the activation rather than for it.
func system(m any) bool {
	if env, ok := m.(*actor.MessageEnvelope); ok {
		m = env.Message
	}
	switch m.(type) {
	case *actor.PoisonPill, *actor.Started, *actor.Stopping, *actor.Stopped, *actor.Terminated:
		return true
	}
	return false
}

// RegisterHandlers implements actor.Mailbox.
func (g *Gate) RegisterHandlers(inv actor.MessageInvoker, d actor.Dispatcher) {
	g.inv = inv
	g.Mailbox.RegisterHandlers(g, d)
}

// InvokeSystemMessage implements actor.MessageInvoker.
func (g *Gate) InvokeSystemMessage(m any) { g.inv.InvokeSystemMessage(m) }

// EscalateFailure implements actor.MessageInvoker.
func (g *Gate) EscalateFailure(reason, m any) { g.inv.EscalateFailure(reason, m) }

// InvokeUserMessage implements actor.MessageInvoker. An activation that leaves carries nothing out any more: requests bounce, hints are
// dropped. A stopping actor that went on working could start children anew and would never end. While its member may not act (FENCE-1),
// requests bounce too; what the activation tells itself comes again, for the lease may still be its own (a store that was away).
func (g *Gate) InvokeUserMessage(m any) {
	_, first := m.(*cluster.ClusterInit)
	switch {
	case first || system(m):
	case g.shut.Load():
		g.kept = nil
		g.bounce(m)
		return
	case m == any(again{}):
		g.again()
		return
	case !g.held():
		if !g.bounce(m) {
			g.keep(m)
		}
		return
	case len(g.kept) > 0 && !asked(m): // not before those
		g.keep(m)
		return
	}
	g.inv.InvokeUserMessage(m)
}

// again asks for what was kept.
type again struct{}

// keep puts a message behind those that wait for the lease.
func (g *Gate) keep(m any) {
	if len(g.kept) >= keptLimit {
		return // an activation says little to itself: these are hints, which come again
	}
	if g.kept = append(g.kept, m); len(g.kept) == 1 {
		time.AfterFunc(heldAgain, func() { g.PostUserMessage(again{}) })
	}
}

// again lets what was kept in, in its order, if the lease is there.
func (g *Gate) again() {
	if !g.held() {
		time.AfterFunc(heldAgain, func() { g.PostUserMessage(again{}) })
		return
	}
	kept := g.kept
	g.kept = nil
	for _, m := range kept {
		if g.shut.Load() {
			return
		}
		g.inv.InvokeUserMessage(m)
	}
}

// asked says whether somebody waits for an answer to a message.
func asked(m any) bool {
	env, ok := m.(*actor.MessageEnvelope)
	return ok && env.Sender != nil
}
