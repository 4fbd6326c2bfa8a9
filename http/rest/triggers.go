package rest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/auth"
	"troupe/http/route"
)

const triggerPath = "/v1/webhooks/triggers/"

// secretLength is the number of random characters of a trigger's secret (TRIG-1).
const secretLength = 40

func (r *rest) triggerRoutes() []route.Route {
	return []route.Route{
		{Method: "POST", Path: "/v1/agent/{id}/triggers", Op: "createTrigger", Access: route.Account, Feature: true, Body: route.Required, Handle: r.createTrigger},
		{Method: "GET", Path: "/v1/agent/{id}/triggers", Op: "listTriggers", Access: route.Account, Feature: true, Handle: r.triggers},
		{Method: "PATCH", Path: "/v1/agent/{id}/triggers/{triggerId}", Op: "updateTrigger", Access: route.Account, Feature: true, Body: route.Required, Handle: r.updateTrigger},
		{Method: "DELETE", Path: "/v1/agent/{id}/triggers/{triggerId}", Op: "deleteTrigger", Access: route.Account, Feature: true, Handle: r.deleteTrigger},
		{Method: "POST", Path: triggerPath + "{triggerId}", Op: "receiveTriggerWebhook", Access: route.Open, Body: route.Required, Limit: agent.MaxTriggerBody, Handle: r.receiveTrigger},
	}
}

// base is the URL under which callers reach the API.
func (r *rest) base(c *route.Call) string {
	if r.PublicURL != "" {
		return r.PublicURL
	}
	return "http://" + string(c.Host())
}

func (r *rest) triggerBody(c *route.Call, id agent.ID, t *agent.InboundTrigger, f agent.Fired) api.Trigger {
	return api.Trigger{UUID: t.ID, AgentUUID: string(id), Name: t.Name, Template: t.Template, Enabled: t.Enabled, URL: r.base(c) + triggerPath + t.ID,
		Count: f.Count, LastAt: agent.StampOrNil(f.LastMS), CreatedAt: agent.Stamp(t.CreatedMS), UpdatedAt: agent.Stamp(t.UpdatedMS)}
}

func (r *rest) createTrigger(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id := v.Spec.ID
	patch, idem, err := keyed(r, c, id, func(doc *field.Value) (agent.TriggerPatch, error) { return agent.ReadTrigger(doc, true) })
	if err != nil {
		return route.Response{}, err
	}
	t := &agent.InboundTrigger{ID: agent.NewUUID(), Enabled: true, Account: string(v.Spec.Account), Owner: v.Spec.Owner}
	patch.Apply(t)
	if t.Secret, err = r.seal(id, agent.SlotTrigger(t.ID), agent.NewSecret("whs_"+auth.Random(secretLength))); err != nil {
		return route.Response{}, err
	}
	cmd := protocol.TriggerCommand{Add: t}
	if idem != nil {
		cmd.Key, cmd.Hash = idem.Key, idem.Hash
	}
	got, err := agentclient.Ask[protocol.TriggerResult](c.Ctx, r.Agents, id, protocol.Trigger, cmd)
	if err != nil {
		return route.Response{}, err
	}
	secret, err := r.Box.Open(string(id), agent.SlotTrigger(got.ID), got.Secret) // of the first call, if this is a repeat (SEC-2)
	if err != nil {
		return route.Response{}, fault.New(fault.Internal, "internal", "").Because(err)
	}
	return route.Response{Status: 201, Replayed: got.Replayed, Body: api.TriggerCreated{Trigger: r.triggerBody(c, id, &got.InboundTrigger, agent.Fired{}), Secret: secret}}, nil
}

func (r *rest) triggers(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	rows, at, err := recorded[agent.InboundTrigger](r, c, v.Spec.ID, agent.RecordPage{Kind: agent.RecordTrigger, Limit: 20})
	if err != nil {
		return route.Response{}, err
	}
	out := api.TriggerList{Triggers: []api.Trigger{}, Pagination: at}
	for i := range rows {
		b, err := r.fired(c, v.Spec.ID, &rows[i])
		if err != nil {
			return route.Response{}, err
		}
		out.Triggers = append(out.Triggers, b)
	}
	return route.OK(out), nil
}

// recorded reads the page of records that the call asks for; p.Limit is how many where it says nothing.
func recorded[T any](r *rest, c *route.Call, id agent.ID, p agent.RecordPage) (rows []T, at api.Pagination, err error) {
	q := c.Query()
	page, limit := q.Int("page", 1, 1000000, 1), q.Int("limit", 1, 100, int64(p.Limit))
	if err := q.Err(); err != nil {
		return nil, at, err
	}
	p.Offset, p.Limit = int((page-1)*limit), int(limit)
	bodies, total, err := r.Store.Recorded(c.Ctx, id, p)
	if err != nil {
		return nil, at, err
	}
	rows, err = decode[T](bodies)
	return rows, pagination(page, limit, int64(total)), err
}

// fired renders a trigger with its counts.
func (r *rest) fired(c *route.Call, id agent.ID, t *agent.InboundTrigger) (api.Trigger, error) {
	f, err := r.Store.Fired(c.Ctx, id, t.ID)
	if err != nil {
		return api.Trigger{}, err
	}
	return r.triggerBody(c, id, t, f[0]), nil
}

// triggerID reads the trigger named in the path.
func triggerID(c *route.Call) (string, error) {
	id, ok := agent.ParseUUID(c.Param("triggerId"))
	if !ok {
		return "", noTrigger()
	}
	return id, nil
}

func noTrigger() error { return fault.New(fault.NotFound, "not_found", "Trigger not found") }

// known answers 404 before anything is said about the body (ERR-3).
func (r *rest) known(c *route.Call) (*view, string, error) {
	v, err := r.load(c)
	if err != nil {
		return nil, "", err
	}
	id, err := triggerID(c)
	if err != nil {
		return nil, "", err
	}
	body, err := r.Store.Record(c.Ctx, v.Spec.ID, agent.RecordTrigger, id)
	if err == nil && body == nil {
		err = noTrigger()
	}
	return v, id, err
}

func (r *rest) updateTrigger(c *route.Call) (route.Response, error) {
	v, id, err := r.known(c)
	if err != nil {
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	patch, err := agent.ReadTrigger(doc, false)
	if err != nil {
		return route.Response{}, err
	}
	t, err := agentclient.Ask[protocol.TriggerResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Trigger, protocol.TriggerCommand{ID: id, Set: &patch})
	if err != nil {
		return route.Response{}, err
	}
	body, err := r.fired(c, v.Spec.ID, &t.InboundTrigger)
	return route.OK(body), err
}

func (r *rest) deleteTrigger(c *route.Call) (route.Response, error) {
	v, id, err := r.known(c)
	if err != nil {
		return route.Response{}, err
	}
	_, err = agentclient.Ask[protocol.TriggerResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Trigger, protocol.TriggerCommand{ID: id})
	return route.OK(api.MessageResult{Message: "Trigger deleted successfully"}), err
}

// inbound is a trigger as found for one call from outside.
type inbound struct {
	agent agent.ID
	t     agent.InboundTrigger
}

// ways remembers which agents triggers belong to. That never changes, and what the agent says of the trigger is the truth.
type ways struct {
	mu sync.RWMutex
	to map[string]agent.ID
}

// maxWays bounds what is remembered: about 2 MB.
const maxWays = 16384

func (w *ways) get(id string) agent.ID {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.to[id]
}

func (w *ways) put(id string, to agent.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to == nil || len(w.to) >= maxWays {
		w.to = map[string]agent.ID{}
	}
	w.to[strings.Clone(id)] = to // id may lie in the request
}

// find leads from the id in the path to an enabled trigger of a living agent.
func (r *rest) find(c *route.Call) (*inbound, error) {
	id, err := triggerID(c)
	if err != nil {
		return nil, err
	}
	to := r.ways.get(id)
	if to == "" {
		if to, err = r.Store.Route(c.Ctx, agent.RecordTrigger, id); err != nil {
			return nil, err
		}
		if to == "" {
			return nil, noTrigger()
		}
		r.ways.put(id, to)
	}
	body, err := r.Store.Record(c.Ctx, to, agent.RecordTrigger, id)
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, noTrigger()
	}
	in := &inbound{agent: to}
	if err := json.Unmarshal(body, &in.t); err != nil {
		return nil, fmt.Errorf("decode trigger %s: %w", id, err)
	}
	if !in.t.Enabled {
		return nil, noTrigger()
	}
	return in, nil
}

// receiveTrigger takes a call from outside, in the order of TRIG-2.
func (r *rest) receiveTrigger(c *route.Call) (route.Response, error) {
	in, err := r.find(c)
	if err != nil {
		return route.Response{}, err
	}
	raw, tooLarge := c.Bytes()
	secret, err := r.Box.Open(string(in.agent), agent.SlotTrigger(in.t.ID), in.t.Secret)
	if err != nil {
		return route.Response{}, fault.New(fault.Internal, "internal", "").Because(err)
	}
	if tooLarge != nil || !proven(c, secret, raw) {
		return route.Response{}, r.unproven(c, in, tooLarge)
	}
	if err := c.Limit("trigger/"+in.t.ID, agent.TriggerRate); err != nil { // RATE-3
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	if doc.Kind != field.Object && doc.Kind != field.Array {
		return route.Response{}, fault.New(fault.Invalid, "validation_failed", "The body must be a JSON object or array")
	}
	idem, err := r.delivery(c, in)
	if err != nil {
		return route.Response{}, err
	}
	return r.fire(c, in, doc, idem)
}

// proven says whether the caller knows the trigger's secret (TRIG-3): every proof that is given must hold, and one must be given.
func proven(c *route.Call, secret string, body []byte) bool {
	plain, signed := c.Header("X-Webhook-Secret"), c.Header("X-Hub-Signature-256")
	if plain == "" && signed == "" {
		return false
	}
	if plain != "" {
		given, want := sha256.Sum256([]byte(plain)), sha256.Sum256([]byte(secret)) // SEC-4
		if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
			return false
		}
	}
	if signed != "" {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		given, err := hex.DecodeString(strings.TrimPrefix(signed, "sha256="))
		if err != nil || !strings.HasPrefix(signed, "sha256=") || !hmac.Equal(given, mac.Sum(nil)) {
			return false
		}
	}
	return true
}

// unproven refuses a call without a valid proof; such calls have a limit of their own (RATE-3).
func (r *rest) unproven(c *route.Call, in *inbound, tooLarge error) error {
	w, err := r.Store.Count(c.Ctx, "trigger-failed/"+in.t.ID, agent.TriggerFailures, time.Minute.Milliseconds())
	switch {
	case err == nil && w.Refused:
		return fault.New(fault.Limited, "rate_limited", "Too many calls without a valid proof").After(time.Until(time.UnixMilli(w.EndMS)) + time.Second)
	case tooLarge != nil:
		return tooLarge
	}
	return fault.New(fault.Unauthenticated, "invalid_signature", "The secret or signature is missing or wrong")
}

// delivery returns what a repeat is recognised by (TRIG-7). Ids that the sender's platform makes stand for the delivery
// whatever its bytes; a key of the caller's own stands for one body.
func (r *rest) delivery(c *route.Call, in *inbound) (*agent.Idempotency, error) {
	idem, err := c.Idempotency("trigger/" + in.t.ID)
	if idem != nil || err != nil {
		return idem, err
	}
	for _, h := range []string{"webhook-id", "X-GitHub-Delivery"} {
		if idem, err = c.IdempotencyOf(h, "trigger/"+in.t.ID); idem != nil || err != nil {
			return idem, err
		}
	}
	return nil, nil
}

// noLonger is a trigger whose agent was deleted meanwhile.
func noLonger(err error) error {
	if fault.Is(err, fault.NotFound) {
		return noTrigger()
	}
	return err
}

// fire accepts the message of a call (TRIG-4, TRIG-8).
func (r *rest) fire(c *route.Call, in *inbound, doc *field.Value, idem *agent.Idempotency) (route.Response, error) {
	var now time.Time
	if in.t.Timed() {
		sn, err := r.Store.Load(c.Ctx, in.agent)
		if err != nil {
			return route.Response{}, noLonger(err)
		}
		now = time.UnixMilli(sn.Figures.NowMS)
	}
	content, err := in.t.Render(doc, now)
	if err != nil {
		if idem == nil {
			return route.Response{}, err
		}
		if first, rerr := r.Store.Replay(c.Ctx, in.agent, idem.Key, idem.Hash); rerr != nil || first == nil { // else the first call had something to say
			return route.Response{}, err
		}
	}
	got, err := r.Store.Accept(c.Ctx, &agent.Acceptance{Agent: in.agent, ID: agent.MessageID(agent.NewUUID()), Idem: idem, Limit: r.Settings.MaxPending, Trigger: in.t.ID,
		Body: agent.Body{Role: agent.RoleUser, Content: content, Channel: agent.ChannelAPI, QueueMode: "collect", Source: "trigger", SourceUUID: in.t.ID,
			Counterparty: in.t.Account, PartyName: in.t.Owner, PartyType: "user"}})
	if err != nil {
		return route.Response{}, noLonger(err)
	}
	if got.Status == agent.Active && !got.Replayed {
		r.Agents.Hint(in.agent)
	}
	return route.Response{Status: 202, Replayed: got.Replayed, Body: api.TriggerAccepted{Message: "Webhook received", MessageID: got.ID.String()}}, nil
}
