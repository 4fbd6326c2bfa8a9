package runnerapi

import (
	"fmt"
	"time"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

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
