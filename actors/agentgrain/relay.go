package agentgrain

import (
	"context"
	"encoding/json"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// sendLimit is how long one part may take, with its wait for the bot's pace.
const sendLimit = 60 * time.Second

// relayGo tells a binding's child to send the present part of a reply.
type relayGo struct {
	relay agent.Relay
	part  agent.Part
	parts int
	done  chan relayDone // takes what became of it, for an activation that ends
}

// relayDone is what became of it.
type relayDone struct {
	relayGo
	fate  agent.RelayFate
	after time.Duration
}

// bindingChild sends the replies of one binding, one part at a time, in the order in which its parent says so.
type bindingChild struct{ d *Deps }

// Receive implements actor.Actor.
func (b *bindingChild) Receive(c actor.Context) {
	m, ok := c.Message().(relayGo)
	if !ok {
		return
	}
	parent, root, d := c.Parent(), c.ActorSystem().Root, b.d
	go func() { // ends with its deadline
		ctx, cancel := context.WithTimeout(context.Background(), sendLimit)
		defer cancel()
		done := relayDone{relayGo: m}
		err := fault.Caught(func() error { done.fate, done.after = d.Chats.Send(ctx, m.part); return nil })
		if err != nil { // nobody knows whether it was sent
			d.Log.Error("relay of a reply panicked", "agent_id", m.part.Agent, "err", err)
			done.fate = agent.PartUncertain
		}
		m.done <- done
		root.Send(parent, done)
	}()
}

// relaying is a binding whose child has something in hand, or had.
type relaying struct {
	child *actor.PID
	busy  bool
	done  chan relayDone
}

// lastWords is how long an activation that ends waits for parts that are under way.
const lastWords = 3 * time.Second

// tellRelays goes on with the outbox of every binding that is due.
func (g *Grain) tellRelays(c actor.Context, m *agent.Machine) {
	if m.S.Deleting || g.relayNow {
		return
	}
	g.relayNow = true
	defer func() { g.relayNow = false }()
	for _, h := range m.S.Relays {
		if r := g.relays[h.Binding]; r != nil && r.busy || h.NextMS > m.Now {
			continue
		}
		if b := m.RelayTo(h.Binding); b != nil && m.Spec.Bots[b.Channel] != m.S.Bots[b.Channel] {
			continue // the bot is asked once the cluster knows that the agent uses it
		}
		if err := g.relayFirst(c, h.Binding); err != nil && !fault.Is(err, fault.Fenced) {
			g.d.Log.Warn("reply could not be relayed", "agent_id", g.id, "binding_id", h.Binding, "err", err)
			g.arm(time.Second)
		}
	}
	for id, r := range g.relays {
		if !r.busy && m.RelayTo(id) == nil {
			c.Stop(r.child)
			delete(g.relays, id)
		}
	}
}

// relayFirst takes the first reply of a binding's outbox in hand.
func (g *Grain) relayFirst(c actor.Context, binding string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	r, owed, err := g.firstRelay(ctx, binding)
	if err != nil {
		return err
	}
	var text string
	if owed > 0 {
		msgs, err := g.d.Store.ByID(ctx, g.id, []agent.MessageID{r.Message})
		if err != nil {
			return err
		}
		if len(msgs) > 0 {
			text = msgs[0].Content
		}
	}
	key := unsent{r.Message, r.Part}
	held := true // the route leads here, as far as that was made
	for _, b := range g.bindingsNow() {
		if b.ID == binding && b.Routed != "" {
			holder, err := g.d.Store.Route(ctx, agent.RouteChat, agent.ChatRoute(b.Routed, b.User))
			if err != nil {
				return err
			}
			held = holder == g.id
		}
	}
	var work *relayGo
	intends := false
	_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
		work, intends, key = nil, false, unsent{r.Message, r.Part}
		if owed == 0 {
			m.RelaysDone(binding)
			return nil, nil
		}
		b := m.RelayTo(binding)
		if b != nil && !held { // the account was linked elsewhere, and that was not told (CHAN-1)
			m.Displace(b.Bot, b.User)
			b = nil
		}
		if b == nil {
			m.Relayed(r, agent.Unbound, 0, 0, owed, true)
			return nil, nil
		}
		parts, repeatable, present := g.d.Chats.Parts(b.Channel, text), g.d.Chats.Repeatable(b.Channel), r
		bot := m.Spec.BotOf(b.Channel, g.d.SharedBot)
		switch {
		case r.Part >= len(parts): // nothing to send
			m.Relayed(r, agent.PartSent, 0, 0, owed, repeatable)
			return nil, nil
		case r.Sending && g.unsent[binding] != key: // by an activation that did not live to tell
			var goesOn bool
			if present, goesOn = m.Relayed(r, agent.PartUncertain, len(parts), 0, owed, repeatable); !goesOn {
				return nil, nil
			}
			if bot != b.Bot {
				m.Rest(present)
				return nil, nil
			}
			key, intends = unsent{present.Message, present.Part}, true
		case bot != b.Bot: // cleared, or about to move; a new token revives the binding (CHAN-12)
			wait := time.Minute
			if m.RoutesDue() {
				wait = time.Second
			}
			m.Relayed(r, agent.PartLater, len(parts), wait, owed, repeatable)
			return nil, nil
		case !repeatable:
			present, intends = m.Intend(r), true
		}
		work = &relayGo{present, agent.Part{Agent: g.id, Bot: bot, Binding: *b, Message: r.Message, Number: present.Part, Text: parts[present.Part]}, len(parts), nil}
		return nil, nil
	})
	switch {
	case err != nil && intends:
		g.note(binding, key) // the intent may be stored, and nothing was sent
	case err == nil && work != nil:
		delete(g.unsent, binding)
		g.relayPart(c, *work)
	case err == nil && owed > 1:
		c.Send(c.Self(), &protocol.Command{Kind: protocol.Look}) // the next may be due
	}
	return err
}

// unsent is a part whose intent may be stored although nothing was sent.
type unsent struct {
	message agent.MessageID
	part    int
}

func (g *Grain) note(binding string, u unsent) {
	if g.unsent == nil {
		g.unsent = map[string]unsent{}
	}
	g.unsent[binding] = u
}

// bindingsNow are the bindings as committed.
func (g *Grain) bindingsNow() []agent.Binding {
	var s struct{ Bindings []agent.Binding }
	_ = json.Unmarshal(g.state, &s) // it was committed by this code
	return s.Bindings
}

func (g *Grain) firstRelay(ctx context.Context, binding string) (r agent.Relay, owed int64, err error) {
	bodies, total, err := g.d.Store.Recorded(ctx, g.id, agent.RecordPage{Kind: agent.RecordRelay, Group: binding, Limit: 1})
	if err == nil && len(bodies) > 0 {
		err = json.Unmarshal(bodies[0], &r)
	}
	return r, int64(total), err
}

func (g *Grain) relayPart(c actor.Context, w relayGo) {
	r := g.relays[w.relay.Binding]
	if r == nil {
		r = &relaying{child: c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &bindingChild{g.d} }))}
		if g.relays == nil {
			g.relays = map[string]*relaying{}
		}
		g.relays[w.relay.Binding] = r
	}
	g.hand(c, r, w)
}

func (g *Grain) hand(c actor.Context, r *relaying, w relayGo) {
	w.done = make(chan relayDone, 1)
	r.busy, r.done = true, w.done
	c.Send(r.child, w)
}

// lastRelays stores what becomes of the parts that are under way before this activation ends. The bots that end with it give back what they
// have not sent; what is at the network is over in a moment. A part that nobody knows of would have to count as uncertain.
func (g *Grain) lastRelays(c actor.Context) {
	g.leaving = true
	limit := time.After(lastWords)
	for _, r := range g.relays {
		if !r.busy {
			continue
		}
		select {
		case d := <-r.done:
			g.relayed(c, d)
		case <-limit:
			return
		}
	}
}

// relayed stores what became of a part, and goes on with the next.
func (g *Grain) relayed(c actor.Context, d relayDone) {
	r := g.relays[d.relay.Binding]
	if r == nil || !r.busy {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	now, owed, err := g.firstRelay(ctx, d.relay.Binding)
	var next *relayGo
	if err == nil && (now.Message != d.relay.Message || now.Part != d.relay.Part || now.Sending != d.relay.Sending) { // it was stored, and nobody said so
		if now.Message == d.relay.Message && now.Sending {
			g.note(d.relay.Binding, unsent{now.Message, now.Part})
		}
	} else if err == nil {
		_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
			next = nil
			present, goesOn := m.Relayed(d.relay, d.fate, d.parts, d.after, owed, g.d.Chats.Repeatable(d.part.Binding.Channel))
			b := m.RelayTo(d.relay.Binding)
			if goesOn && g.leaving {
				m.Rest(present)
			}
			if !goesOn || b == nil || g.leaving {
				return nil, nil
			}
			text := m.Content(present.Message)
			parts := g.d.Chats.Parts(b.Channel, text)
			if present.Part < len(parts) {
				next = &relayGo{relay: present, part: d.part, parts: d.parts}
				next.part.Binding, next.part.Number, next.part.Text = *b, present.Part, parts[present.Part]
			}
			return nil, nil
		})
	}
	switch {
	case fault.Is(err, fault.Fenced) || g.gone:
		return
	case g.leaving:
		r.busy = false
		return
	case err != nil: // what was sent must not be forgotten
		self, root := c.Self(), c.ActorSystem().Root
		time.AfterFunc(time.Second, func() { root.Send(self, d) })
		return
	}
	g.d.Metrics.ChatMessage(string(d.part.Binding.Channel), "out", fateNames[d.fate])
	if next != nil {
		g.hand(c, r, *next)
		return
	}
	r.busy = false
	c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
}

var fateNames = map[agent.RelayFate]string{agent.PartSent: "sent", agent.PartUncertain: "uncertain", agent.PartLater: "retried", agent.PartRefused: "refused", agent.WindowClosed: "refused", agent.Unbound: "dropped"}

// relayEnded notes that the child of a binding has failed, and says whether it was one. What it had in hand may have been sent.
func (g *Grain) relayEnded(who *actor.PID) bool {
	for id, r := range g.relays {
		if r.child.Id == who.Id {
			delete(g.relays, id)
			return true
		}
	}
	return false
}

// sending says whether a part is under way.
func (g *Grain) sending() bool {
	for _, r := range g.relays {
		if r.busy {
			return true
		}
	}
	return false
}
