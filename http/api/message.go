package api

import "encoding/json"

// MessageResult is a sentence.
type MessageResult struct {
	Message string `json:"message"`
}

// Message is a message to or from an agent.
type Message struct {
	ID            string          `json:"id"`
	Role          string          `json:"role"`
	Content       string          `json:"content"`
	Status        string          `json:"status"`
	Channel       string          `json:"channel"`
	QueueMode     *string         `json:"queue_mode"`
	ReplyToID     *string         `json:"reply_to_id"`
	CreatedAt     string          `json:"created_at"`
	DeliveredAt   *string         `json:"delivered_at"`
	ReadAt        *string         `json:"read_at"`
	Metadata      json.RawMessage `json:"metadata,omitempty"`
	Outcome       *string         `json:"outcome"`
	FailureReason *string         `json:"failure_reason"`
	Source        string          `json:"source,omitempty"`
	SourceUUID    *string         `json:"source_uuid"`
	Counterparty  string          `json:"counterparty_uuid,omitempty"`
	SessionID     *string         `json:"session_id"`
	TurnID        *string         `json:"turn_id"`
}

// MessageAccepted is the answer to a message that was sent.
type MessageAccepted struct {
	ID            string          `json:"id"`
	Role          string          `json:"role"`
	Content       string          `json:"content"`
	Status        string          `json:"status"`
	Channel       string          `json:"channel"`
	QueueMode     string          `json:"queue_mode"`
	CreatedAt     string          `json:"created_at"`
	Metadata      json.RawMessage `json:"metadata,omitempty"`
	Outcome       *string         `json:"outcome"`
	FailureReason *string         `json:"failure_reason"`
	Reply         *Message        `json:"reply,omitempty"`
}

// MessageList is one page of messages.
type MessageList struct {
	Messages []Message `json:"messages"`
	HasMore  bool      `json:"has_more"`
}

// MarkResult says what changed.
type MarkResult struct {
	Updated int      `json:"updated"`
	Ignored []string `json:"ignored"`
}

// Counterparty is the other side of a conversation.
type Counterparty struct {
	UUID    string `json:"uuid"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Channel string `json:"channel,omitempty"`
}

// ConversationMessage is one message of a conversation.
type ConversationMessage struct {
	UUID          string `json:"uuid"`
	ID            string `json:"id"`
	Content       string `json:"content"`
	SenderType    string `json:"sender_type"`
	SenderUUID    string `json:"sender_uuid"`
	RecipientType string `json:"recipient_type"`
	RecipientUUID string `json:"recipient_uuid"`
	Status        string `json:"status"`
	CreatedAt     string `json:"created_at"`
}

// Conversation groups messages by counterparty.
type Conversation struct {
	Counterparty  Counterparty          `json:"counterparty"`
	TotalMessages int64                 `json:"total_messages"`
	UnreadCount   int64                 `json:"unread_count"`
	LastMessageAt string                `json:"last_message_at"`
	Messages      []ConversationMessage `json:"messages"`
}

// ConversationList is one page of conversations.
type ConversationList struct {
	Conversations []Conversation `json:"conversations"`
	Pagination    struct {
		HasMore    bool    `json:"has_more"`
		NextCursor *string `json:"next_cursor"`
	} `json:"pagination"`
}

// AgentUsage is what one agent has used in a period.
type AgentUsage struct {
	UUID     string `json:"agent_uuid"`
	Name     string `json:"agent_name"`
	Input    int64  `json:"input_tokens"`
	Output   int64  `json:"output_tokens"`
	Requests int64  `json:"requests"`
}

// UsagePeriod is what an account's agents have used in a period.
type UsagePeriod struct {
	Input    int64        `json:"total_input_tokens"`
	Output   int64        `json:"total_output_tokens"`
	Requests int64        `json:"total_requests"`
	ByAgent  []AgentUsage `json:"by_agent"`
}

// UsageSummary is the usage of the present periods.
type UsageSummary struct {
	Today UsagePeriod `json:"today"`
	Week  UsagePeriod `json:"this_week"`
	Month UsagePeriod `json:"this_month"`
}

// TokenUsage is a sum of model calls.
type TokenUsage struct {
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	Requests   int64 `json:"requests"`
}

// SessionTrigger is what opened a session.
type SessionTrigger struct {
	Type      string  `json:"type"`
	UUID      *string `json:"uuid"`
	MessageID *string `json:"message_id"`
}

// Session is one conversation context.
type Session struct {
	ID          string         `json:"id"`
	AgentUUID   string         `json:"agent_uuid"`
	Mode        string         `json:"mode"`
	Status      string         `json:"status"`
	Trigger     SessionTrigger `json:"trigger"`
	StartedAt   string         `json:"started_at"`
	EndedAt     *string        `json:"ended_at"`
	EndReason   *string        `json:"end_reason"`
	Turns       int            `json:"turn_count"`
	Compactions int            `json:"compaction_count"`
	Restarts    int            `json:"restart_count"`
	SDK         *string        `json:"sdk_session_id"`
	Usage       TokenUsage     `json:"usage"`
}

// SessionList is a page of sessions.
type SessionList struct {
	Sessions   []Session  `json:"sessions"`
	Pagination Pagination `json:"pagination"`
}

// Turn is one run of a session.
type Turn struct {
	ID        string     `json:"id"`
	Number    int        `json:"number"`
	Status    string     `json:"status"`
	Reason    *string    `json:"reason"`
	StartedAt string     `json:"started_at"`
	EndedAt   *string    `json:"ended_at"`
	Attempt   int        `json:"attempt"`
	Messages  []string   `json:"message_ids"`
	Replies   []string   `json:"reply_ids"`
	Usage     TokenUsage `json:"usage"`
}

// SessionDetail is a session with its newest turns.
type SessionDetail struct {
	Session
	TurnList       []Turn       `json:"turns"`
	CompactionList []Compacting `json:"compactions"`
}

// Compacting is one condensation of a session.
type Compacting struct {
	ID        string  `json:"id"`
	Status    string  `json:"status"`
	StartedAt string  `json:"started_at"`
	EndedAt   *string `json:"ended_at"`
	Before    int64   `json:"input_tokens_before"`
	After     *int64  `json:"input_tokens_after"`
	Model     string  `json:"model"`
	Error     *string `json:"error"`
}
