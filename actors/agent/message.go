package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// Channel is where a message came from or goes to.
type Channel string

// The channels.
const (
	ChannelAPI   Channel = "api"
	ChannelAgent Channel = "agent"
)

// Role tells messages to the agent (user) from those of the agent (assistant).
type Role string

// The roles.
const (
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
)

// MessageStatus only moves forward: pending, delivered, read (MSG-4).
type MessageStatus string

// The states of a message.
const (
	Pending   MessageStatus = "pending"
	Delivered MessageStatus = "delivered"
	Read      MessageStatus = "read"
)

// Outcome is the result of processing a message or a turn; empty until it is decided.
type Outcome string

// The outcomes (MSG-5).
const (
	Completed     Outcome = "completed"
	AwaitingInput Outcome = "awaiting_input"
	Failed        Outcome = "failed"
	Cancelled     Outcome = "cancelled"
)

// Body is the part of a message that never changes.
type Body struct {
	Role         Role            `json:"role"`
	Content      string          `json:"content"`
	Channel      Channel         `json:"channel"`
	QueueMode    string          `json:"queue_mode,omitempty"`
	ReplyTo      MessageID       `json:"reply_to,omitempty"`
	Metadata     json.RawMessage `json:"metadata,omitempty"`
	Source       string          `json:"source,omitempty"` // user, agent, schedule, trigger, task
	SourceUUID   string          `json:"source_uuid,omitempty"`
	Counterparty string          `json:"counterparty"`         // UUID of the other side
	PartyName    string          `json:"party_name,omitempty"` // its display name
	PartyType    string          `json:"party_type,omitempty"` // user or agent
	Hops         int             `json:"hops,omitempty"`
	Task         *TaskBody       `json:"task,omitempty"` // of tasks and of input to them
}

// Mark is the part of a message that moves: status, instants and result.
type Mark struct {
	Status      MessageStatus `json:"status"`
	DeliveredMS int64         `json:"delivered_ms,omitempty"` // AtCreation: the instant at which the message was appended
	ReadMS      int64         `json:"read_ms,omitempty"`
	Outcome     Outcome       `json:"outcome,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	Session     SessionID     `json:"session,omitempty"`
	Turn        TurnID        `json:"turn,omitempty"`
	Uncertain   []int         `json:"uncertain,omitempty"` // parts of a reply of which nobody knows whether they arrived (CHAN-10)
}

// Message is one message to or from an agent. Seq and CreatedMS are given by the store when it is appended.
type Message struct {
	ID        MessageID
	Seq       int64
	CreatedMS int64
	Body
	Mark
}

// AtCreation in DeliveredMS stands for the instant at which the store appends the message.
const AtCreation = -1

// DeliveredAt returns when the message was delivered in ms, 0 for not yet.
func (m *Message) DeliveredAt() int64 {
	if m.DeliveredMS == AtCreation {
		return m.CreatedMS
	}
	return m.DeliveredMS
}

// Encode returns the stored form of a part of a message or of a snapshot.
func Encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only strings, numbers and valid raw JSON
	}
	return b.Bytes()[:b.Len()-1] // without the encoder's line break
}

// mustDecode reads what Encode has just made.
func mustDecode[T any](b []byte) (v T) {
	if err := json.Unmarshal(b, &v); err != nil {
		panic(fmt.Sprintf("decode %T: %v", v, err))
	}
	return v
}

// DecodeMessage reads the stored parts of a message.
func DecodeMessage(id MessageID, seq, createdMS int64, body, mark []byte) (Message, error) {
	m := Message{ID: id, Seq: seq, CreatedMS: createdMS}
	if err := json.Unmarshal(body, &m.Body); err != nil {
		return m, fmt.Errorf("decode message %s: %w", id, err)
	}
	if err := json.Unmarshal(mark, &m.Mark); err != nil {
		return m, fmt.Errorf("decode mark of message %s: %w", id, err)
	}
	return m, nil
}

// Unread says whether the message counts as unread for its conversation (CONV-1).
func (m *Message) Unread() bool { return m.Role == RoleUser && m.Status != Read }

// ReadSend reads the body of "send message". The result lacks id, counterparty and source.
func ReadSend(doc *field.Value) (Message, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	r.Require("content")
	m := Message{Body: Body{Role: RoleUser, Channel: ChannelAPI, QueueMode: "collect", Source: "user"}, Mark: Mark{Status: Pending}}
	m.Content = ReadContent(r, "content")
	m.Metadata = ReadMetadata(r, "metadata")
	if c, ok := r.String("channel", field.Text{Enum: []string{"api", "discord", "slack", "telegram", "whatsapp"}}); ok {
		m.Channel = Channel(c)
	}
	if q, ok := r.String("queue_mode", field.Text{Enum: []string{"collect", "interrupt"}}); ok {
		m.QueueMode = q
	}
	return m, errs.Err()
}

// ReadContent reads a text of 1 to 100000 code points that is not blank.
func ReadContent(r field.Reader, name string) string {
	s, ok := r.String(name, field.Text{Min: 1, Max: MaxContent})
	if ok && strings.TrimFunc(s, unicode.IsSpace) == "" {
		r.Fail(name, "must contain a character that is not blank")
	}
	return s
}

// ReadMetadata reads a free JSON object of at most 16384 bytes; keys starting with "_" are reserved (MSG-13).
func ReadMetadata(r field.Reader, name string) json.RawMessage {
	o, ok := r.Object(name, false)
	if !ok {
		return nil
	}
	v, _ := r.Raw(name)
	b := v.JSON()
	if len(b) > MaxMetadata {
		r.Fail(name, fmt.Sprintf("must have at most %d bytes when serialised", MaxMetadata))
		return nil
	}
	for _, n := range o.Names() {
		if strings.HasPrefix(n, "_") {
			o.Fail(n, "is reserved: names starting with _ belong to the platform")
		}
	}
	if hasNUL(v) {
		r.Fail(name, "must not contain NUL")
	}
	return b
}

func hasNUL(v *field.Value) bool {
	if v.Kind == field.String && strings.ContainsRune(v.Text, 0) {
		return true
	}
	for i := range v.Items {
		if hasNUL(&v.Items[i]) {
			return true
		}
	}
	for i := range v.Members {
		if strings.ContainsRune(v.Members[i].Name, 0) || hasNUL(&v.Members[i].Value) {
			return true
		}
	}
	return false
}

// QueueFull is the refusal of MSG-15.
func QueueFull(limit int) error {
	return fault.Newf(fault.Limited, "queue_full", "The agent has %d waiting messages, which is the limit", limit).After(5e9)
}

// TakeBatch returns the leading messages that fit one turn (QUE-2): at most 200 and 400000 code points, the first always.
func TakeBatch(pending []Message) []Message {
	runes := 0
	for i := range pending {
		runes += utf8.RuneCountInString(pending[i].Content)
		if i >= MaxBatchMessages || i > 0 && runes > MaxBatchRunes {
			return pending[:i]
		}
	}
	return pending
}
