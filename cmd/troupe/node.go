package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/agentgrain"
	"troupe/actors/botgrain"
	"troupe/actors/clockgrain"
	"troupe/actors/fault"
	"troupe/channels"
	"troupe/channels/discord"
	"troupe/channels/webhook"
	"troupe/cluster/member"
	"troupe/http/auth"
	"troupe/http/egress"
	"troupe/http/files"
	"troupe/http/gateway"
	"troupe/http/mcp"
	"troupe/http/rest"
	"troupe/http/route"
	"troupe/http/runnerapi"
	"troupe/http/runnerproto"
	"troupe/persistence/redisstore"
	"troupe/persistence/seal"
	"troupe/persistence/sqlitestore"
)

// store is what both implementations offer.
type store interface {
	agentgrain.Store
	agentgrain.Places
	rest.Store
	runnerapi.Store
	gateway.Store
	auth.Store
	member.Store
	clockgrain.Store
	Close() error
}

const (
	realModel   = "https://api.anthropic.com"
	rehearsal   = "rehearsal"
	maxBody     = 34 << 20
	clusterName = "troupe"
	drainTime   = 12 * time.Second // of requests; with handOver and the rest within 25 s (REC-9)
	handOver    = 8 * time.Second  // of activations to other members
)

// node is one running control-plane process.
type node struct {
	cfg       Config
	log       *slog.Logger
	st        store
	box       *seal.Box
	metrics   *metrics
	cluster   *member.Node
	agents    *agentclient.Client
	runtime   runtime
	watch     func()                      // begins to tell of changes to pods
	sweep     func(context.Context)       // looks for orphans; nil where there are none
	reachable func(context.Context) error // asks the API server; nil where there is none
	gate      *gateway.Gateway
	mcp       *mcp.Keeper
	chats     *chats
	bots      *botgrain.Keeper
	keeper    *clockgrain.Keeper
	server    *route.Server
	inner     *http.Server
	addr      string
	quit      chan struct{} // closed when the node stops
	lost      chan struct{} // the member lease is lost: the process must start anew
	wg        sync.WaitGroup
}

// startNode opens everything in the order of dependence. The API accepts messages as soon as the store is open; what
// needs actors waits for the cluster's first topology.
func startNode(ctx context.Context, cfg Config, log *slog.Logger) (_ *node, err error) {
	n := &node{cfg: cfg, log: log, metrics: newMetrics(), lost: make(chan struct{}), quit: make(chan struct{})}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	if err = os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	if n.box, err = openBox(&n.cfg); err != nil {
		return nil, err
	}
	if n.st, err = openStore(ctx, &n.cfg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, err
	}
	n.addr = l.Addr().String()
	set := n.settings()
	n.chats = n.openChats(set)
	if err = n.openRuntime(); err != nil {
		_ = l.Close()
		return nil, err
	}
	if err = n.join(set); err != nil {
		_ = l.Close()
		return nil, err
	}
	n.agents = agentclient.New(n.cluster)
	n.watch()
	authn := auth.New(n.st, n.box, log)
	if err = n.bootstrap(ctx, authn); err != nil {
		_ = l.Close()
		return nil, err
	}
	n.serve(l, set, authn)
	n.keeper = clockgrain.Keep(n.st.Shards(), n.agents.Reach)
	n.cluster.Provider.Changed(n.keeper.Hurry)
	n.bots = botgrain.Keep(n.chats.all, n.cluster.Lookup.Rightful, n.agents.Reach)
	if n.sweep != nil {
		n.wg.Add(1)
		go n.sweeps()
	}
	return n, nil
}

// openBox reads the master key; dev makes one in the data directory.
func openBox(cfg *Config) (*seal.Box, error) {
	text := cfg.MasterKey
	if text == "" {
		path := filepath.Join(cfg.DataDir, "master.key")
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			b = []byte(seal.NewKey() + "\n")
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("master key: %w", err)
		}
		text = string(b)
	}
	key, err := seal.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return seal.New(key)
}

func openStore(ctx context.Context, cfg *Config) (store, error) {
	if cfg.RedisURL == "" {
		return sqlitestore.Open(filepath.Join(cfg.DataDir, "store"))
	}
	return redisstore.Open(ctx, cfg.RedisURL, cfg.MinReplicaAcks)
}

func (n *node) settings() agent.Settings {
	c := &n.cfg
	return agent.Settings{WarmthMS: c.Warmth.Milliseconds(), Model: c.Model, AllowHTTP: c.AllowHTTP, AllowHosts: c.AllowHosts,
		MaxPending: c.PendingLimit, Overdraft: c.Overdraft, RunnerMetering: c.RunnerMetering,
		PlatformKey: c.AnthropicKey != "" || n.upstream() == rehearsal, StartTimeout: c.StartTimeout, Passivate: c.Passivate}.WithDefaults()
}

// upstream is where model calls go: the configured place, else the real API if there is a key or this is serve, else the rehearsal.
func (n *node) upstream() string {
	switch {
	case n.cfg.AnthropicURL != "":
		return strings.TrimSuffix(n.cfg.AnthropicURL, "/")
	case n.cfg.AnthropicKey != "" || !n.cfg.dev:
		return realModel
	}
	return rehearsal
}

// baseURL is where runners reach this node.
func (n *node) baseURL() string {
	if n.cfg.NodeURL != "" {
		return strings.TrimSuffix(n.cfg.NodeURL, "/")
	}
	host, port, _ := net.SplitHostPort(n.addr)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// urls are the base URLs of the live nodes, this one first.
func (n *node) urls() []string {
	out := []string{n.baseURL()}
	for _, m := range n.cluster.Provider.View().Members {
		if m.URL != "" && m.URL != out[0] {
			out = append(out, m.URL)
		}
	}
	return out
}

func (n *node) join(set agent.Settings) error {
	server, client, err := n.box.NodeTLS()
	if err != nil {
		return err
	}
	deps := &agentgrain.Deps{Store: n.st, Places: n.st, Runtime: n.runtime, Workspace: runnerproto.NewWorkspace(), Courier: webhook.New(egress.Client(set, agent.AttemptTimeout), set, version), Sealer: n.box, Settings: set,
		Chats: n.chats, SharedBot: n.chats.shared, LookBot: func(bot string) { n.agents.LookBot(bot) }, Displace: links{n}.displace,
		Hint: func(id agent.ID) { n.agents.Hint(id) }, Node: n.cfg.NodeName, URLs: n.urls, Base: strings.TrimSuffix(n.cfg.InternalURL, "/"), Log: n.log, Metrics: n.metrics}
	host, port, _ := net.SplitHostPort(n.cfg.ClusterListen)
	p, _ := strconv.Atoi(port)
	n.cluster = member.Start(n.st, member.Config{Name: clusterName, Host: host, Port: p, Advertised: n.cfg.ClusterAdvert, TTL: n.cfg.LeaseTTL, Log: n.log,
		Self:   agent.Member{Name: n.cfg.NodeName, URL: n.baseURL(), Version: version, StartedMS: time.Now().UnixMilli()},
		OnLost: func() { close(n.lost) }, Server: server, Client: client, Busy: agentclient.Overloaded,
		Failed: func(kind, identity string, reason any) { n.metrics.restarts.WithLabelValues(kind).Inc() }},
		cluster.NewKind(agentclient.Kind, agentgrain.Props(deps)),
		cluster.NewKind(agent.KindBot, botgrain.Props(&botgrain.Deps{Store: n.st, Open: n.chats.open, Shared: n.chats.shared, SharedToken: n.chats.token, Connected: n.metrics.Connected, Log: n.log,
			Hopeless: channels.IsHopeless, Pause: map[agent.Channel]time.Duration{agent.ChannelDiscord: discord.IdentifyPause},
			Unseal: func(id agent.ID, slot, sealed string) (agent.Secret, error) {
				clear, err := n.box.Open(string(id), slot, sealed)
				return agent.NewSecret(clear), err
			}})),
		cluster.NewKind(agent.KindClock, clockgrain.Props(&clockgrain.Deps{Store: n.st, Wake: func(ctx context.Context, due []agent.ID) { n.agents.Rouse(ctx, due) }, Fenced: n.metrics.Fenced,
			Rightful: func(kind, identity string) bool { return n.cluster.Lookup.Rightful(kind, identity) }, Log: n.log})))
	return nil
}

func (n *node) serve(l net.Listener, set agent.Settings, authn *auth.Service) {
	up := n.upstream()
	gcfg := gateway.Config{Store: n.st, Agents: n.agents, Box: n.box, Settings: set, Upstream: up, Platform: agent.NewSecret(n.cfg.AnthropicKey),
		Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, Guarded: egress.Client(set, 0), Metrics: n.metrics, Log: n.log}
	if up == rehearsal {
		gcfg.Rehearse = gateway.Rehearsal{}
	}
	n.gate = gateway.New(gcfg)
	done := make(chan struct{})
	n.mcp = &mcp.Keeper{Store: n.st, Box: n.box, Reach: &mcp.Reach{HTTP: egress.Client(set, 0), Version: version}, Log: n.log}
	rcfg := rest.Config{Store: n.st, Auth: authn, Box: n.box, Agents: n.agents, Settings: set, AgentLimit: n.cfg.AgentLimit, PublicURL: n.cfg.PublicURL,
		RateLimit: n.cfg.RateLimit, Closed: !n.cfg.Registration, Prober: n.gate, Cluster: n.clusterHealth, Members: membership{n.cluster}, Shards: n.st.Shards(), Accepted: func(d time.Duration) { n.metrics.sendAck.Observe(d.Seconds()) }, Done: done}
	rcfg.Networks, rcfg.SharedBot = n.chats, n.chats.shared
	rcfg.Volumes, rcfg.Kubernetes = n.runtime, n.reachable
	rcfg.MCP, rcfg.OAuthOrigins = n.mcp, n.cfg.OAuthOrigins
	if n.cfg.PublicMetrics {
		rcfg.Scrape = n.metrics.page
	}
	routes := rest.Routes(rcfg)
	routes = append(routes, runnerapi.Routes(runnerapi.Config{Store: n.st, Agents: n.agents, Settings: set, URLs: n.urls, Serves: n.runtime.Serves, Done: done, MCP: n.mcp})...)
	routes = append(routes, files.Routes(files.Config{Store: n.st, Agents: n.agents, Keys: n.box, Workspace: runnerproto.NewWorkspace(), Done: done})...)
	routes = append(routes, n.gate.Routes()...)
	n.server = route.New(route.Config{Auth: authn, Counters: n.st, RateLimit: n.cfg.RateLimit, GuestLimit: n.cfg.GuestLimit, Metrics: n.metrics, Log: n.log, MaxBody: maxBody}, routes)
	n.wg.Add(2)
	go func() {
		defer n.wg.Done()
		<-n.server.Done()
		close(done)
	}()
	go func() {
		defer n.wg.Done()
		if err := n.server.Serve(l); err != nil {
			n.log.Error("listener", "err", err)
		}
	}()
	n.serveMetrics()
}

// serveMetrics serves the internal listener.
func (n *node) serveMetrics() {
	if n.cfg.MetricsListen == "" {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(n.metrics.page())
	})
	n.inner = &http.Server{Addr: n.cfg.MetricsListen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		if err := n.inner.ListenAndServe(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("metrics listener", "err", err)
		}
	}()
}

func (n *node) clusterHealth() (time.Duration, error) {
	if !n.cluster.Provider.Held() {
		return 0, errors.New("member lease is not held")
	}
	return 0, nil
}

// membership is the cluster as the public routes show it.
type membership struct{ *member.Node }

func (membership) Name() string              { return clusterName }
func (m membership) Self() agent.Member      { return m.Provider.Self() }
func (m membership) Members() []agent.Member { return m.Provider.View().Members }
func (m membership) Held() bool              { return m.Provider.Held() }
func (m membership) Census(ctx context.Context) (map[string]agent.Standing, error) {
	return m.Provider.Census(ctx)
}
func (m membership) Owner(ctx context.Context, kind, identity string) (agent.Claim, error) {
	return m.Lookup.Owner(ctx, kind, identity)
}

// bootstrap makes the administrator and its key at first start.
func (n *node) bootstrap(ctx context.Context, authn *auth.Service) error {
	key := n.cfg.BootstrapKey
	path := filepath.Join(n.cfg.DataDir, "api.key")
	if key == "" {
		if !n.cfg.dev {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			b = []byte("sk_shinzo_live_" + auth.Random(42) + "\n")
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("API key: %w", err)
		}
		key = strings.TrimSpace(string(b))
	}
	_, err := n.st.PlatformKeyByHash(ctx, authn.KeyHash(key))
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	admin, err := n.administrator(ctx)
	if err != nil {
		return err
	}
	return n.st.PutPlatformKey(ctx, authn.KeyRecord(admin.ID, "bootstrap", account.ScopeAll, key))
}

func (n *node) administrator(ctx context.Context) (account.Account, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	a, err := n.st.CreateAccount(ctx, account.Account{ID: account.ID(agent.NewUUID()), Email: n.cfg.AdminEmail, Verified: true, Admin: true, CreatedAt: now, UpdatedAt: now})
	if fault.Is(err, fault.Conflict) { // another node was first, or an earlier start died in between
		return n.st.AccountByEmail(ctx, n.cfg.AdminEmail)
	}
	return a, err
}

// stop is the ordered end (REC-9): the activations move to other members while requests are still served and forwarded; then no
// new requests, what runs finishes, and the lease is given up.
func (n *node) stop() {
	close(n.quit)
	if n.bots != nil {
		n.bots.Stop()
	}
	if n.keeper != nil {
		n.keeper.Stop()
	}
	if n.cluster != nil {
		if err := n.cluster.Withdraw(handOver); err != nil {
			n.log.Warn("hand over", "err", err)
		}
	}
	if n.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		if err := n.server.Shutdown(ctx); err != nil {
			n.log.Warn("requests were cut", "err", err)
		}
		cancel()
	}
	if n.inner != nil {
		_ = n.inner.Close()
	}
	if n.gate != nil {
		n.gate.Close()
	}
	if n.mcp != nil {
		n.mcp.Close()
	}
	if n.cluster != nil {
		if err := n.cluster.Stop(4 * time.Second); err != nil {
			n.log.Warn("drain", "err", err)
		}
	}
	if n.runtime != nil {
		n.runtime.Close()
	}
	n.wg.Wait()
	if n.st != nil {
		if err := n.st.Close(); err != nil {
			n.log.Warn("close the store", "err", err)
		}
	}
}
