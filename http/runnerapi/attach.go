package runnerapi

import (
	"time"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

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
