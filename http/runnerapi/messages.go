package runnerapi

import (
	"encoding/json"
	"fmt"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/rest"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

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
