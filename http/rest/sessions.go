package rest

import (
	"context"
	"encoding/json"
	"fmt"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/http/api"
	"troupe/http/route"
)

// maxTurns is how many turns of a session are shown, the newest.
const maxTurns = 200

func usage(u agent.Usage) api.TokenUsage {
	return api.TokenUsage{Input: u.Input, Output: u.Output, CacheWrite: u.CacheWrite, CacheRead: u.CacheRead, Requests: u.Requests}
}

func sessionBody(id agent.ID, s *agent.Session, open *agent.Session, u agent.Usage) api.Session {
	out := api.Session{ID: string(s.ID), AgentUUID: string(id), Mode: string(s.Mode), Status: "closed", StartedAt: agent.Stamp(s.StartedMS), Turns: s.Turns,
		Compactions: s.Compactions, Restarts: s.Restarts, SDK: text(s.SDK), Usage: usage(u), Trigger: api.SessionTrigger{Type: s.Trigger.Type, UUID: text(s.Trigger.UUID)}}
	if s.Trigger.Message != "" {
		out.Trigger.MessageID = text(s.Trigger.Message.String())
	}
	if open != nil && open.ID == s.ID {
		out.Status = "open"
	} else {
		out.EndedAt, out.EndReason = agent.StampOrNil(s.EndedMS), text(s.EndReason)
	}
	return out
}

func decode[T any](bodies [][]byte) ([]T, error) {
	out := make([]T, len(bodies))
	for i, b := range bodies {
		if err := json.Unmarshal(b, &out[i]); err != nil {
			return nil, fmt.Errorf("decode record: %w", err)
		}
	}
	return out, nil
}

// sessions lists what is kept (OBS-3): the newest thousand of the last 90 days. The open session is the newest of all.
func (r *rest) sessions(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	q := c.Query()
	page, limit := q.Int("page", 1, 1000000, 1), q.Int("limit", 1, 100, 20)
	status := q.Enum("status", "", "open", "closed")
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	open := v.State.Session
	skip := 0 // sessions before the first of those asked for
	kept := agent.RecordPage{Kind: agent.RecordSession, From: v.F.NowMS - agent.SessionAge.Milliseconds(), Desc: true}
	if open != nil && open.StartedMS < kept.From { // kept however old it is, and older than any other
		kept.From = open.StartedMS
	}
	if open != nil && status == "closed" {
		skip = 1
	}
	kept.Offset = min(skip+int((page-1)*limit), agent.MaxSessions)
	kept.Limit = min(int(limit), agent.MaxSessions-kept.Offset)
	bodies, total, err := r.Store.Recorded(c.Ctx, v.Spec.ID, kept)
	if err != nil {
		return route.Response{}, err
	}
	total = min(total, agent.MaxSessions) - skip
	rows, err := decode[agent.Session](bodies)
	if err != nil {
		return route.Response{}, err
	}
	if status == "open" {
		rows, total = nil, 0
		if open != nil {
			total = 1
			if page == 1 {
				rows = []agent.Session{*open}
			}
		}
	}
	scopes := make([]string, len(rows))
	for i := range rows {
		scopes[i] = "s/" + string(rows[i].ID)
	}
	sums, err := r.Store.Usage(c.Ctx, v.Spec.ID, scopes...)
	if err != nil {
		return route.Response{}, err
	}
	out := api.SessionList{Sessions: []api.Session{}, Pagination: pagination(page, limit, int64(total))}
	for i := range rows {
		out.Sessions = append(out.Sessions, sessionBody(v.Spec.ID, &rows[i], open, sums[i]))
	}
	return route.OK(out), nil
}

// pagination describes one numbered page.
func pagination(page, limit, total int64) api.Pagination {
	return api.Pagination{Page: page, Limit: limit, Total: total, TotalPages: (total + limit - 1) / limit}
}

// session shows one session with its turns.
func (r *rest) session(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	missing := fault.New(fault.NotFound, "not_found", "Session not found")
	id, ok := agent.ParseUUID(c.Param("sessionId"))
	if !ok {
		return route.Response{}, missing
	}
	body, err := r.Store.Record(c.Ctx, v.Spec.ID, agent.RecordSession, id)
	if err != nil {
		return route.Response{}, err
	}
	if body == nil {
		return route.Response{}, missing
	}
	var s agent.Session
	if err := json.Unmarshal(body, &s); err != nil {
		return route.Response{}, fmt.Errorf("decode session %s: %w", id, err)
	}
	if open := v.State.Session; open != nil && open.ID == s.ID {
		s = *open // the record is written when something ends
	}
	turns, err := r.turns(c.Ctx, v, &s)
	if err != nil {
		return route.Response{}, err
	}
	scopes := []string{"s/" + string(s.ID)}
	for i := range turns {
		scopes = append(scopes, "t/"+string(turns[i].ID))
	}
	sums, err := r.Store.Usage(c.Ctx, v.Spec.ID, scopes...)
	if err != nil {
		return route.Response{}, err
	}
	out := api.SessionDetail{Session: sessionBody(v.Spec.ID, &s, v.State.Session, sums[0]), TurnList: []api.Turn{}, CompactionList: []api.Compacting{}}
	for i := range turns {
		out.TurnList = append(out.TurnList, turnBody(&turns[i], sums[i+1]))
	}
	condensed, _, err := r.Store.Recorded(c.Ctx, v.Spec.ID, agent.RecordPage{Kind: agent.RecordCompaction, Group: string(s.ID), Limit: maxTurns, Desc: true})
	if err != nil {
		return route.Response{}, err
	}
	list, err := decode[agent.Compacting](condensed)
	if err != nil {
		return route.Response{}, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		x := &list[i]
		out.CompactionList = append(out.CompactionList, api.Compacting{ID: x.ID, Status: x.Status, StartedAt: agent.Stamp(x.StartedMS), EndedAt: agent.StampOrNil(x.EndedMS),
			Before: x.Before, After: x.After, Model: x.Model, Error: text(x.Error)})
	}
	return route.OK(out), nil
}

// turns reads the newest turns of a session, oldest first.
func (r *rest) turns(ctx context.Context, v *view, s *agent.Session) ([]agent.Turn, error) {
	bodies, _, err := r.Store.Recorded(ctx, v.Spec.ID, agent.RecordPage{Kind: agent.RecordTurn, Group: string(s.ID), Limit: maxTurns, Desc: true})
	if err != nil {
		return nil, err
	}
	newest, err := decode[agent.Turn](bodies)
	if err != nil {
		return nil, err
	}
	turns := make([]agent.Turn, 0, len(newest))
	for i := len(newest) - 1; i >= 0; i-- {
		if t := v.State.Turn; t != nil && t.ID == newest[i].ID {
			newest[i] = *t // the running one has moved on since its record was written
		}
		turns = append(turns, newest[i])
	}
	return turns, nil
}

func turnBody(t *agent.Turn, u agent.Usage) api.Turn {
	out := api.Turn{ID: string(t.ID), Number: t.Number, Status: "running", Reason: text(t.Reason), StartedAt: agent.Stamp(t.StartedMS), EndedAt: agent.StampOrNil(t.EndedMS),
		Attempt: t.Attempt, Messages: []string{}, Replies: []string{}, Usage: usage(u)}
	if t.EndedMS > 0 {
		out.Status = string(t.Outcome)
	}
	for _, e := range t.Batch {
		out.Messages = append(out.Messages, e.ID.String())
	}
	for _, id := range t.Replies {
		out.Replies = append(out.Replies, id.String())
	}
	return out
}
