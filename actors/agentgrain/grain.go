// Package agentgrain is the virtual actor of one agent.
//
// The grain is thin: it reads what it needs, lets actors/agent decide, commits the decision in one fenced write, and
// acts only then. What it does is always repeatable from the committed state, so a crash between commit and act is
// repaired by the next activation. Its children do the slow work:
//
//	grain ── pod    starts, stops, watches the agent's pod and applies file changes (one operation at a time)
//	      ├─ turn   the running turn's clock: deadline, grace of a cancel, confirmation of the start
//	      ├─ notifier  attempts at webhook deliveries, while any is due
//	      └─ binding/…  replies to one linked chat account, part by part
//
// A child that panics is started anew with backoff; a grain that panics answers its caller, stops, and is activated
// again by the next command or hint. A write that is refused because another activation owns the agent stops this one.
package agentgrain

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/cluster/member"
)

// Store is what the grain keeps and reads.
type Store interface {
	agent.Snapshots
	agent.Messages
	agent.Records
	agent.Alarms
	agent.Routes
	agent.Inbox
	agent.Bots
}

// Places gives the place of a deleted agent back, with its keys and grants.
type Places interface {
	FreePlace(ctx context.Context, p account.Place) error
	ListPlatformKeys(ctx context.Context, a account.ID) ([]account.PlatformKey, error)
	DeletePlatformKey(ctx context.Context, a account.ID, id string) error
	account.MCPServers
}

// Metrics counts what happens to agents.
type Metrics interface {
	Fenced(kind string)
	TurnEnded(outcome agent.Outcome, took time.Duration)
	Woken(kind string, took time.Duration)
	Activated(delta int)
	PodStatus(from, to agent.PodStatus)
	ScheduleLag(late time.Duration)
	Delivery(event, result string)
	ChatMessage(channel, direction, result string)
}

// Sealer encrypts and decrypts an agent's secrets and makes its runtime keys.
type Sealer interface {
	SealAgent(id agent.ID, slot string, v agent.Secret) (string, error)
	Open(owner, slot, sealed string) (string, error)
	RuntimeKey(id agent.ID, incarnation int64) agent.Secret
}

// Deps are the grain's dependencies, shared by all activations of a node.
type Deps struct {
	Store     Store
	Places    Places
	Runtime   agent.Runtime
	Workspace agent.Workspace
	Courier   agent.Courier
	Chats     agent.Chats
	SharedBot string                              // the platform's Discord bot; "": none
	LookBot   func(bot string)                    // hints a bot; must not block
	Displace  func(id agent.ID, bot, user string) // tells an agent that an account was linked elsewhere; must not block
	Sealer    Sealer
	Settings  agent.Settings
	Node      string
	Hint      func(agent.ID)  // to another agent; must not block
	URLs      func() []string // base URLs of live nodes, this one first
	Base      string          // base URL under which runners reach any of them; "": this node's
	Log       *slog.Logger
	Metrics   Metrics
}

const (
	unknown       = -1 // in Grain.armed: an earlier activation may have left an entry in the clock
	commitTimeout = 2 * time.Second
	reloadPause   = 200 * time.Millisecond
	firstLook     = 50 * time.Millisecond
	maxFileTries  = 60 // a second apart; then the change is given up
)

// Grain is one activation.
type Grain struct {
	d          *Deps
	id         agent.ID
	act        *member.Activation
	spec       agent.Spec // as committed
	state      []byte     // so, too
	version    int64
	loaded     bool
	roused     bool             // the clock is why it looks now: a slot is due, perhaps
	begun      *begun           // read for schedules that are being worked out, for the step that commits them
	schedules  []agent.Schedule // as read then; nil: not at hand
	slots      slots
	gone       bool
	activated  time.Time
	armed      int64 // due instant in the clock, as far as this activation knows
	gen        int   // of the timer
	timer      *time.Timer
	idleSince  time.Time
	pod, turn  *actor.PID
	relays     map[string]*relaying // by binding
	relayNow   bool
	typed      time.Time
	leaving    bool              // it stores what it knows and begins nothing
	unsent     map[string]unsent // by binding
	settling   bool
	notifier   *actor.PID
	flying     []string // deliveries that it works on
	notifiers  int      // made so far
	sweeping   bool
	kept       int // deliveries that sweep has passed
	ended      int // deliveries that ended in this activation
	restarts   int
	waiting    map[string]*actor.PID     // callers of file changes, by command id
	wokenAt    time.Time                 // first look that wanted to start a turn, for the wake metric
	failing    failing                   // operations on the pod
	wished     wishKey                   // what the pod child was told last
	closed     map[agent.MessageID]error // what became of the intents that a caller waits for; nil outside such a call
	delivering bool
	opened     int // sessions that this activation has opened
	fileTries  int // attempts at the file change in hand that did not get through
	self       *actor.PID
	root       *actor.RootContext
}

type tick struct{ gen int }

// Props returns the properties of agent grains.
func Props(d *Deps) *actor.Props {
	schedules := scheduleProps((*agent.Schedule).Slot, d.Log)
	return actor.PropsFromProducer(func() actor.Actor {
		return &Grain{d: d, waiting: map[string]*actor.PID{}, activated: time.Now(), slots: slots{props: schedules, now: time.Now}}
	}, actor.WithSupervisor(actor.NewOneForOneStrategy(0, 0, func(any) actor.Directive { return actor.StopDirective })))
}

// Receive implements actor.Actor.
func (g *Grain) Receive(c actor.Context) {
	defer g.answerPanic(c)
	switch m := c.Message().(type) {
	case *cluster.ClusterInit:
		g.init(c, m)
	case *protocol.Command:
		g.command(c, m)
	case tick:
		if m.gen == g.gen {
			g.look(c)
		}
	case podReport:
		g.observed(c, m)
	case fileReport:
		g.filesApplied(c, m)
	case flight:
		g.underWay(m)
	case nothing:
		g.nothingDue(c, m)
	case attempted:
		g.attempted(c, m)
	case relayDone:
		g.relayed(c, m)
	case slotDone:
		g.slots.finished(m)
		g.takeSlots(c)
	case *actor.Terminated:
		g.childEnded(c, m.Who)
	case *actor.Stopping:
		g.lastRelays(c)
		g.pod, g.turn, g.notifier, g.relays, g.slots.children = nil, nil, nil, nil, nil // they end with this activation
		g.stopTimer()
		g.d.Metrics.Activated(-1)
	}
}

// answerPanic lets the caller know before the supervisor stops this activation: it repeats, and meets a fresh one.
func (g *Grain) answerPanic(c actor.Context) {
	r := recover()
	if r == nil {
		return
	}
	g.d.Log.Error("agent grain panicked", "agent_id", g.id, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	if c.Sender() != nil {
		c.Respond(protocol.Answer(nil, fault.New(fault.Internal, "internal", "Internal server error")))
	}
	panic(r)
}

func (g *Grain) init(c actor.Context, m *cluster.ClusterInit) {
	g.id = agent.ID(m.Identity.Identity)
	g.act = member.ActivationOf(c)
	g.self, g.root = c.Self(), c.ActorSystem().Root
	g.idleSince = time.Now()
	g.d.Metrics.Activated(1)
	g.arm(firstLook) // whoever caused this activation has something to say, and that is a look as well; unless it was lost
}

// load reads the committed state unless it is at hand.
func (g *Grain) load() error {
	if g.loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	_, _, err := g.reload(ctx)
	return err
}

// reload reads the committed state after the claim, so that nothing of an earlier owner is missed, and what comes with it.
func (g *Grain) reload(ctx context.Context) (agent.Figures, []agent.Message, error) {
	page := agent.RecordPage{}
	if g.roused {
		page = allSchedules
	}
	b, err := g.d.Store.Begin(ctx, g.id, agent.MaxBatchMessages, page)
	if err != nil {
		g.gone = fault.Is(err, fault.NotFound)
		return b.Figures, nil, err
	}
	var spec agent.Spec
	if err := json.Unmarshal(b.Spec, &spec); err != nil {
		return b.Figures, nil, fmt.Errorf("decode spec of agent %s: %w", g.id, err)
	}
	g.schedules = nil
	if g.roused { // also that there are none
		if g.schedules, err = decode[agent.Schedule](g.id, agent.RecordSchedule, b.Records); err != nil {
			return b.Figures, nil, err
		}
	}
	g.spec, g.state, g.version, g.loaded = spec, b.State, b.Version, true
	g.armed = unknown
	return b.Figures, b.Queue, nil
}

// decision fills the machine and returns the result for the caller. Changed says that it did something.
type decision func(m *agent.Machine) (result any, err error)

// step is one turn of decide, commit, act. Queue is how many pending messages the decision may need.
func (g *Grain) step(c actor.Context, cmd *protocol.Command, decide decision) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	var (
		m           *agent.Machine
		result      any
		err         error
		wasTurn     *agent.Turn
		wasSession  *agent.Session
		wasPod      agent.PodStatus
		queue, more []agent.Message
		known       = map[agent.MessageID]agent.Message{}
	)
	for { // twice where the decision needs messages that are not at hand
		if m, queue, err = g.machine(ctx); err != nil {
			return nil, g.failed(c, err)
		}
		m.Loaded = known
		wasTurn, wasPod, wasSession = m.S.Turn, m.PodStatus(), m.S.Session
		if result, err = decide(m); err != nil {
			return nil, err
		}
		guard := m.C.Guard
		if !m.S.Deleting {
			m.Look(queue)
		}
		m.C.Guard = guard
		if len(m.Missing) == 0 {
			break
		}
		if more, err = g.d.Store.ByID(ctx, g.id, m.Missing); err != nil {
			return nil, g.failed(c, err)
		}
		for _, id := range m.Missing {
			known[id] = agent.Message{} // one that is not there either
		}
		for _, x := range more {
			known[x.ID] = x
		}
	}
	commit := m.Finish()
	if g.idle(commit) {
		g.slots.done = nil
		g.perform(c, m)
		return result, nil
	}
	commit.Agent, commit.Fence, commit.Version = g.id, g.act.Fence, g.version
	commit.Rearm = g.misarmed(m, commit.Due)
	if cmd != nil && cmd.Id != "" && once[cmd.Kind] && commit.Idem == nil {
		commit.Idem = &agent.Idempotency{Key: onceKey(cmd), Hash: cmd.Kind}
		if _, after := result.(committed); !after {
			commit.Idem.Result = agent.Encode(result)
		}
	}
	done, err := g.d.Store.Commit(ctx, commit)
	if err != nil {
		return nil, g.failed(c, err)
	}
	if done.Done != nil { // an earlier attempt of the same command took effect
		g.loaded = false
		return json.RawMessage(done.Done), nil
	}
	g.version, g.state, g.schedules, g.slots.done = done.Version, commit.State, nil, nil
	if commit.Spec != nil {
		g.spec = m.Spec
	}
	if done.Rearmed || commit.Due > 0 && (g.armed == 0 || g.armed > 0 && commit.Due < g.armed) {
		g.armed = commit.Due
	}
	g.idleSince = time.Now()
	g.measure(m, wasTurn, wasPod)
	for _, lag := range m.Lags {
		g.d.Metrics.ScheduleLag(time.Duration(lag) * time.Millisecond)
	}
	g.perform(c, m)
	if len(m.Lags) > 0 && m.S.Status == agent.Active { // what was queued is in the queue only now
		c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
	}
	if m.S.Session != nil && (wasSession == nil || wasSession.ID != m.S.Session.ID) {
		g.forget(c, m.Now)
	}
	if p, ok := result.(committed); ok {
		return p(done), nil
	}
	return result, nil
}

// committed makes a result that needs what the store returned.
type committed func(agent.Committed) any

// once names the commands whose repetition is told by their id; the others are safe to repeat as they are.
var once = map[string]bool{protocol.Status: true, protocol.Balance: true, protocol.Update: true, protocol.Trigger: true, protocol.Schedule: true,
	protocol.Rotate: true, protocol.Link: true, protocol.Redeliver: true}

// onceKey is under which a command's result is remembered.
func onceKey(cmd *protocol.Command) string { return "cmd/" + cmd.Id }

// machine reads what the agent is now. Figures are always read anew: scripts change them beside the activation. They also
// tell whether what this activation remembers is still true. One that has lost its claim decides nothing more, and a store
// that lost its last writes in a failover is believed (REC-7).
func (g *Grain) machine(ctx context.Context) (*agent.Machine, []agent.Message, error) {
	m := &agent.Machine{Set: g.d.Settings, NewID: agent.NewUUID}
	peek := func(ctx context.Context) (agent.Figures, []agent.Message, error) {
		return g.d.Store.Peek(ctx, g.id, agent.MaxBatchMessages)
	}
	switch {
	case !g.loaded:
		peek = g.reload
	case g.begun.fresh():
		peek = g.begun.peek
	}
	f, queue, err := peek(ctx)
	g.begun = nil
	if err != nil {
		return nil, nil, err
	}
	if (agent.Fence{Member: f.Member, Epoch: f.Epoch}) != g.act.Fence {
		return nil, nil, fault.Lost("agent " + string(g.id))
	}
	if f.Version != g.version {
		if f, queue, err = g.reload(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err := m.Restore(g.spec, g.state); err != nil {
		return nil, nil, fmt.Errorf("agent %s: %w", g.id, err)
	}
	m.F, m.Now, m.Queued = f, f.NowMS, queue
	if m.Over, err = g.over(ctx, &m.S, queue); err == nil && m.SlotDue() && g.slots.done != nil {
		m.Schedules, err = g.dueSchedules(ctx, m.Now)
	}
	return m, queue, err
}

// over reads which tasks that have input in the queue are over.
func (g *Grain) over(ctx context.Context, s *agent.State, queue []agent.Message) (map[agent.MessageID]bool, error) {
	var over map[agent.MessageID]bool
	for i := range queue {
		task := queue[i].TaskID()
		if _, known := over[task]; known || task == "" || queue[i].IsTask() || s.Turn != nil && s.Turn.Task == task {
			continue
		}
		t, err := agent.LoadTask(ctx, g.d.Store, g.id, task)
		if err != nil {
			return nil, err
		}
		if over == nil {
			over = map[agent.MessageID]bool{}
		}
		over[task] = t.Final()
	}
	return over, nil
}

// idle says whether a step decided nothing that must be stored.
func (g *Grain) idle(c *agent.Commit) bool {
	return string(c.State) == string(g.state) && c.Spec == nil && len(c.Append)+len(c.Take)+len(c.Requeue)+len(c.Marks)+len(c.Records)+
		len(c.Commands)+len(c.Confirm)+len(c.Events)+len(c.Head) == 0 && c.Balance == nil && c.Attach == 0 && !c.Clear
}

// failed handles a commit that did not go through. A fenced one means that another activation owns the agent.
func (g *Grain) failed(c actor.Context, err error) error {
	g.loaded = false // the outcome is unknown, or the state has moved on: read it again before anything else
	if fault.Is(err, fault.Fenced) {
		g.d.Metrics.Fenced("agent")
		g.d.Log.Info("activation lost its claim", "agent_id", g.id, "epoch", g.act.Fence.Epoch)
		g.act.Passivate(c)
		return err
	}
	if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Internal) {
		g.arm(reloadPause)
	}
	return err
}

func (g *Grain) measure(m *agent.Machine, was *agent.Turn, pod agent.PodStatus) {
	if now := m.PodStatus(); now != pod {
		g.d.Metrics.PodStatus(pod, now)
	}
	if was != nil && (m.S.Turn == nil || m.S.Turn.ID != was.ID) {
		g.d.Metrics.TurnEnded(m.S.LastResult, time.Duration(m.Now-was.StartedMS)*time.Millisecond)
	}
	started := m.S.Turn != nil && (was == nil || was.ID != m.S.Turn.ID)
	switch {
	case started && !g.wokenAt.IsZero():
		g.d.Metrics.Woken("cold", time.Since(g.wokenAt))
		g.wokenAt = time.Time{}
	case m.CanStart() && g.wokenAt.IsZero():
		g.wokenAt = time.Now()
	}
}

// look does what is due.
func (g *Grain) look(c actor.Context) {
	if g.roused && g.slotsFirst(c) {
		return
	}
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { return nil, nil }); err != nil {
		switch {
		case g.gone:
			g.act.Passivate(c)
		case !fault.Is(err, fault.Fenced):
			g.d.Log.Warn("agent could not look at itself", "agent_id", g.id, "err", err)
			g.arm(time.Second)
		}
	}
}

// perform does what the committed state asks for; every part of it may be repeated at any time.
func (g *Grain) perform(c actor.Context, m *agent.Machine) {
	if g.leaving {
		return
	}
	g.tellPod(c, m)
	g.tellTurn(c, m)
	g.tellNotifier(c, m)
	g.tellRelays(c, m)
	g.settleBots(c, m)
	slots := time.Duration(0) // how long they can wait
	if m.SlotDue() {
		switch n, err := g.tellSchedules(c, m.Now); {
		case err != nil:
			g.d.Log.Warn("schedules could not be read", "agent_id", g.id, "err", err)
			slots = reloadPause
		case n == 0 && g.slots.busy == 0: // the state is behind: a step without a slot notes the next one
			g.slots.done = map[string]agent.Slot{}
			c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
		}
	}
	due, alarm := m.Due(), m.Alarm()
	if g.misarmed(m, alarm) && g.slots.busy == 0 { // the step that commits their slots moves it
		g.rearm(alarm)
	}
	wait := time.Duration(0)
	if due > 0 {
		wait = max(time.Duration(due-m.Now)*time.Millisecond, time.Millisecond)
	}
	if rest := time.Until(g.failing.until); rest > 0 && (wait == 0 || rest < wait) {
		wait = rest + time.Millisecond
	}
	if rest := g.showTyping(m); rest > 0 && (wait == 0 || rest < wait) {
		wait = rest
	}
	if slots > 0 && (wait == 0 || slots < wait) {
		wait = slots
	}
	g.deliver(c, m)
	quiet := len(m.S.Intents) == 0 && len(g.flying) == 0 && !m.S.Sweeping && !g.sending() && g.slots.busy == 0 && !m.BotsDue() && !m.RoutesDue() && m.S.Turn == nil && !m.S.Deleting && m.S.Update == "" && !m.CanStart() &&
		(m.S.Pod.Phase == agent.PodUp || m.S.Pod.Phase == agent.PodAbsent && !m.S.Pod.Want)
	if quiet {
		if time.Since(g.idleSince) >= g.d.Settings.Passivate {
			g.act.Passivate(c)
			return
		}
		if rest := g.d.Settings.Passivate - time.Since(g.idleSince) + time.Millisecond; wait == 0 || rest < wait {
			wait = rest
		}
	}
	if wait > 0 {
		g.arm(wait)
	} else {
		g.stopTimer()
	}
}

// misarmed says whether the clock's entry has to move to alarm (0: go) although it is not later: it is unknown, it has fired, or it is
// pointless now.
func (g *Grain) misarmed(m *agent.Machine, alarm int64) bool {
	return g.armed == unknown || alarm == 0 && g.armed != 0 || alarm > 0 && g.armed > 0 && alarm > g.armed && m.F.ClockMS >= g.armed
}

// rearm moves the clock's entry to where it belongs after it has fired or become pointless.
func (g *Grain) rearm(due int64) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := g.d.Store.Arm(ctx, g.id, due); err == nil { // else a spurious wake-up follows
		g.armed = due
	}
}

func (g *Grain) arm(d time.Duration) {
	g.stopTimer()
	gen, self, root := g.gen, g.self, g.root
	g.timer = time.AfterFunc(d, func() { root.Send(self, tick{gen}) })
}

func (g *Grain) stopTimer() {
	g.gen++
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
}
