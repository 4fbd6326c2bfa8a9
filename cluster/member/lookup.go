package member

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/ctxext"
	"github.com/asynkron/protoactor-go/remote"

	"troupe/actors/agent"
	"troupe/actors/protocol"
)

const (
	placementName   = "placement"
	claimsPerSecond = 1000
	claimsAtOnce    = 512 // store calls of the placement in flight; they share pipelines
	claimTimeout    = 2 * time.Second
	askPlacement    = 2 * time.Second
	askRightful     = 500 * time.Millisecond // before another member is asked for an identity that nobody holds
	suspicion       = 2 * time.Second        // that a member which did not answer, or whose connection is lost, is left out of such placements
	crashWindow     = time.Minute            // failures of an identity older than this are forgotten
)

// Activation is attached to the context of every grain: its fence and its way out.
type Activation struct {
	Fence agent.Fence
	gate  *Gate
}

// Passivate stops the activation it is called from: nothing new gets in, what is queued is bounced, then it stops.
func (a *Activation) Passivate(c actor.Context) {
	a.gate.Shut()
	c.Poison(c.Self())
}

// Depth is how many messages wait for the activation.
func (a *Activation) Depth() int { return a.gate.UserMessageCount() }

var activationID = ctxext.NextContextExtensionID()

// ExtensionID implements ctxext.ContextExtension.
func (*Activation) ExtensionID() ctxext.ContextExtensionID { return activationID }

// ActivationOf returns the activation of the grain whose context c is.
func ActivationOf(c actor.ExtensionContext) *Activation {
	a, _ := c.Get(activationID).(*Activation)
	return a
}

// Lookup is the identity lookup on claims in the store.
type Lookup struct {
	claims   agent.Claims
	provider *Provider
	log      *slog.Logger
	busy     func() any
	c        *cluster.Cluster
	place    *actor.PID
	draining atomic.Bool
	sem      chan struct{}
	workers  *workers
	mu       sync.Mutex
	live     map[string]int           // activations by kind
	second   time.Time                // of claimed, which counts claims
	suspects map[string]time.Time     // members that did not answer, and until when that counts
	doubt    chan struct{}            // closed when another one is suspected
	ways     map[string]chan struct{} // where the lists to a member pass, by its id
	claimed  int
	failed   func(kind, identity string, reason any)
}

// NewLookup returns a lookup that places grains of the provider's members. Busy makes the answer of an overloaded
// activation; failed is told of every activation that was stopped because it panicked.
func NewLookup(claims agent.Claims, p *Provider, log *slog.Logger, busy func() any, failed func(kind, identity string, reason any)) *Lookup {
	return &Lookup{claims: claims, provider: p, log: log, busy: busy, sem: make(chan struct{}, claimsAtOnce), workers: newWorkers(), live: map[string]int{}, ways: map[string]chan struct{}{}, failed: failed}
}

// Setup implements cluster.IdentityLookup.
func (l *Lookup) Setup(c *cluster.Cluster, _ []string, _ bool) {
	l.c = c
	l.place, _ = c.ActorSystem.Root.SpawnNamed(actor.PropsFromProducer(func() actor.Actor {
		return &placement{l: l, live: map[string]*living{}, byPID: map[string]string{}, claiming: map[string][]waiter{}, crashes: map[string]crash{}}
	}), placementName)
	c.ActorSystem.EventStream.Subscribe(func(e any) { // ends with the actor system
		if lost, ok := e.(*remote.EndpointTerminatedEvent); ok {
			l.lostConnection(lost.Address)
		}
	})
}

// lostConnection suspects the member at an address: whoever asks it now waits for nothing.
func (l *Lookup) lostConnection(address string) {
	for _, m := range l.provider.View().Members {
		if m.Address == address && m.ID != l.provider.Self().ID {
			l.suspected(m.ID)
		}
	}
}

// Grains is how many activations of each kind this member holds.
func (l *Lookup) Grains() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.live)
}

// claimsLeft bounds how many identities this member takes over from dead ones in a second (REC-10). Those that nobody holds are no recovery.
func (l *Lookup) claimsLeft() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.second) >= time.Second {
		l.second, l.claimed = now, 0
	}
	l.claimed++
	return l.claimed <= claimsPerSecond
}

func (l *Lookup) count(kind string, delta int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live[kind] += delta; l.live[kind] == 0 {
		delete(l.live, kind)
	}
}

// Rightful says whether an identity would be placed on this member if it were placed now.
func (l *Lookup) Rightful(kind, identity string) bool {
	o, ok := l.provider.View().owner(kind, identity, nil)
	return !ok || o.ID == l.provider.Self().ID
}

// Owner returns who holds an identity.
func (l *Lookup) Owner(ctx context.Context, kind, identity string) (agent.Claim, error) {
	return l.claims.Owner(ctx, kind, identity)
}

// owner is rendezvous hashing with a 64-bit avalanche over the members that take the kind and are not draining.
func (v *View) owner(kind, identity string, suspect func(member string) bool) (best agent.Member, ok bool) {
	var top uint64
	for _, m := range v.Members {
		if m.Draining || !hasKind(m, kind) || suspect != nil && suspect(m.ID) {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(m.ID + "\x00" + identity))
		x := h.Sum64()
		x ^= x >> 33
		x *= 0xff51afd7ed558ccd
		x ^= x >> 33
		x *= 0xc4ceb9fe1a85ec53
		x ^= x >> 33
		if x > top || !ok {
			top, best, ok = x, m, true
		}
	}
	return best, ok
}

func hasKind(m agent.Member, kind string) bool {
	for _, k := range m.Kinds {
		if k == kind {
			return true
		}
	}
	return false
}

// Get implements cluster.IdentityLookup: one attempt; callers repeat.
func (l *Lookup) Get(ci *cluster.ClusterIdentity) *actor.PID {
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	v := l.provider.View()
	claim, err := l.claims.Owner(ctx, ci.Kind, ci.Identity)
	if err != nil {
		return nil
	}
	// The claim says which member to ask, not which activation lives: a claim whose activation was lost is taken anew there.
	o, ok := v.Alive(claim.Member)
	if ok {
		pid, _ := l.ask(o, ci, askPlacement)
		return pid
	}
	wait := askPlacement
	if o, ok = v.owner(ci.Kind, ci.Identity, l.suspect); !ok { // all are suspected: then the rightful one, with patience
		if o, ok = v.owner(ci.Kind, ci.Identity, nil); !ok {
			return nil
		}
	} else if o.ID != l.provider.Self().ID {
		wait = askRightful
	}
	pid, answered := l.ask(o, ci, wait)
	if answered || wait == askPlacement {
		return pid
	}
	// It may be dead, and its lease not over yet. Nobody holds the identity, so any member may claim it: the claim decides.
	l.suspected(o.ID)
	if o, ok = v.owner(ci.Kind, ci.Identity, l.suspect); ok {
		pid, _ = l.ask(o, ci, askPlacement)
	}
	return pid
}

// ask asks a member to place an identity; answered says that it did, with an activation or without.
func (l *Lookup) ask(m agent.Member, ci *cluster.ClusterIdentity, wait time.Duration) (pid *actor.PID, answered bool) {
	res, err := l.c.ActorSystem.Root.RequestFuture(actor.NewPID(m.Address, placementName), &cluster.ActivationRequest{ClusterIdentity: ci}, wait).Result()
	if err != nil {
		return nil, false
	}
	if r, ok := res.(*cluster.ActivationResponse); ok {
		if r.Failed {
			return nil, true
		}
		return r.Pid, true
	}
	return nil, false
}

func (l *Lookup) suspect(member string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, is := l.suspects[member]
	if is && time.Now().After(until) {
		delete(l.suspects, member)
		return false
	}
	return is
}

// doubted is closed when the next member is suspected.
func (l *Lookup) doubted() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubt == nil {
		l.doubt = make(chan struct{})
	}
	return l.doubt
}

func (l *Lookup) suspected(member string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.suspects == nil {
		l.suspects = map[string]time.Time{}
	}
	l.suspects[member] = time.Now().Add(suspicion)
	if l.doubt != nil {
		close(l.doubt)
		l.doubt = nil
	}
}

// RemovePid implements cluster.IdentityLookup; the claim is given up when the activation has ended.
func (l *Lookup) RemovePid(*cluster.ClusterIdentity, *actor.PID) {}

// Drain stops every activation while the lease is still held, so that nobody can claim an identity early.
func (l *Lookup) Drain(d time.Duration) error {
	l.draining.Store(true)
	return l.c.ActorSystem.Root.RequestFuture(l.place, &drain{}, d).Wait()
}

// Shutdown implements cluster.IdentityLookup.
func (l *Lookup) Shutdown() {
	if l.place != nil && !l.draining.Load() {
		if err := l.Drain(9 * time.Second); err != nil {
			l.log.Warn("drain", "err", err)
		}
	}
}

type (
	drain   struct{}
	drained struct{}
	// released says that the claim of an activation that ended was given up, or could not be.
	released struct{}
	claimed  struct {
		ci    *cluster.ClusterIdentity
		claim agent.Claim
		mine  bool
		err   error
	}
	living struct {
		pid   *actor.PID
		ci    *cluster.ClusterIdentity
		fence agent.Fence
		gate  *Gate
	}
	crash struct {
		count int
		last  time.Time
	}
)

// placement supervises every activation of this member.
type placement struct {
	l        *Lookup
	live     map[string]*living
	byPID    map[string]string
	claiming map[string][]waiter
	waiters  []*actor.PID
	// releasing counts claims that are being given up: a drain waits for them, or others would have to wait for the lease.
	releasing int
	crashes   map[string]crash
}

// HandleFailure stops a failed activation: reloading from committed state is the restart. The next command activates it
// again, after a pause that grows with its recent failures.
func (p *placement) HandleFailure(_ *actor.ActorSystem, s actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	key := p.byPID[child.Id]
	if a := p.live[key]; a != nil {
		a.gate.Shut()
		c := p.crashes[key]
		if time.Since(c.last) > crashWindow {
			c.count = 0
		}
		p.crashes[key] = crash{count: c.count + 1, last: time.Now()}
		p.l.failed(a.ci.Kind, a.ci.Identity, reason)
	}
	s.StopChildren(child)
}

// Receive implements actor.Actor.
func (p *placement) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *cluster.ActivationRequest:
		if ci := m.ClusterIdentity; p.wants(c, ci, caller{c.Sender()}) {
			self, root, l := c.Self(), c.ActorSystem().Root, p.l
			go func() { root.Send(self, l.claim(ci, self.Id)) }()
		}
	case *protocol.Command:
		p.rouse(c, m)
	case *claimed:
		p.onClaimed(c, m)
	case []*claimed:
		for _, x := range m {
			p.onClaimed(c, x)
		}
	case *actor.Terminated:
		key := p.byPID[m.Who.Id]
		delete(p.byPID, m.Who.Id)
		if a := p.live[key]; a != nil {
			delete(p.live, key)
			p.l.count(a.ci.Kind, -1)
			p.giveUp(c, a)
		}
		p.checkDrained(c)
	case released:
		p.releasing--
		p.checkDrained(c)
	case *drain:
		p.waiters = append(p.waiters, c.Sender())
		for _, a := range p.live {
			a.gate.Shut()
			c.Poison(a.pid)
		}
		p.checkDrained(c)
	}
}

// wants tells w where an identity is active, at once or when its claim is known, and says whether that is to be asked for now.
func (p *placement) wants(c actor.Context, ci *cluster.ClusterIdentity, w waiter) bool {
	key := ci.AsKey()
	a := p.live[key]
	switch {
	case a != nil && !a.gate.shut.Load():
		w.placed(c, ci.Identity, a.pid)
		return false
	case a != nil, p.l.draining.Load(), !p.l.provider.Held(), p.resting(key):
		w.placed(c, ci.Identity, nil)
		return false
	}
	waiting, busy := p.claiming[key]
	p.claiming[key] = append(waiting, w)
	return !busy
}

// giveUp releases a claim; a drain waits for it.
func (p *placement) giveUp(c actor.Context, a *living) {
	p.releasing++
	self, root := c.Self(), c.ActorSystem().Root
	go func() {
		p.l.release(a)
		root.Send(self, released{})
	}()
}

// resting says whether an identity that keeps failing is in its pause.
func (p *placement) resting(key string) bool {
	c, ok := p.crashes[key]
	if !ok {
		return false
	}
	if time.Since(c.last) > crashWindow {
		delete(p.crashes, key)
		return false
	}
	return time.Since(c.last) < time.Duration(min(c.count*c.count, 25))*100*time.Millisecond
}

func (p *placement) checkDrained(c actor.Context) {
	if len(p.live) == 0 && len(p.claiming) == 0 && p.releasing == 0 {
		for _, w := range p.waiters {
			c.Send(w, &drained{})
		}
		p.waiters = nil
	}
}

func (l *Lookup) claim(ci *cluster.ClusterIdentity, parent string) *claimed {
	l.sem <- struct{}{}
	defer func() { <-l.sem }()
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	out := &claimed{ci: ci}
	self := l.provider.Self()
	take := func(former agent.Claim) {
		if !l.provider.Held() {
			out.err = errors.New("own member lease is not valid")
			return
		}
		out.claim, out.mine, out.err = l.claims.Claim(ctx, ci.Kind, ci.Identity, former, agent.Claim{Member: self.ID, Address: self.Address, PID: parent + "/" + ci.AsKey()})
	}
	if take(agent.Claim{}); out.err != nil || out.mine { // most identities are held by nobody
		return out
	}
	former := out.claim
	if _, alive := l.provider.View().Alive(former.Member); alive && former.Member != self.ID {
		return out
	}
	if former.Member != self.ID && !l.claimsLeft() {
		return out // the caller, or the next sweep, comes back
	}
	take(former)
	return out
}

func (l *Lookup) release(a *living) {
	l.sem <- struct{}{}
	defer func() { <-l.sem }()
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	if err := l.claims.Release(ctx, a.ci.Kind, a.ci.Identity, a.fence); err != nil {
		l.log.Warn("release claim", "kind", a.ci.Kind, "err", err)
	}
}

func (p *placement) onClaimed(c actor.Context, m *claimed) {
	key := m.ci.AsKey()
	waiting := p.claiming[key]
	delete(p.claiming, key)
	var pid *actor.PID
	switch {
	case m.err != nil:
		p.l.log.Warn("claim failed", "kind", m.ci.Kind, "err", m.err)
	case !m.mine: // another member holds it, or too many are taken over in this second: the caller reads the claim again
	case p.l.draining.Load(): // it came too late to be ended with the others
		p.giveUp(c, &living{ci: m.ci, fence: agent.Fence{Member: m.claim.Member, Epoch: m.claim.Epoch}})
	default:
		pid = p.spawn(c, m)
	}
	for _, w := range waiting {
		w.placed(c, m.ci.Identity, pid)
	}
	p.checkDrained(c)
}

// ending keeps a panic on the way out from calling the end off: the library would leave such an actor suspended for ever.
func (l *Lookup) ending(next actor.ReceiverFunc) actor.ReceiverFunc {
	return func(c actor.ReceiverContext, env *actor.MessageEnvelope) {
		switch env.Message.(type) {
		case *actor.Stopping, *actor.Stopped:
			defer func() {
				if r := recover(); r != nil {
					l.log.Error("an activation panicked while it stopped", "panic", fmt.Sprint(r))
				}
			}()
		}
		next(c, env)
	}
}

func (p *placement) spawn(c actor.Context, m *claimed) *actor.PID {
	kind, ok := p.l.c.TryGetClusterKind(m.ci.Kind)
	if !ok {
		return nil
	}
	key := m.ci.AsKey()
	act := &Activation{Fence: agent.Fence{Member: m.claim.Member, Epoch: m.claim.Epoch}, gate: newGate(c.ActorSystem().Root, p.l.busy, p.l.provider.Held)}
	props := kind.Props.Clone(actor.WithDispatcher(p.l.workers),
		actor.WithMailbox(func() actor.Mailbox { return act.gate }), actor.WithReceiverMiddleware(p.l.ending),
		actor.WithOnInit(func(x actor.Context) { cluster.SetClusterIdentity(x, m.ci); x.Set(act) }))
	pid, err := c.SpawnNamed(props, key+"$"+strconv.FormatInt(m.claim.Epoch, 10))
	if err != nil {
		p.l.log.Error("activate", "kind", m.ci.Kind, "err", err)
		return nil
	}
	p.live[key] = &living{pid, m.ci, act.Fence, act.gate}
	p.byPID[pid.Id] = key
	p.l.count(m.ci.Kind, 1)
	return pid
}
