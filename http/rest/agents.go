package rest

import (
	"context"
	"encoding/json"
	"sort"
	"strings"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/route"
)

func (r *rest) get(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	body, err := r.agent(c.Ctx, v)
	return route.OK(body), err
}

func (r *rest) summary(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	s := &v.Spec
	return route.OK(api.AgentSummary{UUID: string(s.ID), Name: s.Name, Status: string(v.State.Status), Balance: v.F.Balance, Used: v.F.Used,
		MessageCount: v.F.Messages, CreatedAt: agent.Stamp(s.CreatedMS), UpdatedAt: agent.Stamp(s.UpdatedMS)}), nil
}

func (r *rest) ready(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	out := api.AgentReadiness{Status: string(v.State.Status)}
	var pod agent.PodStatus
	out.Ready, pod, out.Reason = agent.Readiness(&v.State, &v.F)
	out.PodStatus = string(pod)
	if pod == agent.PodRunning && v.F.HeartbeatMS > 0 {
		out.LastHeartbeat = agent.Stamp(v.F.HeartbeatMS)
	}
	return route.OK(out), nil
}

// row is an agent in a list with what it is sorted by.
type row struct {
	item api.AgentListItem
	key  string
}

func (r *rest) list(c *route.Call) (route.Response, error) {
	q := c.Query()
	page, limit := q.Int("page", 1, 1000000, 1), q.Int("limit", 1, 100, 20)
	status := q.Enum("status", "", "active", "paused", "stopped", "error")
	by := q.Enum("sort", "created_at", "created_at", "updated_at", "name")
	order := q.Enum("order", "desc", "asc", "desc")
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	var rows []row
	err := r.Store.Agents(c.Ctx, c.Caller.Account.ID, func(e account.Entry) bool {
		var card agent.Card
		if json.Unmarshal(e.Card, &card) != nil || status != "" && e.Status != status {
			return true
		}
		it := api.AgentListItem{ID: e.Agent, Name: card.Name, Description: card.Description, Status: e.Status, CreatedAt: agent.Stamp(card.CreatedMS),
			UpdatedAt: agent.Stamp(card.UpdatedMS), MessageCount: e.Messages}
		rows = append(rows, row{it, map[string]string{"created_at": it.CreatedAt, "updated_at": it.UpdatedAt, "name": strings.ToLower(it.Name)}[by]})
		return true
	})
	if err != nil {
		return route.Response{}, err
	}
	sort.Slice(rows, func(i, j int) bool {
		if order == "desc" {
			i, j = j, i
		}
		if rows[i].key != rows[j].key {
			return rows[i].key < rows[j].key
		}
		return rows[i].item.ID < rows[j].item.ID
	})
	total := int64(len(rows))
	out := api.AgentList{Agents: []api.AgentListItem{}, Pagination: pagination(page, limit, total)}
	for i := (page - 1) * limit; i < min(page*limit, total); i++ {
		out.Agents = append(out.Agents, rows[i].item)
	}
	return route.OK(out), nil
}

func (r *rest) delete(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	var force bool
	if err := readBody(c, func(rd field.Reader) {
		force, _ = rd.Bool("force")
	}); err != nil {
		return route.Response{}, err
	}
	if _, err := agentclient.Ask[struct{}](c.Ctx, r.Agents, v.Spec.ID, protocol.Delete, protocol.DeleteCommand{Force: force}); err != nil {
		return route.Response{}, err
	}
	return route.OK(api.MessageResult{Message: "Agent deleted successfully"}), nil
}

// verb makes the handler of pause, resume and stop.
func (r *rest) verb(verb agent.Verb, done string) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		v, err := r.load(c)
		if err != nil {
			return route.Response{}, err
		}
		if _, err := agentclient.Ask[protocol.StatusResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Status, protocol.StatusCommand{Verb: verb}); err != nil {
			return route.Response{}, err
		}
		return route.OK(api.MessageResult{Message: done}), nil
	}
}

func (r *rest) status(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	var want string
	if err := readBody(c, func(rd field.Reader) {
		rd.Require("status")
		want, _ = rd.String("status", field.Text{Enum: []string{"active", "paused", "stopped"}})
	}); err != nil {
		return route.Response{}, err
	}
	verb, _ := agent.SetVerb(want)
	res, err := agentclient.Ask[protocol.StatusResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Status, protocol.StatusCommand{Verb: verb})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.AgentStatusResult{Message: "Agent status updated successfully", Status: string(res.Status)}), nil
}

func (r *rest) balance(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	var typ string
	var amount int64
	if err := readBody(c, func(rd field.Reader) {
		rd.Require("amount", "type")
		typ, _ = rd.String("type", field.Text{Enum: []string{"increment", "set"}})
		lo := -agent.MaxTokens
		if typ == "set" {
			lo = 0
		}
		amount, _ = rd.Int("amount", lo, agent.MaxTokens, false)
	}); err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.BalanceResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Balance, agent.BalanceChange{Set: typ == "set", Amount: amount})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.BalanceResult{Message: "Agent balance updated successfully", New: res.Balance, Previous: res.Previous}), nil
}

func (r *rest) update(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	patch, err := agent.ReadUpdate(doc, r.Settings)
	if err != nil {
		return route.Response{}, err
	}
	next, _, err := patch.Apply(v.Spec, r.seal, r.Settings)
	if err != nil { // refused before anything is woken
		return route.Response{}, err
	}
	if next.PVCSize != v.Spec.PVCSize {
		if err := r.Volumes.Resizable(c.Ctx, v.Spec.ID); err != nil { // CFG-8
			return route.Response{}, err
		}
	}
	if key, given := patch.Secrets[agent.SlotAnthropic]; given && key == nil {
		without := v.Spec.Clone()
		delete(without.Sealed, agent.SlotAnthropic)
		if err := r.needKey(c.Ctx, c.Caller.Account.ID, &without); err != nil {
			return route.Response{}, err
		}
	}
	cmd := protocol.UpdateCommand{Document: append([]byte(nil), c.PostBody()...)}
	secret := newWebhookSecret()
	if cmd.NewWebhookSecret, err = r.seal(v.Spec.ID, agent.SlotWebhook, agent.NewSecret(secret)); err != nil {
		return route.Response{}, err
	}
	var res protocol.UpdateResult
	if patch.Files.Empty() {
		res, err = agentclient.Ask[protocol.UpdateResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Update, cmd)
	} else if _, err = agentclient.Awaken(c.Ctx, r.Agents, r.Store, v.Spec.ID); err == nil {
		res, err = agentclient.AskSlow[protocol.UpdateResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Update, cmd)
	}
	if err != nil {
		return route.Response{}, err
	}
	if v, err = r.view(c.Ctx, v.Spec.ID, c.Caller.Account.ID); err != nil {
		return route.Response{}, err
	}
	body, err := r.agent(c.Ctx, v)
	if err != nil {
		return route.Response{}, err
	}
	if res.SecretTaken {
		body.WebhookSecret = secret
	}
	return route.OK(body), nil
}

func (r *rest) runtime(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	ctx, cancel := context.WithTimeout(c.Ctx, 2*time.Second) // OBS-2
	defer cancel()
	x, err := agentclient.Ask[protocol.RuntimeResult](ctx, r.Agents, v.Spec.ID, protocol.Runtime, nil)
	if err != nil {
		return route.Response{}, err
	}
	s, f := &x.State, &x.Figures
	out := api.AgentRuntime{AgentUUID: string(v.Spec.ID), Status: string(s.Status), Node: x.Node, Epoch: x.Epoch, ActivatedAt: agent.Stamp(x.ActivatedMS),
		Mailbox: x.Mailbox, Timers: []api.RuntimeTimer{}}
	out.Pod = api.RuntimePod{Status: string(agent.PodStatusOf(s, f)), Phase: text(agent.PhaseText(&s.Pod)), Node: text(s.Pod.Node), Incarnation: s.Pod.Incarnation,
		FailedStarts: s.Pod.Failed}
	if s.Pod.Phase != agent.PodAbsent {
		out.Pod.Name, out.Pod.StartedAt = text(s.Pod.Name), agent.StampOrNil(s.Pod.StartedMS)
	}
	if f.RunnerLive() {
		info := agent.DecodeRunner(f.RunnerInfo)
		exec := f.Execution
		if exec == "" {
			exec = "idle"
		}
		out.Runner = &api.RuntimeRunner{RunnerEpoch: f.RunnerEpoch, AttachedAt: agent.Stamp(f.AttachedMS), LastHeartbeat: agent.Stamp(f.HeartbeatMS),
			LeaseExpiresAt: agent.Stamp(f.LeaseMS), Execution: exec, Version: info.Version, Subscribed: f.SubscribedMS > 0}
	}
	out.Queue.Pending = f.Pending
	if s.Session != nil {
		out.SessionID = text(string(s.Session.ID))
	}
	if t := s.Turn; t != nil {
		out.Turn = &api.RuntimeTurn{ID: string(t.ID), Attempt: t.Attempt, StartedAt: agent.Stamp(t.StartedMS), DeadlineAt: agent.Stamp(t.DeadlineMS)}
		for _, e := range t.Batch {
			if e.ReadMS == 0 {
				out.Queue.Delivered++
			}
		}
	}
	for _, t := range x.Timers {
		out.Timers = append(out.Timers, api.RuntimeTimer{Kind: t.Kind, DueAt: agent.Stamp(t.DueMS)})
	}
	return route.OK(out), nil
}
