// Package agentclient is the only way to ask an agent's grain. It finds the activation, repeats what was lost with the
// same command id, and turns refusals into faults. A hint may be lost; a command is answered or fails as unavailable.
package agentclient

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"golang.org/x/sync/singleflight"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/cluster/member"
)

// Kind is the grain kind of agents.
const Kind = "agent"

// Times and bounds of asking.
const (
	total       = 8 * time.Second // when the caller's context has no earlier deadline
	attempt     = 3 * time.Second // of one attempt; a commit may take two
	firstPause  = 10 * time.Millisecond
	longestWait = 250 * time.Millisecond
	maxCached   = 50000 // activations whose address is remembered
	remoteTrust = 3 * time.Second
	maxHints    = 512 // on their way at once; more are dropped, the sweep covers them
)

// Client asks grains through one cluster member.
type Client struct {
	c      *cluster.Cluster
	ready  <-chan struct{}
	mu     sync.Mutex
	known  map[agent.ID]known
	lookup *member.Lookup
	hints  chan struct{} // bounds hints on their way to other members
	wakes  singleflight.Group
}

// known is where an activation was found. Elsewhere it may end without our knowing, so that is trusted only for a while.
type known struct {
	pid   *actor.PID
	until time.Time
}

// New returns a client of a member, which may be asked once it is ready.
func New(n *member.Node) *Client {
	c := asks(n.Cluster, n.Provider.Ready())
	c.lookup = n.Lookup
	return c
}

func asks(c *cluster.Cluster, ready <-chan struct{}) *Client {
	return &Client{c: c, ready: ready, known: map[agent.ID]known{}, hints: make(chan struct{}, maxHints)}
}

// Ask sends a command and waits for its result, which is decoded into T. Errors: the grain's fault, fault.Unavailable.
func Ask[T any](ctx context.Context, c *Client, id agent.ID, kind string, body any) (T, error) {
	var zero T
	raw, err := c.ask(ctx, id, protocol.NewCommand(kind, body), attempt)
	if err != nil {
		return zero, err
	}
	return protocol.Decode[T](raw)
}

// AskSlow is Ask for commands whose answer may take as long as ctx allows.
func AskSlow[T any](ctx context.Context, c *Client, id agent.ID, kind string, body any) (T, error) {
	var zero T
	raw, err := c.ask(ctx, id, protocol.NewCommand(kind, body), time.Hour)
	if err != nil {
		return zero, err
	}
	return protocol.Decode[T](raw)
}

func (c *Client) ask(ctx context.Context, id agent.ID, cmd *protocol.Command, each time.Duration) ([]byte, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	last := errors.New("no member takes the agent")
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestWait) {
		if pid := c.find(id); pid != nil {
			left := rest(ctx)
			if left == 0 {
				last = errors.New("the time was over before the agent was asked")
				break
			}
			res, err := c.c.ActorSystem.Root.RequestFuture(pid, cmd, min(each, left)).Result()
			if err == nil {
				switch r := res.(type) {
				case *protocol.Reply:
					if err := r.Err(); err != nil && !fault.Is(err, fault.Fenced) {
						return nil, err
					} else if err == nil {
						return r.Body, nil
					}
				case *cluster.GrainErrorResponse:
					last = errors.New(r.Message)
				}
			} else {
				last = err
			}
			c.forget(id, pid)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
	return nil, fault.New(fault.Unavailable, "dependency_unavailable", "The agent's activation did not answer in time; try again").After(time.Second).Because(last)
}

// rest is what is left of the time of ctx, which has a deadline. A future with less than none would wait for ever.
func rest(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(0, time.Until(deadline))
}

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, total)
}

// Hint tells the agent to look at itself. It returns at once; the hint may be lost.
func (c *Client) Hint(id agent.ID) { c.hint(id, protocol.Look) }

// Observe tells the agent that its pod has changed. It returns at once; the hint may be lost.
func (c *Client) Observe(id agent.ID) { c.hint(id, protocol.Observe) }

// Yield asks the agent to give its pod's place up if it has nothing to do. It returns at once; the hint may be lost.
func (c *Client) Yield(id agent.ID) { c.hint(id, protocol.Yield) }

func (c *Client) hint(id agent.ID, kind string) {
	if pid := c.remembered(id); pid != nil {
		c.c.ActorSystem.Root.Send(pid, &protocol.Command{Kind: kind})
		return
	}
	select {
	case c.hints <- struct{}{}:
		c.deliver(id, kind)
	default:
	}
}

// deliver finds the agent and tells it; it has a place among the hints on their way.
func (c *Client) deliver(id agent.ID, kind string) {
	go func() { // ends with the look-up, which has a deadline
		defer func() { <-c.hints }()
		if pid := c.find(id); pid != nil {
			c.c.ActorSystem.Root.Send(pid, &protocol.Command{Kind: kind})
		}
	}()
}

// Rouse is Hint for many agents and for those who can wait: it returns when all of them are told, or are on their way to be, or ctx has
// ended. Nothing is dropped, and agents that are due at once come one after the other instead of two seconds later.
func (c *Client) Rouse(ctx context.Context, ids []agent.ID) {
	if !c.started() {
		return
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	for _, id := range c.lookup.Rouse(ctx, Kind, names) { // held where they would not be placed now, mostly
		select {
		case c.hints <- struct{}{}:
			c.deliver(agent.ID(id), protocol.Look)
		case <-ctx.Done():
			return
		}
	}
}

// started says whether the member can be asked; until then the library is still writing what asking reads.
func (c *Client) started() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// Reach finds the activation of a grain of any kind, making one if there is none. It is one attempt with a deadline of its own.
func (c *Client) Reach(kind, identity string) bool {
	return c.started() && c.c.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: identity, Kind: kind}) != nil
}

// remembered returns where the activation was found, while that can be trusted.
func (c *Client) remembered(id agent.ID) *actor.PID {
	c.mu.Lock()
	k, ok := c.known[id]
	c.mu.Unlock()
	if ok && (c.local(k.pid) || k.pid.Address != c.c.ActorSystem.Address() && time.Now().Before(k.until)) {
		return k.pid
	}
	return nil
}

// local says whether a remembered activation of this member still lives.
func (c *Client) local(pid *actor.PID) bool {
	if pid.Address != c.c.ActorSystem.Address() {
		return false
	}
	_, lives := c.c.ActorSystem.ProcessRegistry.GetLocal(pid.Id)
	return lives
}

func (c *Client) find(id agent.ID) *actor.PID {
	if pid := c.remembered(id); pid != nil {
		return pid
	}
	if !c.started() {
		return nil
	}
	pid := c.c.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: string(id), Kind: Kind})
	if pid == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCached {
		clear(c.known) // asked again on demand
	}
	c.known[id] = known{pid, time.Now().Add(remoteTrust)}
	return pid
}

func (c *Client) forget(id agent.ID, pid *actor.PID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[id].pid == pid {
		delete(c.known, id)
	}
}

// Overloaded is the answer of an activation that has too many commands waiting.
func Overloaded() any {
	return protocol.Answer(nil, fault.New(fault.Unavailable, "dependency_unavailable", "Too many commands wait for this agent").After(time.Second))
}

// AskBot sends a command to a bot and waits for its result. It is one attempt: whether the command took effect is not known when it fails
// with anything but fault.Unavailable of its own.
func AskBot[T any](ctx context.Context, c *Client, bot, kind string, body any) (out T, sent bool, err error) {
	if !c.started() {
		return out, false, fault.Store(errors.New("the member is starting"))
	}
	pid := c.c.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: bot, Kind: agent.KindBot})
	if pid == nil {
		return out, false, fault.Store(errors.New("no member takes the bot"))
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	left := rest(ctx)
	if left == 0 {
		return out, false, fault.Store(errors.New("the bot was not found in time"))
	}
	res, err := c.c.ActorSystem.Root.RequestFuture(pid, protocol.NewCommand(kind, body), left).Result()
	if errors.Is(err, actor.ErrDeadLetter) { // it is stopping, or not sure of its lease: nothing was taken
		return out, false, fault.Store(errors.New("the bot moves"))
	}
	if err != nil {
		return out, true, err
	}
	r, ok := res.(*protocol.Reply)
	if !ok {
		return out, false, fault.Store(errors.New("the bot moves"))
	}
	if err := r.Err(); err != nil {
		return out, false, err
	}
	out, err = protocol.Decode[T](r.Body)
	return out, true, err
}

// LookBot tells a bot to look at who uses it. It returns at once; the hint may be lost.
func (c *Client) LookBot(bot string) { c.TellBot(bot, &protocol.Command{Kind: protocol.Look}) }

// TellBot sends a bot a command that nobody answers. It returns at once; the command may be lost.
func (c *Client) TellBot(bot string, cmd *protocol.Command) {
	select {
	case c.hints <- struct{}{}:
	default:
		return
	}
	go func() { // ends with the look-up, which has a deadline
		defer func() { <-c.hints }()
		if !c.started() {
			return
		}
		if pid := c.c.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: bot, Kind: agent.KindBot}); pid != nil {
			c.c.ActorSystem.Root.Send(pid, cmd)
		}
	}()
}
