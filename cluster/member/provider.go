package member

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Lease times (FENCE-1).
const (
	DefaultTTL = 6 * time.Second
	beatsPer   = 4 // renewals per lease
)

// Provider is the cluster provider: a lease in the store.
type Provider struct {
	leases  agent.Leases
	self    agent.Member
	ttl     time.Duration
	log     *slog.Logger
	grains  func() map[string]int
	onLost  func() // the lease is lost for good; the process must start anew
	c       *cluster.Cluster
	base    time.Time
	until   atomic.Int64 // end of the lease since base, on the monotonic clock
	version int64
	mu      sync.Mutex // one beat at a time
	pending chan []agent.Member
	view    atomic.Pointer[View]
	joined  atomic.Pointer[agent.Member]
	changed atomic.Pointer[func()]
	stop    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	ready   chan struct{}
	readied sync.Once
}

// View is the topology as this member sees it.
type View struct {
	Version int64
	Members []agent.Member
}

// Alive returns the member with the given id.
func (v *View) Alive(id string) (agent.Member, bool) {
	for _, m := range v.Members {
		if m.ID == id {
			return m, true
		}
	}
	return agent.Member{}, false
}

// NewProvider returns a provider for self, whose ID and Address are filled in when it starts. OnLost is called once if
// the lease is lost.
func NewProvider(leases agent.Leases, self agent.Member, ttl time.Duration, log *slog.Logger, onLost func()) *Provider {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	p := &Provider{leases: leases, grains: func() map[string]int { return nil }, self: self, ttl: ttl, log: log, onLost: onLost, base: time.Now(), pending: make(chan []agent.Member, 1),
		stop: make(chan struct{}), ready: make(chan struct{})}
	p.view.Store(&View{})
	return p
}

// StartMember implements cluster.ClusterProvider.
func (p *Provider) StartMember(c *cluster.Cluster) error {
	host, port, err := c.ActorSystem.GetHostPort()
	if err != nil {
		return err
	}
	p.c = c
	p.self.ID, p.self.Address, p.self.Kinds = c.ActorSystem.ID, net.JoinHostPort(host, strconv.Itoa(port)), ownKinds(c.GetClusterKinds())
	p.wg.Add(2)
	go p.publish()
	go p.renew()
	return nil // also when the store is away: the library would panic, and the lease is asked for until it is granted
}

// join asks for the first lease until it is granted; false when the member is stopped before.
func (p *Provider) join() bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, p.ttl/beatsPer) {
		err := p.beat(true)
		if err == nil {
			break
		}
		p.log.Warn("not a member yet", "err", err)
		select {
		case <-p.stop:
			return false
		case <-time.After(pause):
		}
	}
	p.mu.Lock()
	self := p.self
	p.mu.Unlock()
	p.joined.Store(&self)
	return true
}

// ownKinds leaves out the library's publish-subscribe kind, which is not used.
func ownKinds(all []string) []string {
	return slices.DeleteFunc(all, func(k string) bool { return k == cluster.TopicActorKind })
}

// StartClient implements cluster.ClusterProvider. Every process is a full member.
func (p *Provider) StartClient(c *cluster.Cluster) error { return p.StartMember(c) }

// Withdraw tells the others that this member takes no new activations; those it has may be claimed as they end.
func (p *Provider) Withdraw() error {
	p.mu.Lock()
	p.self.Draining = true
	self := p.self
	p.mu.Unlock()
	if p.joined.Load() == nil {
		return nil
	}
	p.joined.Store(&self)
	return p.beat(false)
}

// Shutdown implements cluster.ClusterProvider: the lease is given up.
func (p *Provider) Shutdown(bool) error {
	p.once.Do(func() { close(p.stop) })
	p.wg.Wait()
	if p.self.ID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.ttl/2)
	defer cancel()
	return p.leases.Leave(ctx, p.self.ID)
}

// Census returns what the members said when they renewed their leases last.
func (p *Provider) Census(ctx context.Context) (map[string]agent.Standing, error) {
	return p.leases.Census(ctx)
}

// Ready is closed once the lease is held and the topology published.
func (p *Provider) Ready() <-chan struct{} { return p.ready }

// Self is this member, zero until it has started.
func (p *Provider) Self() agent.Member {
	if m := p.joined.Load(); m != nil {
		return *m
	}
	return agent.Member{}
}

// Alone says whether no other member could take this one's activations.
func (p *Provider) Alone() bool {
	self := p.Self().ID
	return !slices.ContainsFunc(p.View().Members, func(m agent.Member) bool { return m.ID != self && !m.Draining })
}

// Changed is called once after every change of the topology.
func (p *Provider) Changed(f func()) { p.changed.Store(&f) }

// View is the newest topology.
func (p *Provider) View() *View { return p.view.Load() }

// Held says whether the lease is certain to be ours still, by the local monotonic clock.
func (p *Provider) Held() bool { return time.Since(p.base) < time.Duration(p.until.Load()) }

func (p *Provider) beat(join bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stop:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.ttl/2)
	defer cancel()
	sent := time.Since(p.base) // counted from before the call: never longer than what the store granted
	t, err := p.leases.Lease(ctx, p.self, join, p.ttl.Milliseconds(), p.grains())
	if err != nil {
		if fault.Is(err, fault.Fenced) {
			p.once.Do(func() {
				close(p.stop)
				p.log.Error("member lease lost", "member", p.self.ID)
				go p.onLost()
			})
		}
		return err
	}
	p.until.Store(int64(sent + p.ttl))
	if t.Version == p.version && p.version != 0 {
		return nil
	}
	p.version = t.Version
	p.view.Store(&View{Version: t.Version, Members: t.Members})
	select { // the newest topology wins
	case <-p.pending:
	default:
	}
	p.pending <- t.Members
	return nil
}

// publish tells of changes on a goroutine of its own: subscribers may block, the lease must not. The library's list of members and its
// gossip are left empty: placement and failure detection are ours, and they race (the list is read without a lock). It has to know
// one thing: whom nobody is to be connected to any more.
func (p *Provider) publish() {
	defer p.wg.Done()
	var known []agent.Member
	for {
		select {
		case <-p.stop:
			return
		case now := <-p.pending:
			for _, m := range known {
				if !slices.ContainsFunc(now, func(x agent.Member) bool { return x.ID == m.ID }) {
					p.c.ActorSystem.EventStream.Publish(&remote.EndpointTerminatedEvent{Address: m.Address})
				}
			}
			known = now
			p.readied.Do(func() { close(p.ready) })
			if f := p.changed.Load(); f != nil {
				(*f)()
			}
		}
	}
}

func (p *Provider) renew() {
	defer p.wg.Done()
	if !p.join() {
		return
	}
	cancel := p.leases.WatchMembers(func() { go func() { _ = p.beat(false) }() })
	defer cancel()
	t := time.NewTicker(p.ttl / beatsPer)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			if err := p.beat(false); err != nil {
				p.log.Warn("member lease not renewed", "err", err)
			}
		}
	}
}
