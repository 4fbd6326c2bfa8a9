package member

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"troupe/actors/agent"
)

// Config is what a node needs to join.
type Config struct {
	Name       string // of the cluster
	Host       string // to listen on for actor traffic
	Port       int    // 0: any
	Advertised string // host:port under which others reach it; "" means what it listens on
	Self       agent.Member
	TTL        time.Duration
	Log        *slog.Logger
	OnLost     func()
	// Server and Client authenticate traffic between members both ways; nil: in clear, for tests.
	Server, Client *tls.Config
	Busy           func() any
	Failed         func(kind, identity string, reason any)
}

// Store is what the membership keeps.
type Store interface {
	agent.Leases
	agent.Claims
}

// Node is this process as a cluster member.
type Node struct {
	Cluster  *cluster.Cluster
	Provider *Provider
	Lookup   *Lookup
	started  chan struct{}
}

const maxMessage = 64 << 20 // bytes of one batch between nodes

// Start joins the cluster with the given kinds. It returns at once; Provider.Ready tells when grains can be asked.
func Start(store Store, cfg Config, kinds ...*cluster.Kind) *Node {
	lib := slog.New(quiet{cfg.Log.With("lib", "protoactor").Handler()})
	sys := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return lib }), actor.WithDeadLetterRequestLogging(false))
	opts := []remote.ConfigOption{
		remote.WithServerOptions(grpc.MaxRecvMsgSize(maxMessage)),
		remote.WithEndpointWriterBatchSize(64), remote.WithEndpointWriterQueueSize(1024),
	}
	if cfg.Server != nil {
		opts = append(opts, remote.WithServerOptions(grpc.MaxRecvMsgSize(maxMessage), grpc.Creds(credentials.NewTLS(cfg.Server))),
			remote.WithDialOptions(grpc.WithTransportCredentials(credentials.NewTLS(cfg.Client))))
	}
	if cfg.Advertised != "" {
		opts = append(opts, remote.WithAdvertisedHost(cfg.Advertised))
	}
	rc := remote.Configure(cfg.Host, cfg.Port, opts...)
	rc.MaxRetryCount = 1
	rc.EndpointManagerQueueSize, rc.EndpointManagerBatchSize = 1024, 64
	p := NewProvider(store, cfg.Self, cfg.TTL, cfg.Log, cfg.OnLost)
	l := NewLookup(store, p, cfg.Log, cfg.Busy, cfg.Failed)
	p.grains = l.Grains
	conf := cluster.Configure(cfg.Name, p, l, rc, cluster.WithKinds(kinds...))
	conf.GossipInterval = 1000 * time.Hour // it has nothing to say: see Provider.publish
	c := cluster.New(sys, conf)
	n := &Node{Cluster: c, Provider: p, Lookup: l, started: make(chan struct{})}
	go func() {
		defer close(n.started)
		c.StartMember() // sleeps a second at its end; nobody waits for that
	}()
	return n
}

// Withdraw hands every activation to the other members while this one still serves and forwards requests (REC-9). It returns at once
// when there is nobody to take them.
func (n *Node) Withdraw(grace time.Duration) error {
	<-n.started
	if n.Lookup.c == nil || n.Provider.Alone() {
		return nil
	}
	if err := n.Provider.Withdraw(); err != nil {
		return fmt.Errorf("withdraw from the cluster: %w", err)
	}
	return n.Lookup.Drain(grace)
}

// Stop drains the activations while the lease is held, gives the lease up and ends actor traffic.
func (n *Node) Stop(grace time.Duration) error {
	<-n.started
	var err error
	if n.Lookup.c != nil {
		if err = n.Lookup.Drain(grace); err != nil {
			err = fmt.Errorf("drain activations: %w", err)
		}
	}
	// Activations are gone and the lease is given up, so nothing is left for which the library's fixed pauses would wait.
	if lerr := n.Provider.Shutdown(true); err == nil {
		err = lerr
	}
	n.Cluster.Shutdown(false)
	n.Lookup.workers.close()
	return err
}
