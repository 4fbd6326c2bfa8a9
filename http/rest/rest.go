// Package rest serves the public routes: agents, messages, accounts, keys and health. A handler reads what it needs,
// checks in the order of the contract, and sends commands to actors; it holds no state.
package rest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"encoding/json"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/http/api"
	"troupe/http/auth"
	"troupe/http/mcp"
	"troupe/http/route"
	"troupe/persistence/seal"
)

// Store is what the routes read and write.
type Store interface {
	agent.Creator
	agent.Inbox
	agent.Messages
	agent.Watcher
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
	agent.Records
	agent.EventLog
	agent.Routes
	Purge(ctx context.Context, id agent.ID) error
	account.Accounts
	account.PlatformKeys
	account.ProviderKeys
	account.Directory
	account.Counters
	account.Streams
	account.MCPServers
	Ping(ctx context.Context) error
}

// Prober asks a model provider whether a key works.
type Prober interface {
	Probe(ctx context.Context, key agent.Secret, base string) error
}

// Volumes knows whether an agent's volume may grow; fault.Invalid if not.
type Volumes interface {
	Resizable(ctx context.Context, id agent.ID) error
}

// Mailer sends verification mails. Without one, accounts are verified at once (AUTH-5).
type Mailer interface {
	Send(ctx context.Context, to, subject, text string) error
}

// Config is what the routes need.
type Config struct {
	Store      Store
	Auth       *auth.Service
	Box        *seal.Box
	Agents     *agentclient.Client
	Settings   agent.Settings
	AgentLimit int    // per account (TEN-3)
	PublicURL  string // base of endpoint_url (LEG-1)
	RateLimit  int64
	Closed     bool // no new accounts
	Mailer     Mailer
	Prober     Prober
	Volumes    Volumes
	Kubernetes func(ctx context.Context) error // asks its API server; nil: agents run elsewhere
	Scrape     func() []byte                   // the metrics page; nil: not served here
	Cluster    func() (latency time.Duration, err error)
	Accepted   func(took time.Duration)
	Members    Membership
	Shards     int             // of the clock
	Done       <-chan struct{} // the node stops: waits end
	MCP        *mcp.Keeper
	Networks   Networks // nil: no calls of chat networks are taken
	SharedBot  string   // the platform's Discord bot, "" for none
	// OAuthOrigins are origins of front ends to which an OAuth flow may send the browser, besides PublicURL.
	OAuthOrigins []string
}

type rest struct {
	Config
	ways ways // to the agents of triggers
}

// Routes is the table of this room.
func Routes(cfg Config) []route.Route {
	r := &rest{Config: cfg}
	return slices.Concat(r.agentRoutes(), r.triggerRoutes(), r.scheduleRoutes(), r.webhookRoutes(), r.channelRoutes(), r.taskRoutes(), r.mcpRoutes(), r.accountRoutes(), r.systemRoutes())
}

// feature makes a route that needs the AI Agents feature (TEN-2).
func feature(method, path, op string, body route.Body, h func(*route.Call) (route.Response, error)) route.Route {
	return route.Route{Method: method, Path: path, Op: op, Access: route.Account, Feature: true, Body: body, Handle: h}
}

// keyed reads a body that may be repeated with an idempotency key. A key that was used with another body is told before what is
// wrong with this one.
func keyed[T any](r *rest, c *route.Call, id agent.ID, read func(doc *field.Value) (T, error)) (out T, idem *agent.Idempotency, err error) {
	doc, err := c.Doc()
	if err != nil {
		return out, nil, err
	}
	if idem, err = c.Idempotency(string(c.Caller.Account.ID) + "/" + string(id)); err != nil {
		return out, nil, err
	}
	if out, err = read(doc); err != nil && idem != nil {
		if _, rerr := r.Store.Replay(c.Ctx, id, idem.Key, idem.Hash); rerr != nil {
			return out, idem, rerr
		}
	}
	return out, idem, err
}

func (r *rest) agentRoutes() []route.Route {
	a := feature
	slow := a("POST", "/v1/agent/update/{id}", "updateAgent", route.Required, r.update)
	slow.Timeout = 90 * time.Second
	wait := a("POST", "/v1/agent/{id}/messages", "sendMessage", route.Required, r.send)
	wait.Timeout = 75 * time.Second
	return []route.Route{
		a("POST", "/v1/agent/create", "createAgent", route.Required, r.create),
		a("GET", "/v1/agent/list", "listAgents", route.None, r.list),
		a("GET", "/v1/agent/{id}", "getAgent", route.None, r.get),
		a("GET", "/v1/agent/{id}/summary", "getAgentSummary", route.None, r.summary),
		a("GET", "/v1/agent/{id}/ready", "getAgentReadiness", route.None, r.ready),
		slow,
		a("POST", "/v1/agent/delete/{id}", "deleteAgent", route.Optional, r.delete),
		a("POST", "/v1/agent/{id}/pause", "pauseAgent", route.None, r.verb(agent.Pause, "Agent paused successfully")),
		a("POST", "/v1/agent/{id}/resume", "resumeAgent", route.None, r.verb(agent.Resume, "Agent resumed successfully")),
		a("POST", "/v1/agent/{id}/stop", "stopAgent", route.None, r.verb(agent.Stop, "Agent stopped successfully")),
		a("POST", "/v1/agent/{id}/status", "setAgentStatus", route.Required, r.status),
		a("POST", "/v1/agent/{id}/balance", "updateAgentBalance", route.Required, r.balance),
		a("GET", "/v1/agent/{id}/runtime", "getAgentRuntime", route.None, r.runtime),
		a("GET", "/v1/agent/{id}/sessions", "listAgentSessions", route.None, r.sessions),
		a("GET", "/v1/agent/{id}/sessions/{sessionId}", "getAgentSession", route.None, r.session),
		a("GET", "/v1/agent/{id}/events", "streamAgentEvents", route.None, r.events),
		wait,
		a("GET", "/v1/agent/{id}/messages", "listMessages", route.None, r.messages),
		a("GET", "/v1/agent/{id}/messages/{messageId}", "getMessage", route.None, r.message),
		a("POST", "/v1/agent/{id}/messages/mark-read", "markMessagesRead", route.Required, r.markRead),
		a("GET", "/v1/agent/{id}/conversations", "listConversations", route.None, r.conversations),
	}
}

// view is an agent as read for one request.
type view struct {
	Spec  agent.Spec
	State agent.State
	F     agent.Figures
}

func gone() error { return agent.Gone() }

// load reads the agent named in the path. Another account's, a deleted or a malformed one is 404 (TEN-1).
func (r *rest) load(c *route.Call) (*view, error) {
	id, ok := agent.ParseID(c.Param("id"))
	if !ok {
		return nil, gone()
	}
	return r.view(c.Ctx, id, c.Caller.Account.ID)
}

func (r *rest) view(ctx context.Context, id agent.ID, owner account.ID) (*view, error) {
	sn, err := r.Store.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	if sn.Figures.Account != owner || sn.Figures.Deleted {
		return nil, gone()
	}
	return viewOf(sn)
}

func viewOf(sn agent.Snapshot) (*view, error) {
	v := &view{F: sn.Figures}
	if err := json.Unmarshal(sn.Spec, &v.Spec); err != nil {
		return nil, fmt.Errorf("decode the spec of an agent: %w", err)
	}
	if err := json.Unmarshal(sn.State, &v.State); err != nil {
		return nil, fmt.Errorf("decode the state of agent %s: %w", v.Spec.ID, err)
	}
	return v, nil
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// agentBody renders an agent. Credentials are never part of it (SEC-3).
func agentBody(v *view) api.Agent {
	s := &v.Spec
	source := "account"
	if s.Has(agent.SlotAnthropic) {
		source = "agent"
	}
	return api.Agent{
		ID: string(s.ID), Name: s.Name, Description: s.Description, Status: string(v.State.Status), StatusReason: text(v.State.Reason),
		SessionMode: string(s.SessionMode), Balance: v.F.Balance, CreatedAt: agent.Stamp(s.CreatedMS), UpdatedAt: agent.Stamp(s.UpdatedMS),
		Configuration: configuration(s), SystemPrompt: s.SystemPrompt, SystemPromptType: s.SystemPromptType, MCPServers: []api.McpGrantSummary{},
		Files: files(v.State.Disk), PVCSize: s.PVCSize, WarmthMS: s.WarmthMS, Discord: s.Has(agent.SlotDiscord), Slack: s.Has(agent.SlotSlack),
		Telegram: s.Has(agent.SlotTelegram), WhatsApp: s.Has(agent.SlotWhatsApp), KeySource: source, WebhookSecretSet: s.Has(agent.SlotWebhook),
	}
}

// agent renders an agent with its grants of registered MCP servers.
func (r *rest) agent(ctx context.Context, v *view) (api.Agent, error) {
	out := agentBody(v)
	servers, err := r.Store.ListMCPServers(ctx, v.Spec.Account)
	for i := range servers {
		if g := servers[i].Grant(string(v.Spec.ID)); g != nil {
			out.MCPServers = append(out.MCPServers, api.McpGrantSummary{ID: servers[i].ID, Name: servers[i].Name, Mode: g.Mode(), Status: string(servers[i].Status)})
		}
	}
	return out, err
}

func configuration(s *agent.Spec) api.Configuration {
	c := &s.Config
	out := api.Configuration{TimeoutSeconds: c.TimeoutSeconds, Model: c.Model, ReminderMS: c.ReminderMS, Memory: api.MemoryConfig(c.Memory),
		Compaction: api.Compaction{Enabled: c.Compaction.Enabled, Model: c.Compaction.Model, Threshold: c.Compaction.Threshold, Instructions: c.Compaction.Instructions},
		Hooks:      c.Hooks, Webhooks: c.Webhooks, EnvNames: s.EnvNames()}
	for name, m := range c.MCP {
		if out.MCP == nil {
			out.MCP = map[string]api.MCPServer{}
		}
		out.MCP[name] = api.MCPServer{Type: m.Type, Command: m.Command, Args: m.Args, URL: m.URL}
	}
	return out
}

// files renders the workspace's size in MiB, rounded up to 0.01 (FILE-4).
func files(d agent.DiskUsage) api.FilesystemSummary {
	return api.FilesystemSummary{TotalFiles: d.Files, TotalSizeMB: math.Ceil(float64(d.Bytes)/(1<<20)*100) / 100, LastModified: agent.StampOrNil(d.ModifiedMS)}
}

// sealFor seals with the installation's box.
func (r *rest) seal(id agent.ID, slot string, v agent.Secret) (string, error) {
	s, err := r.Box.SealAgent(id, slot, v)
	if err != nil {
		return "", fault.New(fault.Internal, "internal", "").Because(err)
	}
	return s, nil
}
