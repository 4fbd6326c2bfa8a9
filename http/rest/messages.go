package rest

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/route"
)

// MessageBody renders a message.
func MessageBody(m *agent.Message) api.Message {
	out := api.Message{ID: m.ID.String(), Role: string(m.Role), Content: m.Content, Status: string(m.Status), Channel: string(m.Channel),
		CreatedAt: agent.Stamp(m.CreatedMS), DeliveredAt: agent.StampOrNil(m.DeliveredAt()), ReadAt: agent.StampOrNil(m.ReadMS), Metadata: m.Metadata,
		Outcome: text(string(m.Outcome)), FailureReason: text(m.Reason), Source: m.Source, SourceUUID: text(m.SourceUUID), Counterparty: m.Counterparty,
		SessionID: text(string(m.Session)), TurnID: text(string(m.Turn)), QueueMode: text(m.QueueMode)}
	if m.ReplyTo != "" {
		out.ReplyToID = text(m.ReplyTo.String())
	}
	if len(m.Uncertain) > 0 {
		out.Metadata = withUncertain(m.Metadata, m.Uncertain)
	}
	return out
}

func accepted(m *agent.Message) api.MessageAccepted {
	return api.MessageAccepted{ID: m.ID.String(), Role: "user", Content: m.Content, Status: string(m.Status), Channel: string(m.Channel), QueueMode: m.QueueMode,
		CreatedAt: agent.Stamp(m.CreatedMS), Metadata: m.Metadata, Outcome: text(string(m.Outcome)), FailureReason: text(m.Reason)}
}

// send accepts a message: one script, one hint (MSG-1). The object in the path is looked at by the same script; only a
// request that is wrong anyway looks at it first, so that an unknown agent is 404 before its body is 400 (ERR-3).
func (r *rest) send(c *route.Call) (route.Response, error) {
	start := time.Now()
	id, ok := agent.ParseID(c.Param("id"))
	if !ok {
		return route.Response{}, gone()
	}
	acc, wait, err := r.readSend(c, id)
	if err != nil {
		if _, lerr := r.view(c.Ctx, id, c.Caller.Account.ID); lerr != nil {
			return route.Response{}, lerr
		}
		if acc != nil && acc.Idem != nil { // a key used with another body is told before what is wrong with this one
			if _, rerr := r.Store.Replay(c.Ctx, id, acc.Idem.Key, acc.Idem.Hash); rerr != nil {
				return route.Response{}, rerr
			}
		}
		return route.Response{}, err
	}
	got, err := r.Store.Accept(c.Ctx, acc)
	if err != nil {
		return route.Response{}, err
	}
	if r.Accepted != nil {
		r.Accepted(time.Since(start))
	}
	if got.Status == agent.Active && !got.Replayed {
		r.Agents.Hint(id)
	}
	msg := agent.Message{ID: got.ID, Seq: got.Seq, CreatedMS: got.CreatedMS, Body: acc.Body, Mark: agent.Mark{Status: agent.Pending}}
	out := accepted(&msg)
	if wait > 0 {
		if out, err = r.await(c, id, got.ID, time.Duration(wait)*time.Second); err != nil {
			return route.Response{}, err
		}
	}
	return route.Response{Status: 201, Body: out, Replayed: got.Replayed}, nil
}

func (r *rest) readSend(c *route.Call, id agent.ID) (*agent.Acceptance, int64, error) {
	doc, err := c.Doc()
	if err != nil {
		return nil, 0, err
	}
	idem, err := c.Idempotency(string(c.Caller.Account.ID) + "/" + string(id))
	if err != nil {
		return nil, 0, err
	}
	q := c.Query()
	wait := q.Int("wait", 0, 60, 0)
	if err := q.Err(); err != nil {
		return &agent.Acceptance{Idem: idem}, 0, err
	}
	msg, err := agent.ReadSend(doc)
	if err != nil {
		return &agent.Acceptance{Idem: idem}, 0, err
	}
	owner := &c.Caller.Account
	msg.Counterparty, msg.PartyName, msg.PartyType = string(owner.ID), owner.Email, "user"
	if msg.Channel != agent.ChannelAPI {
		if err := r.party(c, id, &msg); err != nil {
			return &agent.Acceptance{Idem: idem}, 0, err
		}
	}
	return &agent.Acceptance{Agent: id, Account: owner.ID, ID: agent.MessageID(agent.NewUUID()), Body: msg.Body, Idem: idem, Limit: r.Settings.MaxPending}, wait, nil
}

// await waits until the message has its outcome or time is over (MSG-12). Hints tell when to look; a slow tick covers lost ones.
func (r *rest) await(c *route.Call, id agent.ID, msg agent.MessageID, limit time.Duration) (api.MessageAccepted, error) {
	changed := make(chan struct{}, 1)
	stop := r.Store.Watch(id, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for over := false; ; {
		m, err := r.Store.Message(c.Ctx, id, msg)
		if err != nil {
			return api.MessageAccepted{}, err
		}
		out := accepted(&m)
		if m.Outcome != "" {
			out.Reply, err = r.firstReply(c.Ctx, id, &m)
			return out, err
		}
		if over {
			return out, nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline.C:
			over = true
		case <-r.Done:
			over = true
		}
	}
}

// firstReply finds the first reply to a message: replies come after it, in the same conversation.
func (r *rest) firstReply(ctx context.Context, id agent.ID, m *agent.Message) (*api.Message, error) {
	after := m.ID
	for range 20 {
		page, more, err := r.Store.List(ctx, id, agent.Page{After: after, Limit: 100, Role: agent.RoleAssistant, Party: m.Counterparty})
		if err != nil {
			return nil, err
		}
		for i := range page {
			if page[i].ReplyTo == m.ID {
				b := MessageBody(&page[i])
				return &b, nil
			}
			after = page[i].ID
		}
		if !more {
			break
		}
	}
	return nil, nil
}

// ReadPage reads the paging parameters that message lists share (MSG-10), and more filters if the route has them.
func ReadPage(c *route.Call, more func(q *route.Query, p *agent.Page)) (agent.Page, error) {
	q := c.Query()
	p := agent.Page{Limit: int(q.Int("limit", 1, 100, 50)), Desc: q.Enum("order", "asc", "asc", "desc") == "desc",
		Status: agent.MessageStatus(q.Enum("status", "", "pending", "delivered", "read")), Party: q.UUID("counterparty_uuid")}
	if more != nil {
		more(q, &p)
	}
	before, after := q.String("before", "", field.Text{Min: 1, Max: 64}), q.String("after", "", field.Text{Min: 1, Max: 64})
	if err := q.Err(); err != nil {
		return p, err
	}
	if before != "" && after != "" {
		return p, fault.New(fault.Invalid, "invalid_cursor", "before and after cannot be used together")
	}
	for raw, to := range map[string]*agent.MessageID{before: &p.Before, after: &p.After} {
		if raw == "" {
			continue
		}
		id, ok := agent.ParseMessageID(raw)
		if !ok {
			return p, fault.New(fault.Invalid, "invalid_cursor", "The cursor is no message id")
		}
		*to = id
	}
	return p, nil
}

func (r *rest) messages(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	p, err := ReadPage(c, func(q *route.Query, p *agent.Page) {
		p.Channel = agent.Channel(q.Enum("channel", "", "api", "discord", "slack", "telegram", "whatsapp", "agent"))
		p.Role = agent.Role(q.Enum("role", "", "user", "assistant"))
	})
	if err != nil {
		return route.Response{}, err
	}
	msgs, more, err := r.Store.List(c.Ctx, v.Spec.ID, p)
	if err != nil {
		return route.Response{}, err
	}
	out := api.MessageList{Messages: []api.Message{}, HasMore: more}
	for i := range msgs {
		out.Messages = append(out.Messages, MessageBody(&msgs[i]))
	}
	return route.OK(out), nil
}

func (r *rest) message(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id, ok := agent.ParseMessageID(c.Param("messageId"))
	if !ok {
		return route.Response{}, fault.New(fault.NotFound, "not_found", "Message not found")
	}
	m, err := r.Store.Message(c.Ctx, v.Spec.ID, id)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(MessageBody(&m)), nil
}

// ReadIDs reads a list of message ids. Malformed ones are returned apart: they are ignored and reported.
func ReadIDs(rd field.Reader) (ids []agent.MessageID, malformed []string) {
	rd.Require("message_ids")
	items, ok := rd.Array("message_ids", 500)
	if ok && len(items) == 0 {
		rd.Fail("message_ids", "must have at least 1 entry")
	}
	for i := range items {
		if n := utf8.RuneCountInString(items[i].Text); items[i].Kind != field.String || n < 1 || n > 64 {
			rd.Errors().Add(items[i].Offset, rd.Path("message_ids")+"["+strconv.Itoa(i)+"]", "must be a string of 1 to 64 characters")
			continue
		}
		if id, ok := agent.ParseMessageID(items[i].Text); ok {
			ids = append(ids, id)
		} else {
			malformed = append(malformed, items[i].Text)
		}
	}
	return ids, malformed
}

// MarkBody renders the result of marking messages.
func MarkBody(res protocol.MarkResult, malformed []string) api.MarkResult {
	out := api.MarkResult{Updated: res.Updated, Ignored: append([]string{}, malformed...)}
	for _, id := range res.Ignored {
		out.Ignored = append(out.Ignored, id.String())
	}
	return out
}

func (r *rest) markRead(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	var ids []agent.MessageID
	var malformed []string
	if err := readBody(c, func(rd field.Reader) { ids, malformed = ReadIDs(rd) }); err != nil {
		return route.Response{}, err
	}
	res, err := agentclient.Ask[protocol.MarkResult](c.Ctx, r.Agents, v.Spec.ID, protocol.Read, protocol.ReadCommand{IDs: ids})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(MarkBody(res, malformed)), nil
}

func (r *rest) conversations(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	q := c.Query()
	limit, per := q.Int("limit", 1, 50, 10), q.Int("messages_per_conversation", 0, 50, 20)
	var before int64
	if raw := q.String("before", "", field.Text{Max: 64}); raw != "" {
		t, perr := time.Parse(time.RFC3339, raw)
		if perr != nil {
			q.Fail("before", "must be an RFC 3339 instant")
		}
		before = t.UnixMilli()
	}
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	rows, more, err := r.Store.Conversations(c.Ctx, v.Spec.ID, before, int(limit))
	if err != nil {
		return route.Response{}, err
	}
	out := api.ConversationList{Conversations: []api.Conversation{}}
	out.Pagination.HasMore = more
	for _, row := range rows {
		conv, err := r.conversation(c.Ctx, v, row, int(per))
		if err != nil {
			return route.Response{}, err
		}
		out.Conversations = append(out.Conversations, conv)
		out.Pagination.NextCursor = text(conv.LastMessageAt)
	}
	return route.OK(out), nil
}

func (r *rest) conversation(ctx context.Context, v *view, row agent.ConversationRow, per int) (api.Conversation, error) {
	out := api.Conversation{TotalMessages: row.Total, UnreadCount: row.Unread, LastMessageAt: agent.Stamp(row.LastMS), Messages: []api.ConversationMessage{}}
	out.Counterparty = api.Counterparty{UUID: row.Party, Type: "user", Name: v.Spec.Owner, Channel: string(row.Channel)}
	msgs, _, err := r.Store.List(ctx, v.Spec.ID, agent.Page{Party: row.Party, Limit: max(per, 1), Desc: true})
	if err != nil {
		return out, err
	}
	for i := len(msgs) - 1; i >= 0; i-- {
		m := &msgs[i]
		if m.PartyName != "" {
			out.Counterparty.Name = m.PartyName
		}
		if m.PartyType != "" {
			out.Counterparty.Type = m.PartyType
		}
		if i >= per {
			continue
		}
		cm := api.ConversationMessage{UUID: string(m.ID), ID: m.ID.String(), Content: m.Content, Status: string(m.Status), CreatedAt: agent.Stamp(m.CreatedMS),
			SenderType: out.Counterparty.Type, SenderUUID: row.Party, RecipientType: "agent", RecipientUUID: string(v.Spec.ID)}
		if m.Role == agent.RoleAssistant {
			cm.SenderType, cm.SenderUUID, cm.RecipientType, cm.RecipientUUID = "agent", string(v.Spec.ID), out.Counterparty.Type, row.Party
		}
		out.Messages = append(out.Messages, cm)
	}
	return out, nil
}
