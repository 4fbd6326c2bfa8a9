// Package runnerapi serves the runner protocol (semantics.md §18): attach, heartbeat, commands as server-sent events,
// turns, messages. Calls go to any node; what changes state is sent to the agent's grain, which checks runner and turn
// in the step of the effect (FENCE-4, FENCE-5).
package runnerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/mcp"
	"troupe/http/rest"
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

const huge = agent.MaxTokens

func (a *api) attach(c *route.Call) (route.Response, error) {
	at := agent.Attach{Incarnation: c.Runner.Incarnation}
	var proto int64
	err := read(c, func(rd field.Reader) {
		rd.Require("protocol_version", "runner_version", "metering")
		proto, _ = rd.Int("protocol_version", 1, huge, false)
		at.Version, _ = rd.String("runner_version", field.Text{Min: 1, Max: 100})
		rd.String("sdk_name", field.Text{Max: 100})
		rd.String("sdk_version", field.Text{Max: 100})
		rd.String("sdk_session_id", field.Text{Max: 200, Nullable: true})
		at.Metering, _ = rd.String("metering", field.Text{Enum: []string{agent.MeteringGateway, agent.MeteringRunner}})
		at.Turn = turnID(rd, "current_turn_id")
		if at.Endpoint, _ = rd.String("workspace_endpoint", field.Text{Max: 2048}); at.Endpoint != "" && !a.Serves(c.Runner.Agent, c.Runner.Incarnation, at.Endpoint) {
			rd.Fail("workspace_endpoint", "must be the http URL of the file server in this agent's pod")
		}
	})
	if err != nil {
		if _, lerr := a.load(c); lerr != nil {
			err = lerr
		}
		return route.Response{}, err
	}
	if at.Metering == agent.MeteringRunner && !a.Settings.RunnerMetering {
		return route.Response{}, fault.New(fault.Invalid, "validation_failed", "metering by the runner is not allowed here").At("metering", "must be gateway")
	}
	if proto != runnerproto.Version {
		return route.Response{}, fault.Newf(fault.Conflict, "protocol_mismatch", "This node speaks version %d of the runner protocol", runnerproto.Version)
	}
	if _, err := a.load(c); err != nil {
		return route.Response{}, err
	}
	x, err := agentclient.Ask[protocol.AttachResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Attach, at)
	if err != nil {
		return route.Response{}, err
	}
	out := runnerproto.AttachResult{RunnerEpoch: x.RunnerEpoch, Epoch: x.Epoch, Incarnation: at.Incarnation, HeartbeatMS: agent.HeartbeatInterval.Milliseconds(),
		LeaseMS: agent.RunnerLease.Milliseconds(), ConfigVersion: x.ConfigVersion, ServerTime: agent.Stamp(x.NowMS)}
	if x.Turn != "" {
		out.CurrentTurnID = text(string(x.Turn))
	}
	if x.Session != nil {
		out.OpenSession = session(x.Session, x.Start)
	}
	return a.nodes(route.OK(out)), nil
}

func session(s *agent.Session, start string) *runnerproto.Session {
	return &runnerproto.Session{ID: string(s.ID), Mode: string(s.Mode), SDKSessionID: text(s.SDK), Start: start}
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

var executions = []string{"starting", "idle", "working", "compacting", "stopping", "error"}

func (a *api) heartbeat(c *route.Call) (route.Response, error) {
	b := agent.Heartbeat{Agent: c.Runner.Agent, Guard: agent.RunnerGuard{Incarnation: c.Runner.Incarnation, Epoch: c.Runner.Epoch}, LeaseMS: agent.RunnerLease.Milliseconds()}
	err := read(c, func(rd field.Reader) {
		rd.Require("execution_status")
		b.Execution, _ = rd.String("execution_status", field.Text{Enum: executions})
		turnID(rd, "turn_id")
		rd.Int("memory_bytes", 0, huge, false)
	})
	if err != nil {
		return route.Response{}, err
	}
	f, turn, err := a.Store.Beat(c.Ctx, &b)
	if err != nil {
		return route.Response{}, err
	}
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	return a.nodes(route.OK(runnerproto.HeartbeatResult{LeaseExpiresAt: agent.Stamp(f.LeaseMS), Epoch: max(f.Epoch, 1), CurrentTurnID: text(string(turn)), ConfigVersion: v.spec.ConfigVersion})), nil
}

func (a *api) detach(c *route.Call) (route.Response, error) {
	cmd := protocol.RunnerCommand{Guard: guard(c)}
	err := read(c, func(rd field.Reader) {
		rd.Require("reason")
		cmd.Reason, _ = rd.String("reason", field.Text{Enum: []string{"shutdown", "upgrade", "fatal"}})
		cmd.Detail, _ = rd.String("detail", field.Text{Max: 2000})
	})
	if err == nil {
		_, err = agentclient.Ask[struct{}](c.Ctx, a.Agents, c.Runner.Agent, protocol.Detach, cmd)
	}
	return message("Detached"), err
}

func message(s string) route.Response { return route.OK(map[string]string{"message": s}) }

func (a *api) status(c *route.Call) (route.Response, error) {
	cmd := protocol.ReportCommand{Guard: guard(c)}
	err := read(c, func(rd field.Reader) {
		rd.Require("execution_status")
		cmd.Execution, _ = rd.String("execution_status", field.Text{Enum: executions})
		rd.String("detail", field.Text{Max: 2000})
		if e, ok := rd.Object("error", false); ok {
			e.Require("code", "message", "fatal")
			e.String("code", field.Text{Max: 64})
			cmd.Error, _ = e.String("message", field.Text{Max: 2000})
			cmd.Fatal, _ = e.Bool("fatal")
		} else if cmd.Execution == "error" {
			rd.Fail("error", "is required with execution_status error")
		}
	})
	if err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.ReportResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Report, cmd)
	return route.OK(map[string]any{"message": "Recorded", "execution_status": cmd.Execution, "agent_status": res.Status}), err
}

func (a *api) disk(c *route.Call) (route.Response, error) {
	cmd := protocol.DiskCommand{Guard: guard(c)}
	err := read(c, func(rd field.Reader) {
		rd.Require("total_files", "total_bytes")
		cmd.Usage.Files, _ = rd.Int("total_files", 0, huge, false)
		cmd.Usage.Bytes, _ = rd.Int("total_bytes", 0, huge, false)
		rd.Int("capacity_bytes", 0, huge, false)
		rd.Int("available_bytes", 0, huge, false)
		rd.Int("memory_bytes", 0, huge, false)
		if s, ok := rd.String("last_modified", field.Text{Nullable: true}); ok {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				rd.Fail("last_modified", "must be an RFC 3339 instant")
			}
			cmd.Usage.ModifiedMS = t.UnixMilli()
		}
	})
	if err == nil {
		_, err = agentclient.Ask[struct{}](c.Ctx, a.Agents, c.Runner.Agent, protocol.Disk, cmd)
	}
	return message("Recorded"), err
}

func (a *api) session(c *route.Call) (route.Response, error) {
	cmd := protocol.SessionCommand{Guard: guard(c)}
	err := read(c, func(rd field.Reader) {
		rd.Require("session_id", "sdk_session_id")
		cmd.Session = agent.SessionID(turnID(rd, "session_id"))
		cmd.SDK, _ = rd.String("sdk_session_id", field.Text{Min: 1, Max: 200})
		cmd.Context, _ = rd.Int("context_tokens", 0, huge, false)
		cmd.Lost, _ = rd.Bool("lost")
	})
	if err == nil {
		_, err = agentclient.Ask[struct{}](c.Ctx, a.Agents, c.Runner.Agent, protocol.Session, cmd)
	}
	return message("Recorded"), err
}

// compacted takes the runner's report of a compaction (COMP-2).
func (a *api) compacted(c *route.Call) (route.Response, error) {
	session, ok := agent.ParseUUID(c.Param("sessionId"))
	if !ok {
		return route.Response{}, fault.New(fault.NotFound, "not_found", "Session not found")
	}
	cmd := protocol.CompactCommand{Guard: guard(c), Session: agent.SessionID(session)}
	err := read(c, func(rd field.Reader) {
		rd.Require("compaction_id", "status")
		cmd.ID = string(turnID(rd, "compaction_id"))
		status, _ := rd.String("status", field.Text{Enum: []string{"completed", "failed"}})
		cmd.Done = status == "completed"
		cmd.Before, _ = rd.Int("input_tokens_before", 0, huge, false)
		if n, given := rd.Int("input_tokens_after", 0, huge, false); given {
			cmd.After = &n
		}
		cmd.Model, _ = rd.String("model", field.Text{Max: 200})
		cmd.SDK, _ = rd.String("sdk_session_id", field.Text{Max: 200})
		cmd.Error, _ = rd.String("error", field.Text{Max: 2000})
	})
	if err == nil {
		_, err = agentclient.Ask[struct{}](c.Ctx, a.Agents, c.Runner.Agent, protocol.Compact, cmd)
	}
	return message("Recorded"), err
}

func pathTurn(c *route.Call) (agent.TurnID, error) {
	u, ok := agent.ParseUUID(c.Param("turnId"))
	if !ok {
		return "", fault.New(fault.NotFound, "not_found", "Turn not found")
	}
	return agent.TurnID(u), nil
}

// known answers 404 for a turn that this agent never had (FENCE-5).
func (a *api) known(c *route.Call, id agent.TurnID) error {
	v, err := a.load(c)
	if err != nil {
		return err
	}
	if t := v.state.Turn; t != nil && t.ID == id || v.state.LastTurn == id {
		return nil
	}
	b, err := a.Store.Record(c.Ctx, c.Runner.Agent, agent.RecordTurn, string(id))
	if err == nil && b == nil {
		err = fault.New(fault.NotFound, "not_found", "Turn not found")
	}
	return err
}

func (a *api) progress(c *route.Call) (route.Response, error) {
	id, err := pathTurn(c)
	if err == nil {
		err = a.known(c, id)
	}
	if err != nil {
		return route.Response{}, err
	}
	cmd := protocol.ProgressCommand{Guard: guard(c), Turn: id}
	err = read(c, func(rd field.Reader) {
		rd.Require("events")
		items, ok := rd.Array("events", 100)
		if ok && len(items) == 0 {
			rd.Fail("events", "must have at least 1 entry")
		}
		for i := range items {
			e := rd.Item("events", i, &items[i])
			e.Require("seq", "kind")
			var p agent.ProgressEntry
			p.Seq, _ = e.Int("seq", 1, huge, false)
			p.Kind, _ = e.String("kind", field.Text{Enum: []string{"accepted", "step", "tool_started", "tool_finished", "text", "context"}})
			if s, ok := e.String("at", field.Text{}); ok {
				if _, err := time.Parse(time.RFC3339, s); err != nil {
					e.Fail("at", "must be an RFC 3339 instant")
				}
			}
			var step agent.Step
			step.Current, _ = e.String("current_step", field.Text{Max: 500})
			if n, ok := e.Int("steps_completed", 0, huge, false); ok {
				step.Completed = &n
			}
			if n, ok := e.Int("total_steps", 0, huge, false); ok {
				step.Total = &n
			}
			if p.Kind == "step" {
				p.Step = &step
			}
			p.ToolCallID, _ = e.String("tool_call_id", field.Text{Max: 200})
			p.ToolName, _ = e.String("tool_name", field.Text{Max: 200})
			p.Summary, _ = e.String("summary", field.Text{Max: 500})
			e.String("text", field.Text{Max: 4000})
			p.IsError, _ = e.Bool("is_error")
			p.ContextTokens, _ = e.Int("context_tokens", 0, huge, false)
			cmd.Entries = append(cmd.Entries, p)
		}
	})
	if err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.ProgressResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Progress, cmd)
	return route.OK(map[string]any{"accepted_seq": res.Seq, "deadline_at": agent.Stamp(res.DeadlineMS)}), err
}

func (a *api) end(c *route.Call) (route.Response, error) {
	id, err := pathTurn(c)
	if err == nil {
		err = a.known(c, id)
	}
	if err != nil {
		return route.Response{}, err
	}
	cmd := protocol.EndCommand{Guard: guard(c)}
	cmd.Turn = id
	if err := read(c, func(rd field.Reader) { readEnd(rd, &cmd.End) }); err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[agent.Ended](c.Ctx, a.Agents, c.Runner.Agent, protocol.End, cmd)
	if err != nil {
		return route.Response{}, err
	}
	out := runnerproto.EndResult{TurnID: string(id), Outcome: string(res.Outcome), Duplicate: res.Duplicate, ReplyIDs: []string{}}
	for _, r := range res.Replies {
		out.ReplyIDs = append(out.ReplyIDs, r.String())
	}
	return route.OK(out), nil
}

func readEnd(rd field.Reader, e *agent.End) {
	rd.Require("outcome")
	o, _ := rd.String("outcome", field.Text{Enum: []string{"completed", "awaiting_input", "failed", "cancelled"}})
	e.Outcome = agent.Outcome(o)
	e.Reason, _ = rd.String("reason", field.Text{Max: 64, Nullable: true})
	e.Error, _ = rd.String("error", field.Text{Max: 2000})
	if e.Outcome == agent.Failed && !rd.Has("error") {
		rd.Fail("error", "is required with outcome failed")
	}
	e.SDK, _ = rd.String("sdk_session_id", field.Text{Max: 200})
	e.Context, _ = rd.Int("context_tokens", 0, huge, false)
	if _, ok := rd.Object("result", false); ok {
		v, _ := rd.Raw("result")
		if e.Result = v.JSON(); len(e.Result) > agent.MaxResult {
			rd.Fail("result", fmt.Sprintf("must have at most %d bytes", agent.MaxResult))
		}
	}
	items, _ := rd.Array("replies", agent.MaxReplies)
	for i := range items {
		r := rd.Item("replies", i, &items[i])
		r.Require("content")
		d := agent.ReplyDraft{Metadata: agent.ReadMetadata(r, "metadata")}
		d.Content, _ = r.String("content", field.Text{Min: 1, Max: agent.MaxContent})
		d.ReplyTo = replyTo(r)
		e.Replies = append(e.Replies, d)
	}
}

func replyTo(rd field.Reader) agent.MessageID {
	s, ok := rd.String("reply_to_id", field.Text{Max: 64})
	if !ok || s == "" {
		return ""
	}
	id, ok := agent.ParseMessageID(s)
	if !ok {
		rd.Fail("reply_to_id", "is not a message to this agent")
	}
	return id
}

// usage takes reports of calls that bypassed the gateway; while the gateway meters they are stored for comparison (LLM-9).
func (a *api) usage(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	r := &agent.Report{Agent: c.Runner.Agent, Guard: agent.RunnerGuard{Incarnation: c.Runner.Incarnation, Epoch: c.Runner.Epoch}}
	err = read(c, func(rd field.Reader) {
		rd.Require("usage_id", "model", "input_tokens", "output_tokens")
		if rd.Null("usage_id") {
			rd.Fail("usage_id", "must be a UUID")
		}
		r.ID = string(turnID(rd, "usage_id"))
		r.Turn = turnID(rd, "turn_id")
		rd.String("model", field.Text{Min: 1, Max: 200})
		for name, n := range map[string]*int64{"input_tokens": &r.Usage.Input, "output_tokens": &r.Usage.Output,
			"cache_creation_input_tokens": &r.Usage.CacheWrite, "cache_read_input_tokens": &r.Usage.CacheRead} {
			*n, _ = rd.Int(name, 0, huge, false)
		}
	})
	if err != nil {
		return route.Response{}, err
	}
	r.Count = a.Settings.RunnerMetering && agent.DecodeRunner(v.f.RunnerInfo).Metering == agent.MeteringRunner
	counted, balance, err := a.Store.Report(c.Ctx, r)
	if err != nil {
		return route.Response{}, err
	}
	if counted && balance == 0 && r.Turn != "" { // the cap holds for the next call; this one is over (BAL-6)
		if _, err := agentclient.Ask[struct{}](c.Ctx, a.Agents, c.Runner.Agent, protocol.Exhaust, protocol.ExhaustCommand{Turn: r.Turn}); err != nil {
			return route.Response{}, err
		}
	}
	return route.OK(map[string]any{"counted": counted, "output_token_balance": balance}), nil
}

// body renders a message with sender and recipient.
func (v *view) body(m *agent.Message) runnerproto.Message {
	b := rest.MessageBody(m)
	party, name := m.PartyType, m.PartyName
	if party == "" {
		party = "user"
	}
	if name == "" {
		name = v.spec.Owner
	}
	out := runnerproto.Message{ID: b.ID, Role: b.Role, Content: b.Content, Status: b.Status, Channel: b.Channel, QueueMode: b.QueueMode, ReplyToID: b.ReplyToID,
		CreatedAt: b.CreatedAt, DeliveredAt: b.DeliveredAt, ReadAt: b.ReadAt, Metadata: b.Metadata, Outcome: b.Outcome, FailureReason: b.FailureReason,
		Source: b.Source, SourceUUID: b.SourceUUID, Counterparty: b.Counterparty, SessionID: b.SessionID, TurnID: b.TurnID, HopCount: m.Hops,
		SenderType: party, SenderUUID: m.Counterparty, SenderName: name, RecipientType: "agent", RecipientUUID: string(v.spec.ID)}
	if m.Role == agent.RoleAssistant {
		out.SenderType, out.SenderUUID, out.SenderName = "agent", string(v.spec.ID), v.spec.Name
		out.RecipientType, out.RecipientUUID = party, m.Counterparty
	}
	return out
}

func (v *view) page(msgs []agent.Message, more bool) route.Response {
	out := runnerproto.MessageList{Messages: []runnerproto.Message{}, HasMore: more}
	for i := range msgs {
		out.Messages = append(out.Messages, v.body(&msgs[i]))
	}
	return route.OK(out)
}

func (a *api) list(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	p, err := rest.ReadPage(c, nil)
	if err != nil {
		return route.Response{}, err
	}
	msgs, more, err := a.Store.List(c.Ctx, v.spec.ID, p)
	return v.page(msgs, more), err
}

func (a *api) pending(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	q := c.Query()
	limit := int(q.Int("limit", 1, 100, 50))
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	msgs, err := a.Store.Queue(c.Ctx, v.spec.ID, limit+1)
	if err != nil {
		return route.Response{}, err
	}
	return v.page(msgs[:min(limit, len(msgs))], len(msgs) > limit), nil
}

func (a *api) read(c *route.Call, v *view, raw string) (route.Response, error) {
	id, ok := agent.ParseMessageID(raw)
	if !ok {
		return route.Response{}, fault.New(fault.NotFound, "not_found", "Message not found")
	}
	m, err := a.Store.Message(c.Ctx, v.spec.ID, id)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(v.body(&m)), nil
}

func (a *api) get(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	return a.read(c, v, c.Param("messageId"))
}

func (a *api) mark(readThem bool) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		cmd := protocol.MarkCommand{Guard: guard(c), Read: readThem}
		var malformed []string
		err := read(c, func(rd field.Reader) {
			cmd.IDs, malformed = rest.ReadIDs(rd)
			cmd.Turn = turnID(rd, "turn_id")
		})
		if err != nil {
			return route.Response{}, err
		}
		if _, err := a.load(c); err != nil {
			return route.Response{}, err
		}
		res, err := agentclient.Ask[protocol.MarkResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Mark, cmd)
		return route.OK(rest.MarkBody(res, malformed)), err
	}
}

// patch moves one message forward (RUN-14).
func (a *api) patch(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	if _, err := a.read(c, v, c.Param("messageId")); err != nil {
		return route.Response{}, err
	}
	id, _ := agent.ParseMessageID(c.Param("messageId"))
	cmd := protocol.MarkCommand{Guard: guard(c), IDs: []agent.MessageID{id}}
	err = read(c, func(rd field.Reader) {
		rd.Require("status")
		s, _ := rd.String("status", field.Text{Enum: []string{"delivered", "read"}})
		cmd.Read = s == "read"
		cmd.Turn = turnID(rd, "turn_id")
	})
	if err != nil {
		return route.Response{}, err
	}
	if cmd.Turn == "" && v.state.Turn != nil {
		cmd.Turn = v.state.Turn.ID
	}
	if _, err := agentclient.Ask[protocol.MarkResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Mark, cmd); err != nil {
		return route.Response{}, err
	}
	return a.read(c, v, string(id))
}

// send posts a reply, or a message to the owner or to another agent (MSG-7, MSG-8, MSG-14).
func (a *api) send(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	cmd := protocol.ReplyCommand{Guard: guard(c)}
	to, queue := runnerproto.Recipient{}, "collect"
	idem, err := a.key(c)
	if err != nil {
		return route.Response{}, err
	}
	err = read(c, func(rd field.Reader) {
		rd.Require("content")
		cmd.Draft.Content = agent.ReadContent(rd, "content")
		cmd.Draft.ReplyTo = replyTo(rd)
		cmd.Draft.Metadata = agent.ReadMetadata(rd, "metadata")
		cmd.Turn = turnID(rd, "turn_id")
		if q, ok := rd.String("queue_mode", field.Text{Enum: []string{"collect", "interrupt"}}); ok {
			queue = q
		}
		if r, ok := rd.Object("recipient", false); ok {
			r.Require("type", "uuid")
			to.Type, _ = r.String("type", field.Text{Enum: []string{"user", "agent"}})
			to.UUID = string(turnID(r, "uuid"))
		} else if cmd.Draft.ReplyTo == "" {
			rd.Fail("recipient", "is required without reply_to_id")
		}
	})
	if err != nil {
		return route.Response{}, err
	}
	if idem != nil {
		cmd.Key, cmd.Hash = idem.Key, idem.Hash
	}
	if cmd.Draft.ReplyTo == "" {
		if cmd.To, err = a.recipient(c, v, to, cmd.Draft, queue); err != nil {
			return route.Response{}, err
		}
	}
	res, err := agentclient.Ask[protocol.MessageResult](c.Ctx, a.Agents, c.Runner.Agent, protocol.Post, cmd)
	if err != nil {
		return route.Response{}, err
	}
	m, err := a.Store.Message(c.Ctx, v.spec.ID, res.ID)
	if err != nil {
		return route.Response{}, err
	}
	out := route.Created(v.body(&m))
	out.Replayed = res.Replayed
	return out, nil
}

// key returns the idempotency record of a runner's message, scoped to its agent.
func (a *api) key(c *route.Call) (*agent.Idempotency, error) {
	return c.Idempotency("runtime/" + string(c.Runner.Agent))
}

// recipient makes the body of a proactive message to the owner, a linked account, or another agent of the account (MSG-8, TEN-4).
func (a *api) recipient(c *route.Call, v *view, to runnerproto.Recipient, d agent.ReplyDraft, queue string) (*agent.Body, error) {
	body := &agent.Body{Role: agent.RoleAssistant, Content: d.Content, Channel: agent.ChannelAPI, Metadata: d.Metadata, Source: "agent",
		Counterparty: to.UUID, PartyName: v.spec.Owner, PartyType: "user"}
	missing := fault.New(fault.NotFound, "not_found", "Recipient not found")
	if to.Type == "user" {
		for _, b := range v.state.Bindings {
			if b.ID == to.UUID {
				body.Channel, body.PartyName = b.Channel, b.Name
				return body, nil
			}
		}
		if to.UUID != string(v.spec.Account) {
			return nil, missing
		}
		return body, nil
	}
	if to.UUID == string(v.spec.ID) {
		return nil, missing
	}
	sn, err := a.Store.Load(c.Ctx, agent.ID(to.UUID))
	if fault.Is(err, fault.NotFound) || err == nil && (sn.Figures.Account != v.spec.Account || sn.Figures.Deleted) {
		err = missing
	}
	if err != nil {
		return nil, err
	}
	var spec agent.Spec
	if err := json.Unmarshal(sn.Spec, &spec); err != nil {
		return nil, fmt.Errorf("decode spec of agent %s: %w", to.UUID, err)
	}
	body.Channel, body.PartyName, body.PartyType, body.QueueMode = agent.ChannelAgent, spec.Name, "agent", queue
	return body, nil
}
