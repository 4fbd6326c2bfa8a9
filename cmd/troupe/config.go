package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"troupe/channels/telegram"
	"troupe/channels/whatsapp"
	"troupe/cluster/process"
	"troupe/persistence/seal"
)

// Config is everything a node can be told: flags over environment over defaults.
type Config struct {
	Listen           string        `env:"TROUPE_LISTEN" envDefault:"127.0.0.1:8080" flag:"listen" help:"host:port of the API"`
	MetricsListen    string        `env:"TROUPE_METRICS_LISTEN" flag:"metrics-listen" help:"host:port of the internal listener for /metrics; none if empty"`
	DataDir          string        `env:"TROUPE_DATA_DIR" flag:"data-dir" help:"directory of the embedded store, keys and local agents"`
	RedisURL         string        `env:"TROUPE_REDIS_URL" flag:"redis-url" help:"store: redis://host:port; embedded if empty (dev only)" secret:"url"`
	MinReplicaAcks   int           `env:"TROUPE_MIN_REPLICA_ACKS" flag:"min-replica-acks" help:"Redis replicas that must have a write before it is acknowledged"`
	BootstrapKey     string        `env:"TROUPE_BOOTSTRAP_API_KEY" help:"platform key of the administrator that exists at first start" secret:"yes"`
	AdminEmail       string        `env:"TROUPE_ADMIN_EMAIL" envDefault:"admin@troupe.internal" flag:"admin-email" help:"e-mail of the administrator account made at first start"`
	AnthropicURL     string        `env:"TROUPE_ANTHROPIC_URL" flag:"anthropic-url" help:"upstream of the model gateway: a URL, or rehearsal"`
	AnthropicKey     string        `env:"TROUPE_ANTHROPIC_API_KEY" help:"platform key of the model provider" secret:"yes"`
	Model            string        `env:"TROUPE_MODEL" flag:"model" help:"model of agents that name none"`
	Runtime          string        `env:"TROUPE_RUNTIME" envDefault:"process" flag:"runtime" help:"where agents run: process or kubernetes"`
	Runner           string        `env:"TROUPE_RUNNER" flag:"runner" help:"path of troupe-runner; beside this binary if empty"`
	Kubeconfig       string        `env:"TROUPE_KUBECONFIG" flag:"kubeconfig" help:"way to the API server; the pod's own rights, else kubectl's, if empty"`
	Installation     string        `env:"TROUPE_INSTALLATION" envDefault:"troupe" flag:"installation" help:"name of this installation; objects of others are left alone"`
	PodNamespace     string        `env:"TROUPE_POD_NAMESPACE" flag:"pod-namespace" help:"namespace of agents' pods; that of the credentials if empty"`
	PodImage         string        `env:"TROUPE_POD_IMAGE" flag:"pod-image" help:"image of troupe-runner"`
	PodPullPolicy    string        `env:"TROUPE_POD_PULL_POLICY" flag:"pod-pull-policy" help:"Always, IfNotPresent or Never; Kubernetes' rule if empty"`
	PodPullSecrets   []string      `env:"TROUPE_POD_PULL_SECRETS" flag:"pod-pull-secrets" help:"image pull secrets"`
	PodStorageClass  string        `env:"TROUPE_POD_STORAGE_CLASS" flag:"pod-storage-class" help:"of agents' volumes; the cluster's default if empty"`
	PodRuntimeClass  string        `env:"TROUPE_POD_RUNTIME_CLASS" flag:"pod-runtime-class" help:"RuntimeClass of agents' pods, for gVisor or Kata"`
	PodPriorityClass string        `env:"TROUPE_POD_PRIORITY_CLASS" flag:"pod-priority-class" help:"PriorityClass of agents' pods"`
	PodNodeSelector  []string      `env:"TROUPE_POD_NODE_SELECTOR" flag:"pod-node-selector" help:"labels of the nodes that agents run on: name=value"`
	PodTolerations   string        `env:"TROUPE_POD_TOLERATIONS" flag:"pod-tolerations" help:"taints that agents' pods bear: a YAML or JSON list"`
	PodCPURequest    string        `env:"TROUPE_POD_CPU_REQUEST" envDefault:"250m" flag:"pod-cpu-request" help:"CPU that a pod asks for"`
	PodCPULimit      string        `env:"TROUPE_POD_CPU_LIMIT" envDefault:"1000m" flag:"pod-cpu-limit" help:"CPU that a pod may use"`
	PodMemRequest    string        `env:"TROUPE_POD_MEMORY_REQUEST" envDefault:"512Mi" flag:"pod-memory-request" help:"memory that a pod asks for"`
	PodMemLimit      string        `env:"TROUPE_POD_MEMORY_LIMIT" envDefault:"2Gi" flag:"pod-memory-limit" help:"memory that a pod may use"`
	PodUnreachable   time.Duration `env:"TROUPE_POD_UNREACHABLE" envDefault:"5m" flag:"pod-unreachable" help:"silence of a node after which a pod on it is given up"`
	OrphanGrace      time.Duration `env:"TROUPE_ORPHAN_GRACE" envDefault:"24h" flag:"orphan-grace" help:"time after which the volume of an agent that the store does not know is deleted; 0: never"`
	SweepEvery       time.Duration `env:"TROUPE_SWEEP_EVERY" envDefault:"1m" flag:"sweep-every" help:"how often pods and volumes that nobody wants are looked for"`
	InternalURL      string        `env:"TROUPE_INTERNAL_URL" flag:"internal-url" help:"base URL under which runners reach any node, such as a Service; a node's own if empty"`
	ProcessLimit     int           `env:"TROUPE_PROCESS_LIMIT" flag:"process-limit" help:"runners at once; by memory if 0"`
	Sandbox          string        `env:"TROUPE_SANDBOX" envDefault:"auto" flag:"sandbox" help:"bubblewrap: auto, required or off"`
	MasterKey        string        `env:"TROUPE_MASTER_KEY" help:"base64 of 32 bytes; dev makes one in the data directory" secret:"yes"`
	RateLimit        int64         `env:"TROUPE_RATE_LIMIT" envDefault:"1000" flag:"rate-limit" help:"requests per account and minute; 0: off"`
	GuestLimit       int64         `env:"TROUPE_GUEST_RATE_LIMIT" envDefault:"60" flag:"guest-rate-limit" help:"logins and the like per address and minute; 0: off"`
	AgentLimit       int           `env:"TROUPE_AGENT_LIMIT" flag:"agent-limit" help:"agents per account; 0: unlimited"`
	PendingLimit     int           `env:"TROUPE_PENDING_LIMIT" envDefault:"10000" flag:"pending-limit" help:"messages that may wait per agent"`
	Overdraft        int64         `env:"TROUPE_OVERDRAFT" flag:"overdraft" help:"output tokens a running turn may use beyond its agent's balance"`
	RunnerMetering   bool          `env:"TROUPE_RUNNER_METERING" flag:"runner-metering" help:"runners may call models past the gateway and count tokens themselves"`
	PublicURL        string        `env:"TROUPE_PUBLIC_URL" flag:"public-url" help:"base URL under which callers reach the API"`
	NodeURL          string        `env:"TROUPE_NODE_URL" flag:"node-url" help:"base URL under which runners reach this node; from listen if empty"`
	ClusterListen    string        `env:"TROUPE_CLUSTER_LISTEN" envDefault:"127.0.0.1:0" flag:"cluster-listen" help:"host:port of traffic between nodes"`
	ClusterAdvert    string        `env:"TROUPE_CLUSTER_ADVERTISE" flag:"cluster-advertise" help:"host:port under which other nodes reach this one"`
	NodeName         string        `env:"TROUPE_NODE_NAME" flag:"node-name" help:"name of this node; the host name if empty"`
	LeaseTTL         time.Duration `env:"TROUPE_LEASE_TTL" envDefault:"6s" flag:"lease-ttl" help:"lease of a member"`
	Warmth           time.Duration `env:"TROUPE_WARMTH_WINDOW" envDefault:"15m" flag:"warmth-window" help:"default idle time before an agent's pod is stopped"`
	Passivate        time.Duration `env:"TROUPE_PASSIVATE_AFTER" envDefault:"2m" flag:"passivate-after" help:"idle time before an activation leaves memory"`
	StartTimeout     time.Duration `env:"TROUPE_START_TIMEOUT" envDefault:"120s" flag:"start-timeout" help:"a pod that did not attach by then has failed"`
	AllowHTTP        bool          `env:"TROUPE_ALLOW_HTTP" flag:"allow-http" help:"webhooks and MCP servers may use http"`
	DiscordURL       string        `env:"TROUPE_DISCORD_URL" flag:"discord-url" help:"base of the Discord REST API, with its version"`
	DiscordToken     string        `env:"TROUPE_DISCORD_TOKEN" help:"token of the platform's Discord bot, for agents without one of their own" secret:"yes"`
	SlackURL         string        `env:"TROUPE_SLACK_URL" flag:"slack-url" help:"base of the Slack Web API"`
	TelegramURL      string        `env:"TROUPE_TELEGRAM_URL" flag:"telegram-url" help:"base of the Telegram Bot API"`
	WhatsAppURL      string        `env:"TROUPE_WHATSAPP_URL" flag:"whatsapp-url" help:"base of the WhatsApp Cloud API"`
	AllowHosts       []string      `env:"TROUPE_EGRESS_ALLOW" flag:"egress-allow" help:"hosts and addresses that the egress guard lets through"`
	OAuthOrigins     []string      `env:"TROUPE_OAUTH_ORIGINS" flag:"oauth-origins" help:"origins of front ends to which OAuth flows of MCP servers may return"`
	Registration     bool          `env:"TROUPE_REGISTRATION" envDefault:"true" flag:"registration" help:"strangers may create accounts"`
	PublicMetrics    bool          `env:"TROUPE_PUBLIC_METRICS" flag:"public-metrics" help:"serve /metrics on the public listener as well"`
	Log              string        `env:"TROUPE_LOG" envDefault:"info" flag:"log" help:"debug, info, warn or error"`

	dev bool
}

// readConfig reads the environment.
func readConfig() (Config, error) {
	var c Config
	if err := env.Parse(&c); err != nil {
		return c, err
	}
	return c, nil
}

var bootstrapShape = regexp.MustCompile(`^sk_shinzo_(live|test)_[A-Za-z0-9]{42}$`)

// finish fills in what depends on other values and checks everything; a bad value names its variable.
func (c *Config) finish() error {
	if c.DataDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return errors.New("TROUPE_DATA_DIR is not set and there is no home directory")
		}
		c.DataDir = filepath.Join(home, ".troupe")
	}
	if c.Runner == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		c.Runner = filepath.Join(filepath.Dir(exe), "troupe-runner")
	}
	c.TelegramURL, c.WhatsAppURL = cmp.Or(c.TelegramURL, telegram.BaseURL), cmp.Or(c.WhatsAppURL, whatsapp.BaseURL)
	if c.NodeName == "" {
		c.NodeName, _ = os.Hostname()
	}
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s %s", name, fmt.Sprintf(format, args...)))
	}
	for name, v := range map[string]string{"TROUPE_LISTEN": c.Listen, "TROUPE_CLUSTER_LISTEN": c.ClusterListen, "TROUPE_METRICS_LISTEN": c.MetricsListen, "TROUPE_CLUSTER_ADVERTISE": c.ClusterAdvert} {
		if _, _, err := net.SplitHostPort(v); v != "" && err != nil {
			bad(name, "must be host:port, not %q", v)
		}
	}
	if c.RedisURL == "" && !c.dev {
		bad("TROUPE_REDIS_URL", "must be set for serve; troupe dev has an embedded store")
	}
	if c.BootstrapKey != "" && !bootstrapShape.MatchString(c.BootstrapKey) {
		bad("TROUPE_BOOTSTRAP_API_KEY", "must be sk_shinzo_live_ and 42 letters and digits")
	}
	if c.MasterKey != "" {
		if _, err := seal.ParseKey(c.MasterKey); err != nil {
			bad("TROUPE_MASTER_KEY", "%v", err)
		}
	} else if !c.dev {
		bad("TROUPE_MASTER_KEY", "must be set for serve: base64 of 32 bytes, the same on every node")
	}
	if u, err := url.Parse(c.AnthropicURL); c.AnthropicURL != "" && c.AnthropicURL != "rehearsal" && (err != nil || u.Host == "") {
		bad("TROUPE_ANTHROPIC_URL", "must be a URL or rehearsal")
	}
	switch c.Runtime {
	case runtimeProcess:
	case runtimeKubernetes:
		c.checkPods(bad)
	default:
		bad("TROUPE_RUNTIME", "must be process or kubernetes")
	}
	switch process.Mode(c.Sandbox) {
	case process.Auto, process.Required, process.Off:
	default:
		bad("TROUPE_SANDBOX", "must be auto, required or off")
	}
	if _, err := c.level(); err != nil {
		bad("TROUPE_LOG", "must be debug, info, warn or error")
	}
	for name, n := range map[string]int64{"TROUPE_PROCESS_LIMIT": int64(c.ProcessLimit), "TROUPE_RATE_LIMIT": c.RateLimit, "TROUPE_GUEST_RATE_LIMIT": c.GuestLimit, "TROUPE_AGENT_LIMIT": int64(c.AgentLimit),
		"TROUPE_OVERDRAFT": c.Overdraft, "TROUPE_MIN_REPLICA_ACKS": int64(c.MinReplicaAcks)} {
		if n < 0 {
			bad(name, "must not be negative")
		}
	}
	for name, d := range map[string]time.Duration{"TROUPE_SWEEP_EVERY": c.SweepEvery, "TROUPE_POD_UNREACHABLE": c.PodUnreachable} {
		if d < time.Second {
			bad(name, "must be at least 1s")
		}
	}
	if c.OrphanGrace < 0 {
		bad("TROUPE_ORPHAN_GRACE", "must not be negative")
	}
	for name, v := range map[string]string{"TROUPE_INTERNAL_URL": c.InternalURL, "TROUPE_NODE_URL": c.NodeURL} {
		if u, err := url.Parse(v); v != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			bad(name, "must be an http or https URL")
		}
	}
	if c.PendingLimit < 1 {
		bad("TROUPE_PENDING_LIMIT", "must be at least 1")
	}
	return errors.Join(errs...)
}

func (c *Config) level() (l slog.Level, err error) { return l, l.UnmarshalText([]byte(c.Log)) }

// redacted lists the configuration without its secrets.
func (c *Config) redacted() []any {
	var out []any
	v, t := reflect.ValueOf(*c), reflect.TypeOf(*c)
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("env")
		if name == "" {
			continue
		}
		value := fmt.Sprint(v.Field(i).Interface())
		switch t.Field(i).Tag.Get("secret") {
		case "yes":
			if value != "" {
				value = "[redacted]"
			}
		case "url":
			if u, err := url.Parse(value); err == nil {
				value = u.Redacted()
			}
		}
		out = append(out, slog.String(strings.ToLower(strings.TrimPrefix(name, "TROUPE_")), value))
	}
	return out
}
