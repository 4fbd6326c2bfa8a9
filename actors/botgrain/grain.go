// Package botgrain is the virtual actor of one bot of a chat network: the one place in the cluster that holds its connection and sends in its
// name (CHAN-13).
//
//	Keeper (every member) ── asks for the bots that it should hold, which is what activates them
//	bot/<id>              ── reads which agents use the bot, keeps a line open with the credentials of the first, sends what agents ask it to
//	line                  ── one connection, made anew when it is lost, and when credentials change
//
// Two activations may overlap while the topology changes. Then a network may deliver an event twice: its message has the same id both times.
package botgrain

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/cluster/member"
)

const (
	loadTimeout = 5 * time.Second
	recheck     = 30 * time.Second // the agents that use a bot are read again so often: hints may be lost
	maxWaiting  = 256              // parts that wait for the bot's line or its pace
	typeTimeout = 5 * time.Second
	maxRedial   = time.Minute
	hopeless    = 30 * time.Minute // a connection that is not wanted as the bot is set up; other credentials are tried at once
)

// Store is what a bot reads.
type Store interface {
	agent.Bots
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
}

// Line is a bot with its credentials.
type Line interface {
	// Run keeps the connection until it is lost or ctx ends. A network without connections waits for the end.
	Run(ctx context.Context) error
	// Send sends one part. It waits for the bot's pace no longer than pace lasts.
	Send(ctx, pace context.Context, p agent.Part) protocol.SendResult
	// Type shows that somebody is writing, if the bot's pace has room for that.
	Type(ctx context.Context, p agent.Part)
}

// Deps are the grain's dependencies, shared by the bots of a node.
type Deps struct {
	Store Store
	// Open makes a line; it does not connect yet.
	Open func(bot string, u agent.BotUse, credentials agent.Secret) Line
	// Unseal opens an agent's credentials.
	Unseal func(id agent.ID, slot, sealed string) (agent.Secret, error)
	// Shared is the platform's Discord bot with its token; no agent's configuration has it.
	Shared      string
	SharedToken agent.Secret
	Connected   func(channel agent.Channel, delta int)
	Hopeless    func(err error) bool            // says that a connection will end like this again and again
	Pause       map[agent.Channel]time.Duration // between connections at least
	Log         *slog.Logger
}

// Grain is the activation of one bot.
type Grain struct {
	d       *Deps
	id      string
	act     *member.Activation
	use     agent.BotUse
	secret  agent.Secret
	line    Line
	stop    context.CancelFunc // of the line
	unpace  context.CancelFunc
	pace    context.Context // ends with the line: what waits to be sent is sent by another
	gen     int             // of the line
	lost    int             // connections in a row that did not last
	loading bool
	again   bool
	waiting []waiting
	busy    int
	timer   *time.Timer
}

type waiting struct {
	part  agent.Part
	from  *actor.PID
	until time.Time // nobody waits for the answer any more
}

type (
	loaded struct {
		uses   []agent.BotUse
		use    agent.BotUse
		secret agent.Secret
		err    error
	}
	ended struct {
		gen  int
		err  error
		took time.Duration
	}
	redial struct{ gen int }
	tick   struct{}
	sent   struct{}
)

// Props returns the properties of bot grains.
func Props(d *Deps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &Grain{d: d, stop: func() {}, unpace: func() {}} })
}

// Receive implements actor.Actor.
func (g *Grain) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *cluster.ClusterInit:
		g.id, g.act = m.Identity.Identity, member.ActivationOf(c)
		g.load(c)
	case *protocol.Command:
		g.command(c, m)
	case loaded:
		g.loaded(c, m)
	case ended:
		g.ended(c, m)
	case redial:
		if m.gen == g.gen && g.line != nil {
			g.run(c)
		}
	case tick:
		g.load(c)
	case sent:
		g.busy--
	case *actor.Stopping, *actor.Restarting:
		g.hangUp()
		if g.timer != nil {
			g.timer.Stop()
		}
		for _, w := range g.waiting {
			c.Send(w.from, protocol.Answer(nil, fault.Store(errors.New("the bot moves"))))
		}
		g.waiting = nil
	}
}

func (g *Grain) command(c actor.Context, cmd *protocol.Command) {
	switch cmd.Kind {
	case protocol.Look:
		g.load(c)
	case protocol.Send:
		part, err := protocol.Decode[agent.Part](cmd.Body)
		if err != nil || c.Sender() == nil {
			return
		}
		w := waiting{part, c.Sender(), time.Now().Add(agent.SendTimeout)}
		switch {
		case g.busy+len(g.waiting) >= maxWaiting:
			c.Respond(protocol.Answer(protocol.SendResult{Fate: agent.PartLater, AfterMS: time.Second.Milliseconds()}, nil))
		case g.line == nil: // it is being opened
			g.waiting = append(g.waiting, w)
			g.load(c)
		default:
			g.send(c, w)
		}
	case protocol.Typing:
		part, err := protocol.Decode[agent.Part](cmd.Body)
		if err != nil || g.line == nil || g.busy >= maxWaiting/2 {
			return
		}
		g.busy++
		self, root, d, id, line, pace := c.Self(), c.ActorSystem().Root, g.d, g.id, g.line, g.pace
		go func() { // ends with its deadline
			ctx, cancel := context.WithTimeout(pace, typeTimeout)
			defer cancel()
			if err := fault.Caught(func() error { line.Type(ctx, part); return nil }); err != nil {
				d.Log.Error("a bot panicked", "bot", id, "err", err)
			}
			root.Send(self, sent{})
		}()
	default:
		if c.Sender() != nil {
			c.Respond(protocol.Answer(nil, fault.Newf(fault.Unavailable, "dependency_unavailable", "A bot does not know the command %q", cmd.Kind)))
		}
	}
}

func (g *Grain) send(c actor.Context, w waiting) {
	g.busy++
	self, root, d, id, line, pace := c.Self(), c.ActorSystem().Root, g.d, g.id, g.line, g.pace
	go func() { // ends with its deadline
		ctx, cancel := context.WithTimeout(context.Background(), agent.SendTimeout)
		defer cancel()
		var out protocol.SendResult
		if err := fault.Caught(func() error { out = line.Send(ctx, pace, w.part); return nil }); err != nil {
			d.Log.Error("a bot panicked", "bot", id, "err", err)
			out = protocol.SendResult{Fate: agent.PartUncertain} // nobody knows whether it was sent
		}
		root.Send(w.from, protocol.Answer(out, nil))
		root.Send(self, sent{})
	}()
}

// load reads who uses the bot, and the credentials of the first.
func (g *Grain) load(c actor.Context) {
	if g.loading {
		g.again = true
		return
	}
	g.loading, g.again = true, false
	self, root, d, id := c.Self(), c.ActorSystem().Root, g.d, g.id
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		root.Send(self, d.read(ctx, id))
	}()
}

func (d *Deps) read(ctx context.Context, id string) (l loaded) {
	if id == d.Shared && id != "" {
		return loaded{use: agent.BotUse{Channel: agent.ChannelDiscord}, secret: d.SharedToken}
	}
	if l.uses, l.err = d.Store.Bot(ctx, id); l.err != nil {
		return l
	}
	for _, u := range l.uses {
		sn, err := d.Store.Load(ctx, u.Agent)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			l.err = err
			return l
		}
		var spec agent.Spec
		if err := json.Unmarshal(sn.Spec, &spec); err != nil {
			d.Log.Error("the spec of an agent cannot be read", "agent_id", u.Agent, "err", err)
			continue // the next one has the same bot
		}
		slot := agent.ChatSlot(u.Channel)
		if spec.Bots[u.Channel] != id {
			if err := d.Store.DropBot(ctx, id, u.Agent); err != nil { // its configuration has moved on
				d.Log.Warn("a bot keeps an agent that has left it", "bot", id, "agent_id", u.Agent, "err", err)
			}
			continue
		}
		secret, err := d.Unseal(u.Agent, slot, spec.Sealed[slot])
		if err != nil {
			d.Log.Error("credentials of a bot cannot be opened", "agent_id", u.Agent, "err", err)
			continue
		}
		l.secret, l.use = secret, u
		return l
	}
	return l
}

func (g *Grain) loaded(c actor.Context, m loaded) {
	g.loading = false
	if g.again {
		g.load(c)
		return
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	self, root := c.Self(), c.ActorSystem().Root
	pause := recheck
	if m.err != nil {
		g.d.Log.Warn("a bot could not be read", "bot", g.id, "err", m.err)
		pause = time.Second
	}
	g.timer = time.AfterFunc(pause, func() { root.Send(self, tick{}) })
	switch {
	case m.err != nil:
		g.refuse(c, time.Second)
	case m.secret.Empty(): // nobody uses it any more
		g.hangUp()
		g.refuse(c, recheck)
		g.act.Passivate(c)
	case g.line == nil || m.secret != g.secret || m.use != g.use: // another agent's address may have to be registered
		g.hangUp()
		g.use, g.secret, g.lost = m.use, m.secret, 0
		g.line = g.d.Open(g.id, m.use, m.secret)
		g.pace, g.unpace = context.WithCancel(context.Background())
		g.run(c)
		for _, w := range g.waiting {
			if time.Now().Before(w.until) {
				g.send(c, w)
			} else {
				c.Send(w.from, protocol.Answer(protocol.SendResult{Fate: agent.PartLater}, nil))
			}
		}
		g.waiting = nil
	}
}

// refuse tells those who wait for a line that there is none now: nothing was sent.
func (g *Grain) refuse(c actor.Context, after time.Duration) {
	for _, w := range g.waiting {
		c.Send(w.from, protocol.Answer(protocol.SendResult{Fate: agent.PartLater, AfterMS: after.Milliseconds()}, nil))
	}
	g.waiting = nil
}

// run opens the connection of the present line.
func (g *Grain) run(c actor.Context) {
	g.gen++
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	self, root, line, gen, channel, connected := c.Self(), c.ActorSystem().Root, g.line, g.gen, g.use.Channel, g.d.Connected
	go func() { // ends with the line
		began := time.Now()
		connected(channel, 1)
		err := fault.Caught(func() error { return line.Run(ctx) }) // one that panics is a connection that was lost
		connected(channel, -1)
		root.Send(self, ended{gen, err, time.Since(began)})
	}()
}

func (g *Grain) ended(c actor.Context, m ended) {
	if m.gen != g.gen || g.line == nil {
		return
	}
	if m.took > maxRedial {
		g.lost = 0
	}
	pause := min(time.Second<<min(g.lost, 6), maxRedial)
	if g.d.Hopeless(m.err) {
		pause = hopeless
	} else {
		pause = max(pause, g.d.Pause[g.use.Channel])
	}
	g.lost++
	g.d.Log.Warn("connection of a bot lost", "bot", g.id, "channel", g.use.Channel, "again_in", pause, "err", m.err)
	self, root, gen := c.Self(), c.ActorSystem().Root, g.gen
	time.AfterFunc(pause, func() { root.Send(self, redial{gen}) })
}

func (g *Grain) hangUp() {
	g.stop()
	g.unpace()
	g.gen++
	g.line, g.stop = nil, func() {}
}
