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

const (
	searched   = 10000 // the newest deliveries, among which a filtered list looks
	searchPage = 500
)

func (r *rest) webhookRoutes() []route.Route {
	const at = "/v1/agent/{id}/webhook-"
	return []route.Route{
		{Method: "POST", Path: at + "secret/rotate", Op: "rotateWebhookSecret", Access: route.Account, Feature: true, Body: route.Optional, Handle: r.rotateSecret},
		{Method: "GET", Path: at + "deliveries", Op: "listWebhookDeliveries", Access: route.Account, Feature: true, Handle: r.deliveries},
		{Method: "POST", Path: at + "deliveries/{deliveryId}/redeliver", Op: "redeliverWebhook", Access: route.Account, Feature: true, Handle: r.redeliver},
	}
}

func (r *rest) rotateSecret(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	grace, errs := agent.DefaultGrace, &field.Errors{}
	if n, ok := field.Read(doc, "", errs).Int("grace_seconds", 0, int64(agent.MaxGrace/time.Second), false); ok {
		grace = time.Duration(n) * time.Second
	}
	if err := errs.Err(); err != nil {
		return route.Response{}, err
	}
	secret := newWebhookSecret()
	cmd := protocol.RotateCommand{GraceMS: grace.Milliseconds()}
	if cmd.Sealed, err = r.seal(v.Spec.ID, agent.SlotWebhook, agent.NewSecret(secret)); err != nil {
		return route.Response{}, err
	}
	got, err := agentclient.Ask[protocol.RotateResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Rotate, cmd)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(api.WebhookSecret{Secret: secret, FormerUntil: agent.StampOrNil(got.FormerMS)}), nil
}

func deliveryBody(d *agent.Delivery) api.WebhookDelivery {
	b := api.WebhookDelivery{ID: agent.DeliveryID(d.ID), Event: d.Event, URL: agent.ShownURL(d.URL), Status: d.Status, Attempts: d.Attempts, CreatedAt: agent.Stamp(d.CreatedMS),
		NextAt: agent.StampOrNil(d.NextMS), DeliveredAt: agent.StampOrNil(d.DeliveredMS)}
	if d.Message != "" {
		id := d.Message.String()
		b.MessageID = &id
	}
	if d.Code > 0 {
		b.Code = &d.Code
	}
	if d.Error != "" {
		b.Error = &d.Error
	}
	return b
}

// deliveries lists the log, newest first: what is kept of it (OUT-8).
func (r *rest) deliveries(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	q := c.Query()
	status := q.Enum("status", "", agent.DeliveryPending, agent.DeliveryDone, agent.DeliveryDead)
	event := q.Enum("event", "", agent.WebhookEvents...)
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	all := agent.RecordPage{Kind: agent.RecordDelivery, From: v.F.NowMS - agent.DeliveryAge.Milliseconds(), Desc: true, Limit: 50}
	var rows []agent.Delivery
	var at api.Pagination
	if status == "" && event == "" {
		rows, at, err = recorded[agent.Delivery](r, c, v.Spec.ID, all)
	} else {
		rows, at, err = r.search(c, v.Spec.ID, all, func(d *agent.Delivery) bool {
			return (status == "" || d.Status == status) && (event == "" || d.Event == event)
		})
	}
	if err != nil {
		return route.Response{}, err
	}
	out := api.WebhookDeliveryList{Deliveries: []api.WebhookDelivery{}, Pagination: at}
	for i := range rows {
		out.Deliveries = append(out.Deliveries, deliveryBody(&rows[i]))
	}
	return route.OK(out), nil
}

// search pages through what matches among the newest deliveries.
func (r *rest) search(c *route.Call, id agent.ID, p agent.RecordPage, match func(*agent.Delivery) bool) (rows []agent.Delivery, at api.Pagination, err error) {
	q := c.Query()
	page, limit := q.Int("page", 1, 1000000, 1), q.Int("limit", 1, 100, int64(p.Limit))
	if err := q.Err(); err != nil {
		return nil, at, err
	}
	found := int64(0)
	for p.Limit = searchPage; p.Offset < searched; p.Offset += searchPage {
		bodies, _, err := r.Store.Recorded(c.Ctx, id, p)
		if err != nil {
			return nil, at, err
		}
		some, err := decode[agent.Delivery](bodies)
		if err != nil {
			return nil, at, err
		}
		for i := range some {
			if !match(&some[i]) {
				continue
			}
			if found++; found > (page-1)*limit && found <= page*limit {
				rows = append(rows, some[i])
			}
		}
		if len(bodies) < searchPage {
			break
		}
	}
	return rows, pagination(page, limit, found), nil
}

func (r *rest) redeliver(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id, ok := agent.ParseUUID(c.Param("deliveryId"), agent.DeliveryID(""))
	if !ok {
		return route.Response{}, agent.NoDelivery()
	}
	d, err := agentclient.Ask[agent.Delivery](c.Ctx, r.Agents, v.Spec.ID, protocol.Redeliver, protocol.RedeliverCommand{ID: id})
	if err != nil {
		return route.Response{}, err
	}
	return route.Response{Status: 202, Body: deliveryBody(&d)}, nil
}
