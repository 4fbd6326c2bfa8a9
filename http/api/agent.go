package api

import "encoding/json"

// Agent is the Agent of the contract. Instants are RFC 3339 with milliseconds in UTC.
type Agent struct {
	ID               string            `json:"id"`
	Name             string            `json:"name"`
	Description      *string           `json:"description"`
	Status           string            `json:"status"`
	StatusReason     *string           `json:"status_reason"`
	SessionMode      string            `json:"session_mode"`
	Balance          int64             `json:"output_token_balance"`
	CreatedAt        string            `json:"created_at"`
	UpdatedAt        string            `json:"updated_at"`
	Configuration    Configuration     `json:"configuration"`
	SystemPrompt     *string           `json:"system_prompt"`
	SystemPromptType string            `json:"system_prompt_type"`
	MCPServers       []McpGrantSummary `json:"mcp_servers"`
	Files            FilesystemSummary `json:"filesystem_summary"`
	PVCSize          string            `json:"pvc_size"`
	WarmthMS         *int64            `json:"warmth_window_ms"`
	Discord          bool              `json:"discord_bot_configured"`
	Slack            bool              `json:"slack_bot_configured"`
	Telegram         bool              `json:"telegram_bot_configured"`
	WhatsApp         bool              `json:"whatsapp_configured"`
	KeySource        string            `json:"anthropic_api_key_source"`
	WebhookSecretSet bool              `json:"webhook_secret_configured"`
	WebhookSecret    string            `json:"webhook_secret,omitempty"` // only in the response that made it
}

// Configuration is the effective configuration.
type Configuration struct {
	TimeoutSeconds int64                `json:"timeout_seconds"`
	Model          string               `json:"model,omitempty"`
	ReminderMS     int64                `json:"unread_reminder_interval_ms"`
	Memory         MemoryConfig         `json:"memory_config"`
	Compaction     Compaction           `json:"compaction"`
	Hooks          map[string]string    `json:"hook_messages,omitempty"`
	MCP            map[string]MCPServer `json:"mcp_servers,omitempty"`
	Webhooks       map[string]string    `json:"webhooks,omitempty"`
	EnvNames       []string             `json:"custom_env_names,omitempty"`
}

// MemoryConfig is memory_config.
type MemoryConfig struct {
	Type        string `json:"type"`
	MaxSizeMB   int64  `json:"max_size_mb"`
	Persistence string `json:"persistence"`
}

// Compaction is compaction.
type Compaction struct {
	Enabled      bool    `json:"enabled"`
	Model        string  `json:"model"`
	Threshold    int64   `json:"threshold_trigger"`
	Instructions *string `json:"instructions,omitempty"`
}

// AgentListItem is one row of a list of agents.
type AgentListItem struct {
	ID           string  `json:"id"`
	Name         string  `json:"name"`
	Description  *string `json:"description"`
	Status       string  `json:"status"`
	CreatedAt    string  `json:"created_at"`
	UpdatedAt    string  `json:"updated_at"`
	MessageCount int64   `json:"message_count"`
	MCPServers   int     `json:"mcp_server_count"`
}

// Pagination describes a numbered page.
type Pagination struct {
	Page       int64 `json:"page"`
	Limit      int64 `json:"limit"`
	Total      int64 `json:"total"`
	TotalPages int64 `json:"total_pages"`
}

// AgentList is a page of agents.
type AgentList struct {
	Agents     []AgentListItem `json:"agents"`
	Pagination Pagination      `json:"pagination"`
}

// AgentSummary is made for polling.
type AgentSummary struct {
	UUID         string `json:"uuid"`
	Name         string `json:"name"`
	Status       string `json:"status"`
	Balance      int64  `json:"output_token_balance"`
	Used         int64  `json:"total_output_tokens_used"`
	MessageCount int64  `json:"message_count"`
	MCPServers   int    `json:"mcp_server_count"`
	CreatedAt    string `json:"created_at"`
	UpdatedAt    string `json:"updated_at"`
}

// AgentReadiness says whether a message would be processed right now.
type AgentReadiness struct {
	Ready         bool   `json:"ready"`
	Status        string `json:"status"`
	PodStatus     string `json:"pod_status"`
	LastHeartbeat string `json:"last_heartbeat,omitempty"`
	Reason        string `json:"reason,omitempty"`
}

// AgentStatusResult is the status after a change.
type AgentStatusResult struct {
	Message string `json:"message"`
	Status  string `json:"status"`
}

// BalanceResult is the balance before and after.
type BalanceResult struct {
	Message  string `json:"message"`
	New      int64  `json:"new_balance"`
	Previous int64  `json:"previous_balance"`
}

// AgentRuntime is the activation's view of itself.
type AgentRuntime struct {
	AgentUUID   string         `json:"agent_uuid"`
	Status      string         `json:"status"`
	Node        string         `json:"node"`
	Epoch       int64          `json:"epoch"`
	ActivatedAt string         `json:"activated_at"`
	Pod         RuntimePod     `json:"pod"`
	Runner      *RuntimeRunner `json:"runner"`
	Mailbox     int            `json:"mailbox_depth"`
	Queue       struct {
		Pending   int64 `json:"pending"`
		Delivered int   `json:"delivered"`
	} `json:"queue"`
	SessionID *string        `json:"session_id"`
	Turn      *RuntimeTurn   `json:"turn"`
	Timers    []RuntimeTimer `json:"timers"`
}

// RuntimePod is the pod in the runtime view.
type RuntimePod struct {
	Status       string  `json:"status"`
	Phase        *string `json:"phase"`
	Name         *string `json:"name"`
	Node         *string `json:"node"`
	Incarnation  int64   `json:"incarnation"`
	StartedAt    *string `json:"started_at"`
	FailedStarts int     `json:"failed_starts"`
}

// RuntimeRunner is the attached runner.
type RuntimeRunner struct {
	RunnerEpoch    int64  `json:"runner_epoch"`
	AttachedAt     string `json:"attached_at"`
	LastHeartbeat  string `json:"last_heartbeat"`
	LeaseExpiresAt string `json:"lease_expires_at"`
	Execution      string `json:"execution_status"`
	Version        string `json:"version"`
	Subscribed     bool   `json:"subscribed"`
}

// RuntimeTurn is the running turn.
type RuntimeTurn struct {
	ID         string `json:"id"`
	Attempt    int    `json:"attempt"`
	StartedAt  string `json:"started_at"`
	DeadlineAt string `json:"deadline_at"`
}

// RuntimeTimer is one armed timer.
type RuntimeTimer struct {
	Kind  string  `json:"kind"`
	DueAt string  `json:"due_at"`
	Ref   *string `json:"ref"`
}

// AgentEvent is one event of an agent's stream.
type AgentEvent struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	AgentID string          `json:"agent_id"`
	At      string          `json:"at"`
	Data    json.RawMessage `json:"data"`
}
