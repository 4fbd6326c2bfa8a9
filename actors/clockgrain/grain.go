// Package clockgrain is the virtual actor of one shard of the durable clock: it wakes the shard's agents that have
// something due.
//
//	Keeper (every member) ── asks each shard "are you there", which is what activates it
//	clock/<shard>         ── sweeps its shard under its claim; what it finds are hints to agents, in lists
//
// A shard that is swept twice while its owner changes does no harm, and only the holder of the newest claim can hand out
// or clear entries (FENCE-8).
package clockgrain

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/cluster/member"
)

const (
	period  = 500 * time.Millisecond // between sweeps, unless something is due earlier
	soonest = 10 * time.Millisecond
	perRun  = 200 // entries of each kind handed out at once
	within  = 5 * time.Second
	// patience is for how long another member must be the rightful owner before a shard moves to it; spread is how much more some shards wait.
	patience = 10 * time.Second
	spread   = 20 // times period
)

// Store is what a shard reads and clears.
type Store interface {
	agent.Clock
	Peek(ctx context.Context, id agent.ID, limit int) (agent.Figures, []agent.Message, error)
}

// Deps are the grain's dependencies, shared by the shards of a node.
type Deps struct {
	Store  Store
	Wake   func(context.Context, []agent.ID) // hints agents; it may wait as long as the context lasts
	Fenced func(kind string)
	// Rightful says whether the shard would be placed here if it were placed now.
	Rightful func(kind, identity string) bool
	Log      *slog.Logger
}

// Grain is the activation of one shard.
type Grain struct {
	d     *Deps
	shard int
	act   *member.Activation
	stop  context.CancelFunc
}

// Reasons for an activation to end.
type (
	fenced struct{} // another one owns the shard
	moving struct{} // another member should
)

// Props returns the properties of clock grains.
func Props(d *Deps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &Grain{d: d, stop: func() {}} })
}

// Receive implements actor.Actor. Sweeping is slow work: it runs on a goroutine that ends with the activation.
func (g *Grain) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *cluster.ClusterInit:
		shard, err := strconv.Atoi(m.Identity.Identity)
		if err != nil || shard < 0 || shard >= g.d.Store.Shards() {
			g.act = member.ActivationOf(c)
			g.act.Passivate(c) // no such shard
			return
		}
		g.shard, g.act = shard, member.ActivationOf(c)
		ctx, cancel := context.WithCancel(context.Background())
		g.stop = cancel
		self, root := c.Self(), c.ActorSystem().Root
		go g.run(ctx, func(why any) { root.Send(self, why) })
	case *protocol.Command:
		if c.Sender() != nil {
			c.Respond(protocol.Answer(struct{}{}, nil))
		}
	case fenced:
		g.d.Fenced(agent.KindClock)
		g.act.Passivate(c)
	case moving:
		g.act.Passivate(c) // the next keeper that asks finds it its new place
	case *actor.Stopping, *actor.Restarting:
		g.stop()
	}
}

func (g *Grain) run(ctx context.Context, end func(why any)) {
	t := time.NewTimer(period)
	defer t.Stop()
	for rightful := time.Now(); ; {
		if g.d.Rightful(agent.KindClock, strconv.Itoa(g.shard)) {
			rightful = time.Now()
		} else if time.Since(rightful) >= patience+time.Duration(g.shard%spread)*period { // not all at once
			end(moving{})
			return
		}
		next, err := g.sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case fault.Is(err, fault.Fenced):
			end(fenced{})
			return
		case err != nil:
			g.d.Log.Warn("sweep of the clock failed", "shard", g.shard, "err", err)
		}
		t.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// sweep hints what is due once, and says when to come again: with the next alarm, or where more is due than it took.
func (g *Grain) sweep(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	alarms, next, err := g.d.Store.Sweep(ctx, g.shard, g.act.Fence, perRun)
	if err != nil {
		return period, err
	}
	wait := period
	if next >= 0 {
		wait = min(period, max(time.Duration(next)*time.Millisecond, soonest))
	}
	var settled []agent.Alarm
	var due, waiting []agent.ID
	for _, a := range alarms {
		if !a.Pending {
			due = append(due, a.ID)
		}
	}
	if len(due) > 0 {
		g.d.Wake(ctx, due) // before anything is read
	}
	for _, a := range alarms {
		if !a.Pending {
			continue
		}
		// An entry stays until nothing waits, or nothing that waits could start (POD-6).
		f, _, err := g.d.Store.Peek(ctx, a.ID, 1)
		switch {
		case err != nil && !fault.Is(err, fault.NotFound): // not known: the entry comes again
		case err == nil && f.Status == agent.Active && f.Pending > 0 && f.Balance > 0:
			waiting = append(waiting, a.ID)
		default:
			settled = append(settled, a)
		}
	}
	if len(settled) > 0 {
		err = g.d.Store.Clear(ctx, g.shard, g.act.Fence, settled)
	}
	if len(waiting) > 0 {
		g.d.Wake(ctx, waiting)
	}
	return wait, err
}
