// Package runnerapi serves the runner protocol (semantics.md §18): attach, heartbeat, commands as server-sent events,
// turns, messages. Calls go to any node; what changes state is sent to the agent's grain, which checks runner and turn
// in the step of the effect (FENCE-4, FENCE-5).
package runnerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/mcp"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

// Store is what the routes read and write.
type Store interface {
	agent.Messages
	agent.Records
	agent.Beats
	agent.Watcher
	agent.Inbox
	Report(ctx context.Context, r *agent.Report) (counted bool, balance int64, err error)
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
	account.Directory
	account.MCPServers
}

// Config is what the routes need.
type Config struct {
	Store    Store
	Agents   *agentclient.Client
	Settings agent.Settings
	MCP      *mcp.Keeper
	URLs     func() []string                                            // base URLs of live nodes
	Serves   func(id agent.ID, incarnation int64, endpoint string) bool // whether an agent's file server may be there; the node will call it
	Done     <-chan struct{}                                            // streams end then
}

type api struct{ Config }

// Routes is the table of this room.
func Routes(cfg Config) []route.Route {
	a := &api{cfg}
	const self = "/v1/agent-runtime/self"
	r := func(method, path, op string, body route.Body, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: method, Path: path, Op: op, Access: route.Runtime, Body: body, Handle: h}
	}
	return []route.Route{
		r("GET", self, "runtimeGetSelf", route.None, a.self),
		r("GET", self+"/entities", "runtimeListEntities", route.None, a.entities),
		r("GET", self+"/mcp-servers", "runtimeListMcpServers", route.None, a.mcpServers),
		r("POST", self+"/attach", "runtimeAttach", route.Required, a.attach), // the one call without an epoch
		r("POST", self+"/heartbeat", "runtimeHeartbeat", route.Required, a.epoch(a.heartbeat)),
		r("POST", self+"/detach", "runtimeDetach", route.Required, a.epoch(a.detach)),
		r("PATCH", self+"/status", "runtimeUpdateStatus", route.Required, a.epoch(a.status)),
		r("PATCH", self+"/disk-usage", "runtimeReportDiskUsage", route.Required, a.epoch(a.disk)),
		r("PATCH", self+"/sdk-session", "runtimeUpdateSdkSession", route.Required, a.epoch(a.session)),
		r("GET", self+"/messages", "runtimeListMessages", route.None, a.list),
		r("POST", self+"/messages", "runtimeSendMessage", route.Required, a.epoch(a.send)),
		r("GET", self+"/messages/pending", "runtimeListPendingMessages", route.None, a.pending),
		r("GET", self+"/messages/{messageId}", "runtimeGetMessage", route.None, a.get),
		r("PATCH", self+"/messages/{messageId}", "runtimeUpdateMessage", route.Required, a.epoch(a.patch)),
		r("POST", self+"/messages/mark-delivered", "runtimeMarkDelivered", route.Required, a.epoch(a.mark(false))),
		r("POST", self+"/messages/mark-read", "runtimeMarkRead", route.Required, a.epoch(a.mark(true))),
		r("POST", self+"/turns/{turnId}/progress", "runtimeTurnProgress", route.Required, a.epoch(a.progress)),
		r("POST", self+"/turns/{turnId}/end", "runtimeTurnEnd", route.Required, a.epoch(a.end)),
		r("POST", self+"/sessions/{sessionId}/compactions", "runtimeReportCompaction", route.Required, a.epoch(a.compacted)),
		r("POST", self+"/usage", "runtimeReportUsage", route.Required, a.epoch(a.usage)),
		r("GET", "/v1/agent-runtime/subscribe", "runtimeSubscribe", route.None, a.epoch(a.subscribe)),
	}
}

// epoch refuses calls that lack the runner epoch.
func (a *api) epoch(next func(*route.Call) (route.Response, error)) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		if c.Runner.Epoch == 0 {
			return route.Response{}, fault.New(fault.Invalid, "validation_failed", "X-Troupe-Runner-Epoch is required").At("X-Troupe-Runner-Epoch", "is required")
		}
		res, err := next(c)
		if err != nil {
			switch fault.Of(err).Kind {
			case fault.Invalid, fault.TooLarge, fault.MediaType: // a dead key or a stale runner is told first (ERR-3, FENCE-4)
				if v, lerr := a.load(c); lerr != nil {
					err = lerr
				} else if v.f.RunnerEpoch != c.Runner.Epoch {
					err = fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
				}
			}
		}
		return res, err
	}
}

func guard(c *route.Call) protocol.Guard {
	return protocol.Guard{Incarnation: c.Runner.Incarnation, Epoch: c.Runner.Epoch}
}

// view is the agent of a runner, read for one call.
type view struct {
	spec  agent.Spec
	state agent.State
	f     agent.Figures
}

// load reads the runner's agent; a key of a revoked incarnation is 401 (FENCE-4).
func (a *api) load(c *route.Call) (*view, error) {
	sn, err := a.Store.Load(c.Ctx, c.Runner.Agent)
	if fault.Is(err, fault.NotFound) {
		return nil, agent.Refused("key")
	}
	if err != nil {
		return nil, err
	}
	if sn.Figures.Incarnation != c.Runner.Incarnation || sn.Figures.Deleted {
		return nil, agent.Refused("key")
	}
	v := &view{f: sn.Figures}
	if err := json.Unmarshal(sn.Spec, &v.spec); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if err := json.Unmarshal(sn.State, &v.state); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	return v, nil
}

func (a *api) self(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	s := &v.spec
	hooks := map[string]string{}
	for _, h := range agent.HookNames {
		hooks[h] = s.Config.HookText(agent.Hook(h))
	}
	return route.OK(map[string]any{
		"id": s.ID, "name": s.Name, "description": s.Description, "status": v.state.Status, "session_mode": s.SessionMode,
		"system_prompt": s.SystemPrompt, "system_prompt_type": s.SystemPromptType, "workspace_path": "/workspace",
		"output_token_balance": v.f.Balance, "config_version": s.ConfigVersion, "epoch": max(v.f.Epoch, 1),
		"configuration": map[string]any{"timeout_seconds": s.Config.TimeoutSeconds, "model": s.EffectiveModel(a.Settings),
			"unread_reminder_interval_ms": s.Config.ReminderMS, "memory_config": s.Config.Memory, "compaction": s.Config.Compaction, "hook_messages": hooks},
	}), nil
}

func (a *api) entities(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	out := []runnerproto.Entity{{UUID: string(v.spec.Account), Type: "user", Name: v.spec.Owner, Channel: "api"}}
	for _, b := range v.state.Bindings {
		out = append(out, runnerproto.Entity{UUID: b.ID, Type: "user", Name: b.Name, Channel: string(b.Channel)})
	}
	err = a.Store.Agents(c.Ctx, v.spec.Account, func(e account.Entry) bool {
		var card agent.Card
		if e.Agent != string(v.spec.ID) && json.Unmarshal(e.Card, &card) == nil {
			status := e.Status
			out = append(out, runnerproto.Entity{UUID: e.Agent, Type: "agent", Name: card.Name, Channel: "agent", Description: card.Description, Status: &status})
		}
		return len(out) < 500
	})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(map[string]any{"entities": out}), nil
}

func (a *api) nodes(res route.Response) route.Response {
	res.Header = map[string]string{runnerproto.HeaderNodes: strings.Join(a.URLs(), ",")}
	return res
}

const huge = agent.MaxTokens

// read reads a flat body.
func read(c *route.Call, f func(rd field.Reader)) error {
	doc, err := c.Doc()
	if err != nil {
		return err
	}
	errs := &field.Errors{}
	f(field.Read(doc, "", errs))
	return errs.Err()
}

// turnID reads an optional UUID member that may be null.
func turnID(rd field.Reader, name string) agent.TurnID {
	s, ok := rd.String(name, field.Text{Nullable: true})
	if !ok {
		return ""
	}
	u, ok := agent.ParseUUID(s)
	if !ok {
		rd.Fail(name, "must be a UUID")
	}
	return agent.TurnID(u)
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func message(s string) route.Response { return route.OK(map[string]string{"message": s}) }
