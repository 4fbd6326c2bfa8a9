package rest

import (
	"encoding/json"
	"fmt"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/route"
)

func (r *rest) scheduleRoutes() []route.Route {
	const all, one = "/v1/agent/{id}/schedules", "/v1/agent/{id}/schedules/{scheduleId}"
	s := func(method, path, op string, body route.Body, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: method, Path: path, Op: op, Access: route.Account, Feature: true, Body: body, Handle: h}
	}
	return []route.Route{
		s("POST", all, "createSchedule", route.Required, r.createSchedule),
		s("GET", all, "listSchedules", route.None, r.schedules),
		s("GET", one, "getSchedule", route.None, r.getSchedule),
		s("PATCH", one, "updateSchedule", route.Required, r.updateSchedule),
		s("DELETE", one, "deleteSchedule", route.None, r.deleteSchedule),
		s("POST", one+"/toggle", "toggleSchedule", route.None, r.toggleSchedule),
		s("GET", one+"/executions", "listScheduleExecutions", route.None, r.executions),
	}
}

func scheduleBody(id agent.ID, s *agent.Schedule) api.Schedule {
	return api.Schedule{UUID: s.ID, AgentUUID: string(id), Name: s.Name, Cron: s.Cron, Template: s.Template, Zone: s.Zone, Enabled: s.Enabled,
		LastAt: agent.StampIn(s.LastMS, s.Zone), NextAt: agent.StampIn(s.NextMS, s.Zone), Count: s.Count, CreatedAt: agent.Stamp(s.CreatedMS), UpdatedAt: agent.Stamp(s.UpdatedMS)}
}

func noSchedule() error { return fault.New(fault.NotFound, "not_found", "Schedule not found") }

// schedule answers 404 before anything is said about the body (ERR-3).
func (r *rest) schedule(c *route.Call) (v *view, s agent.Schedule, err error) {
	if v, err = r.load(c); err != nil {
		return nil, s, err
	}
	id, ok := agent.ParseUUID(c.Param("scheduleId"))
	if !ok {
		return nil, s, noSchedule()
	}
	body, err := r.Store.Record(c.Ctx, v.Spec.ID, agent.RecordSchedule, id)
	if err != nil {
		return nil, s, err
	}
	if body == nil {
		return nil, s, noSchedule()
	}
	if err = json.Unmarshal(body, &s); err != nil {
		err = fmt.Errorf("decode schedule %s: %w", id, err)
	}
	return v, s, err
}

func (r *rest) createSchedule(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id := v.Spec.ID
	patch, idem, err := keyed(r, c, id, func(doc *field.Value) (agent.SchedulePatch, error) { return agent.ReadSchedule(doc, true) })
	if err != nil {
		return route.Response{}, err
	}
	cmd := protocol.ScheduleCommand{Do: protocol.ScheduleAdd, ID: agent.NewUUID(), Set: &patch}
	if idem != nil {
		cmd.Key, cmd.Hash = idem.Key, idem.Hash
	}
	got, err := agentclient.Ask[protocol.ScheduleResult](c.Ctx, r.Agents, id, protocol.Schedule, cmd)
	if err != nil {
		return route.Response{}, err
	}
	return route.Response{Status: 201, Replayed: got.Replayed, Body: scheduleBody(id, &got.Schedule)}, nil
}

func (r *rest) schedules(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	rows, at, err := recorded[agent.Schedule](r, c, v.Spec.ID, agent.RecordPage{Kind: agent.RecordSchedule, Limit: 20})
	if err != nil {
		return route.Response{}, err
	}
	out := api.ScheduleList{Schedules: []api.Schedule{}, Pagination: at}
	for i := range rows {
		out.Schedules = append(out.Schedules, scheduleBody(v.Spec.ID, &rows[i]))
	}
	return route.OK(out), nil
}

func (r *rest) getSchedule(c *route.Call) (route.Response, error) {
	v, s, err := r.schedule(c)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(scheduleBody(v.Spec.ID, &s)), nil
}

func (r *rest) updateSchedule(c *route.Call) (route.Response, error) {
	v, s, err := r.schedule(c)
	if err != nil {
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	patch, err := agent.ReadSchedule(doc, false)
	if err != nil {
		return route.Response{}, err
	}
	return r.changeSchedule(c, v.Spec.ID, protocol.ScheduleCommand{Do: protocol.ScheduleChange, ID: s.ID, Set: &patch})
}

func (r *rest) toggleSchedule(c *route.Call) (route.Response, error) {
	v, s, err := r.schedule(c)
	if err != nil {
		return route.Response{}, err
	}
	return r.changeSchedule(c, v.Spec.ID, protocol.ScheduleCommand{Do: protocol.ScheduleToggle, ID: s.ID})
}

func (r *rest) changeSchedule(c *route.Call, id agent.ID, cmd protocol.ScheduleCommand) (route.Response, error) {
	got, err := agentclient.Ask[protocol.ScheduleResult](c.Ctx, r.Agents, id, protocol.Schedule, cmd)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(scheduleBody(id, &got.Schedule)), nil
}

func (r *rest) deleteSchedule(c *route.Call) (route.Response, error) {
	v, s, err := r.schedule(c)
	if err != nil {
		return route.Response{}, err
	}
	_, err = agentclient.Ask[protocol.ScheduleResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Schedule, protocol.ScheduleCommand{Do: protocol.ScheduleDrop, ID: s.ID})
	return route.OK(api.MessageResult{Message: "Schedule deleted successfully"}), err
}

func (r *rest) executions(c *route.Call) (route.Response, error) {
	v, s, err := r.schedule(c)
	if err != nil {
		return route.Response{}, err
	}
	rows, at, err := recorded[agent.Execution](r, c, v.Spec.ID, agent.RecordPage{Kind: agent.RecordExecution, Group: s.ID, Limit: 50, Desc: true})
	if err != nil {
		return route.Response{}, err
	}
	out := api.ScheduleExecutionList{Executions: []api.ScheduleExecution{}, Pagination: at}
	for i := range rows {
		x := &rows[i]
		e := api.ScheduleExecution{UUID: x.ID, ScheduleUUID: s.ID, ScheduledFor: agent.StampIn(x.SlotMS, s.Zone), ExecutedAt: agent.Stamp(x.AtMS), Status: x.Status,
			Error: text(x.Error), MissedCount: x.Missed}
		e.MessageUUID = text(string(x.Message))
		out.Executions = append(out.Executions, e)
	}
	return route.OK(out), nil
}
