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
