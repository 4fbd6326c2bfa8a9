package rest

import (
	"time"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/route"
)

// taskRoutes are those of the oldest generation that are still served (LEG-9). A task is a message that has its turn to itself.
func (r *rest) taskRoutes() []route.Route {
	a := feature
	return []route.Route{
		a("POST", "/agent/create", "legacyCreateAgent", route.Required, r.legacyCreate),
		a("POST", "/agent/request/{id}", "legacySubmitTask", route.Required, r.submitTask),
		a("GET", "/agent/{id}/task/{taskId}", "legacyGetTask", route.None, r.task),
		a("POST", "/agent/{id}/task/{taskId}/message", "legacyMessageTask", route.Required, r.messageTask),
		a("POST", "/agent/{id}/task/{taskId}/cancel", "legacyCancelTask", route.None, r.cancelTask),
	}
}

// What a task is expected to wait for, as far as anybody can tell.
const (
	perTask   = 5 * time.Second
	coldStart = 2 * time.Second
)

// submitTask accepts a task (LEG-4).
func (r *rest) submitTask(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id := v.Spec.ID
	body, idem, err := keyed(r, c, id, func(doc *field.Value) (agent.Body, error) { return agent.ReadTask(doc, r.Settings) })
	if err != nil {
		return route.Response{}, err
	}
	owner := &c.Caller.Account
	body.Counterparty, body.PartyName, body.PartyType = string(owner.ID), owner.Email, "user"
	got, err := r.Store.Accept(c.Ctx, &agent.Acceptance{Agent: id, Account: owner.ID, ID: agent.MessageID(agent.NewUUID()), Body: body, Idem: idem, Limit: r.Settings.MaxPending})
	if err != nil {
		return route.Response{}, err
	}
	if got.Status == agent.Active && !got.Replayed {
		r.Agents.Hint(id)
	}
	wait := time.Duration(v.F.Pending) * perTask
	if v.State.Turn != nil {
		wait += perTask
	}
	if !v.F.RunnerLive() {
		wait += coldStart
	}
	at := r.base(c) + "/agent/" + agent.PrefixAgent + string(id) + "/task/" + taskID(got.ID)
	return route.Response{Status: 202, Replayed: got.Replayed, Body: api.LegacyTaskAccepted{TaskID: taskID(got.ID), Status: "queued", CreatedAt: agent.Stamp(got.CreatedMS),
		EstimatedStart: agent.Stamp(got.CreatedMS + wait.Milliseconds()), PollURL: at, CancelURL: at + "/cancel"}}, nil
}

func taskID(id agent.MessageID) string { return agent.PrefixTask + string(id) }

// findTask reads the task named in the path. An id that is no task of this agent is 404 (LEG-3).
func (r *rest) findTask(c *route.Call) (id agent.ID, msg agent.Message, t *agent.Task, err error) {
	v, err := r.load(c)
	if err != nil {
		return "", msg, nil, err
	}
	id = v.Spec.ID
	want, ok := agent.ParseMessageID(c.Param("taskId"))
	if !ok {
		return id, msg, nil, agent.NoTask()
	}
	found, err := r.Store.ByID(c.Ctx, id, []agent.MessageID{want})
	if err == nil && (len(found) == 0 || !found[0].IsTask()) {
		err = agent.NoTask()
	}
	if err != nil {
		return id, msg, nil, err
	}
	t, err = agent.LoadTask(c.Ctx, r.Store, id, want)
	return id, found[0], t, err
}

// task shows how far a task has come (LEG-5).
func (r *rest) task(c *route.Call) (route.Response, error) {
	id, msg, t, err := r.findTask(c)
	if err != nil {
		return route.Response{}, err
	}
	out := api.LegacyTask{TaskID: taskID(msg.ID), Status: t.StatusText(), CreatedAt: agent.Stamp(msg.CreatedMS)}
	if msg.DeliveredMS > 0 {
		out.StartedAt = agent.Stamp(msg.DeliveredMS)
	}
	if t == nil {
		return route.OK(out), nil
	}
	if t.Step != nil {
		out.Progress = t.Step
	}
	switch t.Status {
	case agent.Cancelled:
		out.CancelledAt = agent.Stamp(t.CancelledMS)
	case agent.Failed:
		out.CompletedAt, out.Error = agent.Stamp(t.EndedMS), t.Error
	case agent.Completed, agent.AwaitingInput:
		if t.Status == agent.Completed {
			out.CompletedAt = agent.Stamp(t.EndedMS)
		}
		if out.Result = t.Result; out.Result == nil && t.Reply != "" {
			reply, err := r.Store.Message(c.Ctx, id, t.Reply)
			if err != nil {
				return route.Response{}, err
			}
			out.Result = agent.Encode(map[string]string{"summary": reply.Content})
		}
	}
	return route.OK(out), nil
}

func (r *rest) messageTask(c *route.Call) (route.Response, error) {
	id, msg, _, err := r.findTask(c)
	if err != nil {
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	text, err := agent.ReadTaskInput(doc)
	if err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.TaskResult](c.Ctx, r.Agents, id, protocol.Task, protocol.TaskCommand{ID: msg.ID, Input: text, As: agent.MessageID(agent.NewUUID())})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.LegacyTaskInput{TaskID: taskID(msg.ID), Status: res.Status, Received: true}), nil
}

func (r *rest) cancelTask(c *route.Call) (route.Response, error) {
	id, msg, _, err := r.findTask(c)
	if err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.TaskResult](c.Ctx, r.Agents, id, protocol.Task, protocol.TaskCommand{ID: msg.ID})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.LegacyTaskCancelled{TaskID: taskID(msg.ID), Status: res.Status, CancelledAt: agent.Stamp(res.CancelledMS)}), nil
}
