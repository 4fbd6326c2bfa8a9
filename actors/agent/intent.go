package agent

import (
	"slices"

	"troupe/actors/fault"
)

// Intent is a message to another agent on its way (MSG-14). It is durable at the sender before the recipient sees it, and
// closed with what the recipient's inbox said. The recipient's message has the same id as the sender's, so that repeating
// the acceptance changes nothing.
type Intent struct {
	ID     MessageID `json:"id"`
	To     ID        `json:"to"`
	Body   Body      `json:"body"`             // as the recipient gets it
	Own    Body      `json:"own"`              // as the sender keeps it
	Mark   Mark      `json:"mark"`             // of the sender's
	Stored bool      `json:"stored,omitempty"` // the sender's is in its list already: a reply at the end of a turn
	Key    string    `json:"key,omitempty"`    // idempotency of the call, written when it succeeds
	Hash   string    `json:"hash,omitempty"`
}

// OpenIntent names an intent that has not been closed.
type OpenIntent struct {
	ID  MessageID `json:"id"`
	Key string    `json:"key,omitempty"`
}

// intend sends own, a message to another agent: at once where the caller waits for the recipient's answer, else stored first.
func (m *Machine) intend(own Body, t *Turn, stored bool) (MessageID, error) {
	hops := 1
	if t != nil {
		hops = t.Hops + 1
	}
	in := Intent{ID: MessageID(m.NewID()), To: ID(own.Counterparty), Own: own, Stored: stored, Mark: Mark{Status: Pending}}
	in.Own.Hops = hops
	in.Body = Body{Role: RoleUser, Content: own.Content, Channel: ChannelAgent, QueueMode: own.QueueMode, ReplyTo: own.ReplyTo, Metadata: own.Metadata, Source: "agent",
		SourceUUID: string(m.Spec.ID), Counterparty: string(m.Spec.ID), PartyName: m.Spec.Name, PartyType: "agent", Hops: hops}
	if in.Body.QueueMode == "" {
		in.Body.QueueMode = "collect"
	}
	in.Own.QueueMode = ""
	if t != nil {
		in.Mark.Session, in.Mark.Turn = t.Session, t.ID
	}
	if hops > MaxHops {
		if !stored {
			return "", fault.Newf(fault.Invalid, "hop_limit", "The message has passed %d agents, which is the limit", MaxHops)
		}
		in.Mark.Reason = "hop_limit"
	}
	if stored {
		m.C.Append = append(m.C.Append, Append{ID: in.ID, Body: in.Own, Mark: in.Mark})
		t.Replies = append(t.Replies, in.ID)
		m.event("message.reply", map[string]any{"message_id": in.ID.String()})
	}
	if hops <= MaxHops {
		m.putIntent(&in)
		m.S.Intents = append(m.S.Intents, OpenIntent{ID: in.ID})
	}
	return in.ID, nil
}

func (m *Machine) putIntent(in *Intent) {
	m.record(Record{Kind: RecordIntent, ID: string(in.ID), Body: Encode(in)})
}

// KeyIntent binds an intent of this step to the caller's idempotency key, so that a repeat finds it while it is open. It
// returns false when the message is no intent.
func (m *Machine) KeyIntent(id MessageID, key, hash string) bool {
	for i := range m.C.Records {
		if r := &m.C.Records[i]; r.Kind == RecordIntent && r.ID == string(id) {
			in := mustDecode[Intent](r.Body)
			in.Key, in.Hash = key, hash
			m.putIntent(&in)
		}
	}
	for i := range m.S.Intents {
		if m.S.Intents[i].ID == id {
			m.S.Intents[i].Key = key
			return true
		}
	}
	return false
}

// CloseIntent takes in what the recipient's inbox said; nil: it accepted.
func (m *Machine) CloseIntent(in Intent, refused error) {
	i := slices.IndexFunc(m.S.Intents, func(o OpenIntent) bool { return o.ID == in.ID })
	if i < 0 {
		return // closed before
	}
	m.S.Intents = slices.Delete(m.S.Intents, i, i+1)
	m.record(Record{Kind: RecordIntent, ID: string(in.ID)})
	mark := in.Mark
	if refused != nil {
		if in.Stored {
			mark.Reason = fault.Of(refused).Code
			m.C.Marks = append(m.C.Marks, MarkPut{ID: in.ID, Mark: mark, Party: in.Own.Counterparty})
		}
		return
	}
	mark.Status = Delivered
	if in.Stored {
		mark.DeliveredMS = m.Now
		m.C.Marks = append(m.C.Marks, MarkPut{ID: in.ID, Mark: mark, Party: in.Own.Counterparty})
		return
	}
	mark.DeliveredMS = AtCreation
	m.C.Append = append(m.C.Append, Append{ID: in.ID, Body: in.Own, Mark: mark})
	m.event("message.reply", map[string]any{"message_id": in.ID.String()})
	if t := m.S.Turn; t != nil && t.ID == in.Mark.Turn {
		t.Replies = append(t.Replies, in.ID)
		if e := t.Entry(in.Own.ReplyTo); e != nil {
			e.Answered, e.Reply = true, in.ID
		}
	}
	if in.Key != "" {
		m.C.Idem = &Idempotency{Key: in.Key, Hash: in.Hash, Result: Encode(map[string]any{"id": in.ID})}
	}
}

// Refusal says what a recipient's inbox that does not take a message means to the sender; nil for a failure that may pass.
func Refusal(err error) error {
	f := fault.Of(err)
	switch {
	case f.Kind == fault.Unavailable && f.Code == "agent_unavailable":
		return fault.New(fault.Invalid, "recipient_unavailable", "The recipient is stopped or in error")
	case f.Kind == fault.NotFound, f.Kind == fault.Limited:
		return f
	}
	return nil
}
