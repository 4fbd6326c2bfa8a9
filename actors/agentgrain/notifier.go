package agentgrain

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

const (
	notifyPause  = time.Second // before something that did not work is done again
	dropPage     = 200         // pending deliveries given up in one commit
	pruneEvery   = 50          // deliveries that ended in this activation between two looks at the log's end
	pruneBatch   = 50
	attemptLimit = agent.AttemptTimeout + 2*time.Second
)

// notifyWish says that deliveries are due. Fresh are those of the step that it follows.
type notifyWish struct {
	nowMS   int64
	fresh   []agent.Outgoing
	secrets []sealed // that sign
}

type sealed struct{ slot, value string }

// attempted is the end of one attempt, told again until the grain has stored it.
type attempted struct {
	agent.Delivery
	agent.Attempt
	again bool // it may have been stored already
}

type (
	flight   struct{ ids []string } // what is under way, to the parent
	settled  struct{ id string }    // an attempt is stored, or no longer of interest
	landed   struct{ attempted }    // from the goroutine of an attempt
	duePage  struct{ rows []agent.Delivery }
	retell   struct{ x *attempted }
	lookDone struct{}
)

// notifier works on the outbox of webhook deliveries: it reads what is due, makes the attempts, at most agent.MaxFlying at a time, and tells
// the grain what became of them. A delivery counts as under way until that is stored, so this activation sends none of them twice at once.
type notifier struct {
	d       *Deps
	id      agent.ID
	ctx     context.Context
	cancel  context.CancelFunc
	wish    notifyWish
	at      time.Time // when the wish came
	flying  map[string]*attempted
	reading bool
	more    bool // something is due that has not been begun
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
		n.reading = false
		for _, d := range m.rows {
			n.begin(c, d, nil)
		}
	case landed:
		n.land(c, m)
	case retell:
		if n.flying[m.x.ID] == m.x { // not stored yet
			m.x.again = true
			n.tell(c, m.x)
		}
	case settled:
		delete(n.flying, m.id)
		n.report(c)
		if n.more {
			n.read(c)
		}
	case lookDone:
		n.read(c)
	case *actor.Stopping:
		n.cancel()
	}
}

func (n *notifier) ids() []string {
	out := make([]string, 0, len(n.flying))
	for id := range n.flying {
		out = append(out, id)
	}
	return out
}

func (n *notifier) report(c actor.Context) { c.Send(c.Parent(), flight{n.ids()}) }

// later sends a message to this actor after the pause.
func later(c actor.Context, msg any) {
	self, root := c.Self(), c.ActorSystem().Root
	time.AfterFunc(notifyPause, func() { root.Send(self, msg) })
}

// read looks for what is due, as far as there is room.
func (n *notifier) read(c actor.Context) {
	if n.reading || len(n.flying) >= agent.MaxFlying {
		n.more = true
		return
	}
	n.reading, n.more = true, false
	now := n.wish.nowMS + time.Since(n.at).Milliseconds()
	self, root, d, id, ctx, limit := c.Self(), c.ActorSystem().Root, n.d, n.id, n.ctx, agent.MaxFlying+1
	go func() {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		rows, err := records[agent.Delivery](ctx, d, id, agent.RecordPage{Kind: agent.RecordOwed, Limit: limit})
		if err != nil {
			d.Log.Warn("outbox could not be read", "agent_id", id, "err", err)
		}
		root.Send(self, duePage{slices.DeleteFunc(rows, func(d agent.Delivery) bool { return d.NextMS > now })})
	}()
}

// begin starts an attempt, unless the delivery is under way or there is no room.
func (n *notifier) begin(c actor.Context, d agent.Delivery, payload []byte) {
	if n.flying[d.ID] != nil {
		return
	}
	if len(n.flying) >= agent.MaxFlying {
		n.more = true
		return
	}
	n.flying[d.ID] = &attempted{Delivery: d}
	n.report(c)
	self, root, deps, id, ctx, sealed := c.Self(), c.ActorSystem().Root, n.d, n.id, n.ctx, n.wish.secrets
	go func() {
		ctx, cancel := context.WithTimeout(ctx, attemptLimit)
		defer cancel()
		root.Send(self, landed{attempted{Delivery: d, Attempt: deps.attempt(ctx, id, d, payload, sealed)}})
	}()
}

// attempt loads what is missing and sends. What cannot be loaded now is as if the node were busy.
func (d *Deps) attempt(ctx context.Context, id agent.ID, x agent.Delivery, payload []byte, sealed []sealed) agent.Attempt {
	if payload == nil {
		var err error
		if payload, err = d.Store.Record(ctx, id, agent.RecordPayload, x.ID); err != nil || payload == nil {
			return agent.Attempt{Busy: true}
		}
	}
	var secrets []agent.Secret
	for _, s := range sealed {
		clear, err := d.Sealer.Open(string(id), s.slot, s.value)
		if err != nil {
			d.Log.Error("signing secret cannot be opened", "agent_id", id, "err", err)
			return agent.Attempt{Error: "The signing secret cannot be opened"}
		}
		secrets = append(secrets, agent.NewSecret(clear))
	}
	return d.Courier.Send(ctx, &agent.Outgoing{Delivery: x, Payload: payload}, secrets)
}

func (n *notifier) land(c actor.Context, m landed) {
	x := n.flying[m.ID]
	if x == nil || n.ctx.Err() != nil {
		return
	}
	if m.Busy {
		delete(n.flying, m.ID)
		n.report(c)
		later(c, lookDone{})
		return
	}
	*x = m.attempted
	n.tell(c, x)
}

func (n *notifier) tell(c actor.Context, x *attempted) {
	c.Send(c.Parent(), *x)
	later(c, retell{x})
}

// tellNotifier keeps the notifier in step with the committed outbox.
func (g *Grain) tellNotifier(c actor.Context, m *agent.Machine) {
	s := &m.S
	if s.Deleting || s.Owed == 0 && len(g.flying) == 0 {
		if g.notifier != nil {
			c.Unwatch(g.notifier)
			c.Stop(g.notifier)
			g.notifier, g.flying = nil, nil
		}
		return
	}
	if len(s.Dropping) > 0 {
		g.giveUp(c)
	}
	if s.Owed <= int64(len(g.flying)) || s.NotifyMS == 0 || s.NotifyMS > m.Now {
		return
	}
	if g.notifier == nil {
		g.notifier = c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &notifier{d: g.d, id: g.id} }))
		c.Watch(g.notifier)
	}
	w := notifyWish{nowMS: m.Now, fresh: m.Fresh}
	for _, slot := range []string{agent.SlotWebhook, agent.SlotWebhookOld} {
		if v := m.Spec.Sealed[slot]; v != "" && (slot == agent.SlotWebhook || m.Now < m.Spec.FormerMS) {
			w.secrets = append(w.secrets, sealed{slot, v})
		}
	}
	c.Send(g.notifier, w)
}

// attempted stores the end of an attempt.
func (g *Grain) attempted(c actor.Context, r attempted) {
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
	if g.notifier != nil {
		c.Send(g.notifier, settled{r.ID})
	}
	g.flying = slices.DeleteFunc(g.flying, func(id string) bool { return id == r.ID })
	if result == agent.DeliveryDone || result == agent.DeliveryDead {
		g.prune(c)
	}
}

func (g *Grain) storeAttempt(c actor.Context, r attempted) (result string, err error) {
	if err := g.load(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if r.again {
		body, err := g.d.Store.Record(ctx, g.id, agent.RecordOwed, r.ID)
		if err != nil {
			return "", err
		}
		var now agent.Delivery
		if body == nil || json.Unmarshal(body, &now) == nil && now.Attempts > r.Attempts {
			return "", nil // an earlier telling was stored
		}
	}
	others := slices.DeleteFunc(slices.Clone(g.flying), func(id string) bool { return id == r.ID })
	var s struct{ Owed int64 }
	if err := json.Unmarshal(g.state, &s); err != nil {
		return "", err
	}
	next := int64(0)
	if s.Owed > int64(1+len(others)) {
		rows, err := records[agent.Delivery](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordOwed, Limit: agent.MaxFlying + 1})
		if err != nil {
			return "", err
		}
		for _, d := range rows {
			if d.ID != r.ID && !slices.Contains(others, d.ID) {
				next = d.NextMS
				break
			}
		}
	}
	_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
		result = m.Attempted(r.Delivery, r.Attempt, next, len(others))
		return nil, nil
	})
	return result, err
}

// giveUp gives up pending deliveries whose URL was removed, a page at a time (OUT-10).
func (g *Grain) giveUp(c actor.Context) {
	if g.dropping {
		return
	}
	g.dropping = true
	defer func() { g.dropping = false }()
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	page, err := records[agent.Delivery](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordOwed, Offset: g.kept, Limit: dropPage})
	if err != nil {
		return // the next look finds it again
	}
	last := len(page) < dropPage
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { g.kept += m.GiveUp(page, last, g.flying); return nil, nil }); err != nil || last {
		g.kept = 0
	}
	if err == nil && !last {
		c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
	}
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
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { m.Prune(oldest); return nil, nil }); err == nil && oldest[len(oldest)-1].Forgotten(time.Now().UnixMilli()) && len(oldest) == pruneBatch {
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
