package api

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
