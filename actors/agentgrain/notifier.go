package agentgrain

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

const (
	notifyPause  = time.Second // before something that did not work is done again
	sweepPage    = 200         // pending deliveries looked at in one commit
	pruneEvery   = 50          // deliveries that ended in this activation between two looks at the log's end
	pruneBatch   = 50
	attemptLimit = 2*agent.AttemptTimeout + 2*time.Second // to wait for a place, and to be made
)

// notifyWish says that deliveries are due. Fresh are those of the step that it follows.
type notifyWish struct {
	nowMS   int64
	fresh   []agent.Outgoing
	secrets []sealed       // that sign
	gens    map[string]int // State.HookGen
}

type sealed struct{ slot, value string }

// attempted is the end of one attempt, told again until the grain has stored it.
type attempted struct {
	agent.Delivery
	agent.Attempt
	gen int // of the notifier
}

type (
	flight struct { // what is under way, to the parent
		gen int
		ids []string
	}
	nothing struct{ gen int }   // is due and nothing under way, to the parent
	settled struct{ id string } // an attempt is stored, or no longer of interest
	landed  struct {            // from the goroutine of an attempt
		x *attempted
		a agent.Attempt
	}
	unmade  struct{ x *attempted } // it could not be made: the store is away
	retell  struct{ x *attempted } // not stored yet
	duePage struct {
		rows []agent.Delivery
		err  error
	}
	goOn struct{} // after a pause
)

// notifier works on the outbox of webhook deliveries: it reads what is due, makes the attempts, at most agent.MaxFlying at a time, and tells
// the grain what became of them. A delivery counts as under way until that is stored, so this activation sends none of them twice at once.
type notifier struct {
	d       *Deps
	id      agent.ID
	gen     int
	ctx     context.Context
	cancel  context.CancelFunc
	wish    notifyWish
	at      time.Time // when the wish came
	flying  map[string]*attempted
	ended   map[string]bool // what was settled while a page was being read, which may show it as it was
	reading bool
	resting bool // until goOn
	more    bool // something may be due that has not been begun
}

// Receive implements actor.Actor.
func (n *notifier) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		n.flying = map[string]*attempted{}
		n.ctx, n.cancel = context.WithCancel(context.Background())
	case notifyWish:
		n.wish, n.at = m, time.Now()
		for _, o := range m.fresh {
			n.begin(c, o.Delivery, o.Payload)
		}
		n.read(c)
	case duePage:
		n.due(c, m)
	case landed:
		if n.flying[m.x.ID] == m.x && n.ctx.Err() == nil {
			m.x.Attempt = m.a
			n.tell(c, m.x)
		}
	case unmade:
		if n.flying[m.x.ID] == m.x {
			delete(n.flying, m.x.ID)
			n.report(c)
			n.rest(c)
		}
	case retell:
		if n.flying[m.x.ID] == m.x {
			n.tell(c, m.x)
		}
	case settled:
		delete(n.flying, m.id)
		if n.reading {
			n.ended[m.id] = true
		}
		n.report(c)
		if n.more {
			n.read(c)
		}
	case goOn:
		n.resting = false
		n.read(c)
	case *actor.Stopping:
		n.cancel()
	}
}

func (n *notifier) report(c actor.Context) {
	c.Send(c.Parent(), flight{n.gen, slices.Collect(maps.Keys(n.flying))})
}

// later sends a message to this actor after the pause.
func later(c actor.Context, msg any) {
	self, root := c.Self(), c.ActorSystem().Root
	time.AfterFunc(notifyPause, func() { root.Send(self, msg) })
}

// rest keeps the notifier from reading before the pause is over.
func (n *notifier) rest(c actor.Context) {
	if !n.resting {
		n.resting = true
		later(c, goOn{})
	}
}

// read looks for what is due, as far as there is room.
func (n *notifier) read(c actor.Context) {
	if n.reading || n.resting || len(n.flying) >= agent.MaxFlying {
		n.more = true
		return
	}
	n.reading, n.more, n.ended = true, false, map[string]bool{}
	self, root, d, id, ctx := c.Self(), c.ActorSystem().Root, n.d, n.id, n.ctx
	go func() {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		rows, err := records[agent.Delivery](ctx, d, id, agent.RecordPage{Kind: agent.RecordOwed, Limit: agent.MaxFlying + 1})
		root.Send(self, duePage{rows, err})
	}()
}

func (n *notifier) due(c actor.Context, m duePage) {
	n.reading = false
	if m.err != nil {
		n.d.Log.Warn("outbox could not be read", "agent_id", n.id, "err", m.err)
		n.rest(c)
		return
	}
	now := n.wish.nowMS + time.Since(n.at).Milliseconds()
	for _, d := range m.rows {
		if d.NextMS <= now && !n.ended[d.ID] {
			n.begin(c, d, nil)
		}
	}
	switch {
	case n.more && len(n.flying) < agent.MaxFlying:
		n.read(c)
	case len(n.flying) == 0:
		c.Send(c.Parent(), nothing{n.gen})
	}
}

// begin starts an attempt, unless the delivery is under way or there is no room. One whose URL was removed is told without being sent.
func (n *notifier) begin(c actor.Context, d agent.Delivery, payload []byte) {
	if n.flying[d.ID] != nil {
		return
	}
	if len(n.flying) >= agent.MaxFlying {
		n.more = true
		return
	}
	x := &attempted{Delivery: d, gen: n.gen}
	n.flying[d.ID] = x
	n.report(c)
	if s := (agent.State{HookGen: n.wish.gens}); s.Removed(&d) {
		n.tell(c, x)
		return
	}
	self, root, deps, id, ctx, sealed := c.Self(), c.ActorSystem().Root, n.d, n.id, n.ctx, n.wish.secrets
	go func() {
		ctx, cancel := context.WithTimeout(ctx, attemptLimit)
		defer cancel()
		a, err := deps.attempt(ctx, id, d, payload, sealed)
		if err != nil {
			root.Send(self, unmade{x})
			return
		}
		root.Send(self, landed{x, a})
	}()
}

// attempt loads what is missing and sends. An error is one of the store.
func (d *Deps) attempt(ctx context.Context, id agent.ID, x agent.Delivery, payload []byte, sealed []sealed) (a agent.Attempt, err error) {
	if payload == nil {
		if payload, err = d.Store.Record(ctx, id, agent.RecordPayload, x.ID); err != nil {
			return a, err
		}
	}
	var secrets []agent.Secret
	for _, s := range sealed {
		clear, err := d.Sealer.Open(string(id), s.slot, s.value)
		if err != nil {
			d.Log.Error("signing secret cannot be opened", "agent_id", id, "err", err)
			return agent.Attempt{Error: "The signing secret cannot be opened"}, nil
		}
		secrets = append(secrets, agent.NewSecret(clear))
	}
	err = fault.Caught(func() error {
		a = d.Courier.Send(ctx, &agent.Outgoing{Delivery: x, Payload: payload}, secrets)
		return nil
	})
	if err != nil { // it counts as an attempt: one that always ends like this must not keep the others
		d.Log.Error("webhook delivery panicked", "agent_id", id, "delivery_id", x.ID, "err", err)
		a = agent.Attempt{Error: "The delivery failed inside the platform"}
	}
	return a, nil
}

func (n *notifier) tell(c actor.Context, x *attempted) {
	c.Send(c.Parent(), *x)
	later(c, retell{x})
}

// tellNotifier keeps the notifier in step with the committed outbox.
func (g *Grain) tellNotifier(c actor.Context, m *agent.Machine) {
	s := &m.S
	if s.Sweeping && !s.Deleting && !g.sweeping {
		g.sweep(c) // what it commits is followed by this again
		return
	}
	if s.Deleting || s.Owed == 0 && len(g.flying) == 0 {
		if g.notifier != nil {
			c.Unwatch(g.notifier)
			c.Stop(g.notifier)
			g.notifier, g.flying = nil, nil
		}
		return
	}
	if s.Owed <= int64(len(g.flying)) || s.NotifyMS == 0 || s.NotifyMS > m.Now {
		return
	}
	if g.notifier == nil {
		g.notifiers++ // what the former one still says is not of this one
		gen := g.notifiers
		g.notifier = c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &notifier{d: g.d, id: g.id, gen: gen} }))
		c.Watch(g.notifier)
	}
	w := notifyWish{nowMS: m.Now, fresh: m.Fresh, gens: s.HookGen}
	for _, slot := range []string{agent.SlotWebhook, agent.SlotWebhookOld} {
		if v := m.Spec.Sealed[slot]; v != "" && (slot == agent.SlotWebhook || m.Now < m.Spec.FormerMS) {
			w.secrets = append(w.secrets, sealed{slot, v})
		}
	}
	c.Send(g.notifier, w)
}

// underWay takes in what the notifier works on.
func (g *Grain) underWay(m flight) {
	if g.notifier != nil && m.gen == g.notifiers {
		g.flying = m.ids
	}
}

// attempted stores the end of an attempt.
func (g *Grain) attempted(c actor.Context, r attempted) {
	if g.notifier == nil || r.gen != g.notifiers {
		return
	}
	result, err := g.storeAttempt(c, r)
	switch {
	case fault.Is(err, fault.Fenced) || g.gone:
		return
	case err != nil:
		g.d.Log.Warn("attempt at a delivery could not be stored", "agent_id", g.id, "err", err)
		return // it is told again
	}
	if result != "" {
		g.d.Metrics.Delivery(r.Event, result)
	}
	g.flying = slices.DeleteFunc(slices.Clone(g.flying), func(id string) bool { return id == r.ID })
	if g.notifier != nil {
		c.Send(g.notifier, settled{r.ID})
	}
	if result == agent.DeliveryDone || result == agent.DeliveryDead {
		g.prune(c)
	}
}

// storeAttempt stores what became of a delivery, unless that has been stored, or it is no longer owed.
func (g *Grain) storeAttempt(c actor.Context, r attempted) (result string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	body, err := g.d.Store.Record(ctx, g.id, agent.RecordOwed, r.ID)
	if err != nil || body == nil {
		return "", err
	}
	var d agent.Delivery
	if err := json.Unmarshal(body, &d); err != nil {
		return "", err
	}
	if d.Attempts != r.Attempts {
		return "", nil
	}
	others := slices.DeleteFunc(slices.Clone(g.flying), func(id string) bool { return id == r.ID })
	owed, next, err := g.outbox(ctx, append(others, r.ID))
	if err != nil {
		return "", err
	}
	_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
		m.S.Owed = owed
		result = m.Attempted(d, r.Attempt, next, len(others))
		return nil, nil
	})
	return result, err
}

// outbox reads how many deliveries are owed, and the earliest instant of those that are not excepted, 0 for none.
func (g *Grain) outbox(ctx context.Context, except []string) (owed, next int64, err error) {
	bodies, total, err := g.d.Store.Recorded(ctx, g.id, agent.RecordPage{Kind: agent.RecordOwed, Limit: len(except) + 1})
	if err != nil {
		return 0, 0, err
	}
	for _, b := range bodies {
		var d agent.Delivery
		if err := json.Unmarshal(b, &d); err != nil {
			return 0, 0, err
		}
		if !slices.Contains(except, d.ID) {
			return int64(total), d.NextMS, nil
		}
	}
	return int64(total), 0, nil
}

// nothingDue corrects an instant that has passed without anything being due.
func (g *Grain) nothingDue(c actor.Context, m nothing) {
	if g.notifier == nil || m.gen != g.notifiers || len(g.flying) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	owed, next, err := g.outbox(ctx, nil)
	if err != nil {
		return // the next look finds it again
	}
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { m.Recount(owed, next); return nil, nil }); err != nil {
		g.arm(reloadPause)
	}
}

// sweep gives up pending deliveries whose URL was removed, a page at a time (OUT-10).
func (g *Grain) sweep(c actor.Context) {
	g.sweeping = true
	defer func() { g.sweeping = false }()
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	page, err := records[agent.Delivery](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordOwed, Offset: g.kept, Limit: sweepPage})
	if err != nil {
		return // the next look finds it again
	}
	last, kept := len(page) < sweepPage, 0
	if _, err = g.step(c, nil, func(m *agent.Machine) (any, error) { kept = m.GiveUp(page, last, g.flying); return nil, nil }); err != nil {
		g.kept = 0
		return
	}
	if g.kept += kept; last {
		g.kept = 0
	}
	c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
}

// prune drops what is older than the log is kept, now and then (OUT-8). What a crash leaves is found again.
func (g *Grain) prune(c actor.Context) {
	if g.ended++; g.ended%pruneEvery != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	oldest, err := records[agent.Delivery](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordDelivery, Limit: pruneBatch})
	if err != nil || len(oldest) == 0 {
		return
	}
	dropped := 0
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { dropped = m.Prune(oldest); return nil, nil }); err == nil && dropped == pruneBatch {
		g.ended = 0 // there is more
	}
}

// redeliver puts a delivery that is over back into the outbox.
func (g *Grain) redeliver(c actor.Context, cmd *protocol.Command, b protocol.RedeliverCommand) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if x, err := g.d.Store.Replay(ctx, g.id, onceKey(cmd), cmd.Kind); err != nil || x != nil { // this very command took effect before
		return json.RawMessage(x.Bytes()), err
	}
	body, err := g.d.Store.Record(ctx, g.id, agent.RecordDelivery, b.ID)
	if err != nil {
		return nil, err
	}
	var d agent.Delivery
	if body == nil || json.Unmarshal(body, &d) != nil {
		return nil, agent.NoDelivery()
	}
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if d.Forgotten(m.Now) {
			return nil, agent.NoDelivery()
		}
		return m.Redeliver(d)
	})
}

// rotate replaces the signing secret (OUT-5). The one that goes is sealed anew for the place where it goes.
func (g *Grain) rotate(c actor.Context, cmd *protocol.Command, b protocol.RotateCommand) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		former := m.Spec.Sealed[agent.SlotWebhook]
		if former != "" && b.GraceMS > 0 {
			clear, err := g.d.Sealer.Open(string(g.id), agent.SlotWebhook, former)
			if err != nil {
				return nil, err
			}
			if former, err = g.d.Sealer.SealAgent(g.id, agent.SlotWebhookOld, agent.NewSecret(clear)); err != nil {
				return nil, err
			}
		}
		until, err := m.Rotate(b.Sealed, former, time.Duration(b.GraceMS)*time.Millisecond)
		return protocol.RotateResult{FormerMS: until}, err
	})
}
