package rest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/http/api"
	"troupe/http/route"
)

// creation is one create on its way: the patch, what else is stored with it, and how the response looks.
type creation struct {
	patch  agent.Patch
	secret string // the webhook secret made for it, shown once
	render func(v *view) (any, error)
}

func (r *rest) create(c *route.Call) (route.Response, error) {
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	patch, err := agent.ReadCreate(doc, r.Settings)
	cr := &creation{patch: patch}
	cr.render = func(v *view) (any, error) {
		b := agentBody(v)
		b.WebhookSecret = cr.secret
		return b, nil
	}
	return r.make(c, cr, err)
}

// legacyCreate is the first generation's create; the agent is an ordinary one (LEG-1, LEG-2).
func (r *rest) legacyCreate(c *route.Call) (route.Response, error) {
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	patch, err := agent.ReadLegacyCreate(doc, r.Settings)
	cr := &creation{patch: patch}
	cr.render = func(v *view) (any, error) {
		key, rec := r.Auth.NewPlatformKey(v.Spec.Account, "legacy "+v.Spec.Name, account.ScopeAnalytics)
		rec.Agent = string(v.Spec.ID)
		if err := r.Store.PutPlatformKey(c.Ctx, rec); err != nil {
			return nil, err
		}
		cfg := configuration(&v.Spec)
		return api.LegacyAgentCreated{UUID: agent.PrefixAgent + string(v.Spec.ID), Name: v.Spec.Name, Description: v.Spec.Description, Status: "active",
			CreatedAt: agent.Stamp(v.Spec.CreatedMS), EndpointURL: r.base(c) + "/v1/agent/" + string(v.Spec.ID), ContainerID: agent.PodName(v.Spec.ID),
			PlatformKey: key, WebhookSecret: cr.secret,
			Configuration: api.LegacyConfiguration{TimeoutSeconds: cfg.TimeoutSeconds, Memory: cfg.Memory, Webhooks: patch.WebhookNames}}, nil
	}
	return r.make(c, cr, err)
}

// make creates an agent in two steps (IDEM-3): a place under the account, then the whole agent, idempotent by its id.
func (r *rest) make(c *route.Call, cr *creation, invalid error) (route.Response, error) {
	owner := &c.Caller.Account
	idem, err := c.Idempotency(string(owner.ID))
	if err != nil {
		return route.Response{}, err
	}
	limit := owner.AgentLimit
	if limit == 0 {
		limit = r.AgentLimit
	}
	place := account.Place{Account: owner.ID, Agent: agent.NewUUID(), Limit: limit}
	if idem != nil {
		place.Key, place.Hash = idem.Key, idem.Hash
	} else if invalid != nil { // without a key there is nothing to be replayed
		return route.Response{}, invalid
	}
	taken, err := r.Store.TakePlace(c.Ctx, place)
	if err != nil {
		return route.Response{}, err
	}
	if taken.Replayed {
		body, err := r.Box.Open(string(owner.ID), "replay", string(taken.Result))
		if err != nil {
			return route.Response{}, err
		}
		return route.Response{Status: 201, Body: []byte(body), Replayed: true}, nil
	}
	place.Agent = taken.Agent
	body, err := r.build(c, cr, agent.ID(taken.Agent), invalid)
	if err != nil {
		if !fault.Is(err, fault.Unavailable) { // a place whose outcome is unknown is finished by a repeat, or freed after 60 s
			free, cancel := context.WithTimeout(context.WithoutCancel(c.Ctx), 2*time.Second)
			defer cancel()
			_ = r.Store.FreePlace(free, place)
		}
		return route.Response{}, err
	}
	if place.Key != "" {
		sealed, err := r.Box.Seal(string(owner.ID), "replay", string(body))
		if err != nil {
			return route.Response{}, err
		}
		if err := r.Store.KeepPlace(c.Ctx, place, []byte(sealed)); err != nil {
			return route.Response{}, err
		}
	}
	r.Agents.Hint(agent.ID(place.Agent)) // the pod starts in the background
	return route.Created(body), nil
}

func (r *rest) build(c *route.Call, cr *creation, id agent.ID, invalid error) ([]byte, error) {
	if invalid != nil {
		return nil, invalid
	}
	owner := &c.Caller.Account
	spec, _, err := cr.patch.Apply(agent.NewSpec(id, r.Settings), func(_ agent.ID, slot string, v agent.Secret) (string, error) { return r.seal(id, slot, v) }, r.Settings)
	if err != nil {
		return nil, err
	}
	if err := r.needKey(c.Ctx, owner.ID, &spec); err != nil {
		return nil, err
	}
	if len(spec.Config.Webhooks) > 0 { // OUT-5
		cr.secret = newWebhookSecret()
		if err := r.setSecret(&spec, agent.SlotWebhook, cr.secret); err != nil {
			return nil, err
		}
	}
	spec.Account, spec.Owner = owner.ID, owner.Email
	now := time.Now().UnixMilli()
	spec.CreatedMS, spec.UpdatedMS = now, now
	balance := int64(agent.DefaultBalance)
	if cr.patch.Balance.Given() {
		balance = cr.patch.Balance.Value
	}
	state := agent.State{Status: agent.Active, ActiveMS: now, Pod: agent.Pod{Want: true, Why: "created"}}
	var stored []byte
	if n := len(cr.patch.InitialFiles); n > 0 {
		stored = agent.Encode(agent.FileChange{Add: cr.patch.InitialFiles})
		state.FilesDue, state.Disk = true, agent.DiskUsage{Files: int64(n), ModifiedMS: now}
		for _, f := range cr.patch.InitialFiles {
			state.Disk.Bytes += int64(len(f.Content))
		}
	}
	if _, err := r.Store.Create(c.Ctx, &agent.Creation{Spec: spec, State: state, Balance: balance, Files: stored, Due: now}); err != nil {
		return nil, err
	}
	v, err := r.view(c.Ctx, id, owner.ID)
	if err != nil {
		return nil, err
	}
	body, err := cr.render(v)
	if err != nil {
		return nil, err
	}
	return route.JSON(body), nil
}

func (r *rest) setSecret(spec *agent.Spec, slot, value string) error {
	sealed, err := r.seal(spec.ID, slot, agent.NewSecret(value))
	if err != nil {
		return err
	}
	if spec.Sealed == nil {
		spec.Sealed = map[string]string{}
	}
	spec.Sealed[slot] = sealed
	return nil
}

// needKey refuses an agent without any model credential (CFG-9).
func (r *rest) needKey(ctx context.Context, owner account.ID, spec *agent.Spec) error {
	if spec.Has(agent.SlotAnthropic) || r.Settings.PlatformKey {
		return nil
	}
	keys, err := r.Store.ListProviderKeys(ctx, owner)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Status == account.KeyActive {
			return nil
		}
	}
	return fault.New(fault.Invalid, "provider_key_required", "anthropic_api_key required").At("anthropic_api_key", "is required: the account has no active provider key")
}

// newWebhookSecret makes a signing secret in the form of Standard Webhooks.
func newWebhookSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return "whsec_" + base64.StdEncoding.EncodeToString(b)
}
