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

// MCPServer is one configured MCP server without its secrets.
type MCPServer struct {
	Type    string   `json:"type"`
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
	URL     string   `json:"url,omitempty"`
}

// McpGrantSummary is one grant in the view of its agent.
type McpGrantSummary struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Mode   string `json:"access_mode"`
	Status string `json:"status"`
}

// McpServer is a registered MCP server without its secrets.
type McpServer struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	EndpointURL *string `json:"endpoint_url"`
	Transport   string  `json:"transport_type"`
	Hosting     string  `json:"hosting_mode"`
	Status      string  `json:"status"`
	Health      string  `json:"health_status"`
	CheckedAt   *string `json:"last_health_check"`
	CreatedAt   string  `json:"created_at"`
	UpdatedAt   string  `json:"updated_at"`
}

// McpServerItem is one of a list.
type McpServerItem struct {
	McpServer
	Grants int `json:"agent_access_count"`
}

// McpServerList is one page of servers.
type McpServerList struct {
	Servers    []McpServerItem `json:"mcp_servers"`
	Pagination Pagination      `json:"pagination"`
}

// McpAccess is one grant in the view of its server.
type McpAccess struct {
	ID    string `json:"id"`
	Agent struct {
		UUID   string `json:"uuid"`
		Name   string `json:"name"`
		Status string `json:"status"`
	} `json:"agent"`
	Mode    string   `json:"access_mode"`
	Tools   []string `json:"allowed_tools"`
	Enabled bool     `json:"enabled"`
}

// McpServerDetail is a server with its grants.
type McpServerDetail struct {
	McpServer
	Configuration json.RawMessage `json:"configuration"`
	Access        []McpAccess     `json:"agent_access"`
}

// McpGranted is a grant as made.
type McpGranted struct {
	ID        string   `json:"id"`
	AgentUUID string   `json:"agent_uuid"`
	Mode      string   `json:"access_mode"`
	Tools     []string `json:"allowed_tools"`
	Enabled   bool     `json:"enabled"`
	CreatedAt string   `json:"created_at"`
}

// McpProbe is what a probe found.
type McpProbe struct {
	Status    string   `json:"status"`
	LatencyMS *float64 `json:"latency_ms"`
	CheckedAt string   `json:"last_checked"`
}

// FilesystemSummary is the size of the workspace.
type FilesystemSummary struct {
	TotalFiles   int64   `json:"total_files"`
	TotalSizeMB  float64 `json:"total_size_mb"`
	LastModified *string `json:"last_modified"`
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

// MessageResult is a sentence.
type MessageResult struct {
	Message string `json:"message"`
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

// UserCreated is a new account.
type UserCreated struct {
	UUID     string `json:"uuid"`
	Email    string `json:"email"`
	Message  string `json:"message"`
	Verified bool   `json:"verified"`
}

// UserBrief is an account in a login.
type UserBrief struct {
	UUID     string `json:"uuid"`
	Email    string `json:"email"`
	Verified bool   `json:"verified"`
}

// LoginResult is a login.
type LoginResult struct {
	Token string    `json:"token"`
	User  UserBrief `json:"user"`
}

// VerifyUserResult is the answer to a verification.
type VerifyUserResult struct {
	Message  string    `json:"message"`
	Verified bool      `json:"verified"`
	Token    string    `json:"token"`
	User     UserBrief `json:"user"`
}

// User is the account of a token.
type User struct {
	UUID          string `json:"uuid"`
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
	Verified      bool   `json:"verified"`
	IsAdmin       bool   `json:"is_admin"`
	CreatedAt     string `json:"created_at"`
	UpdatedAt     string `json:"updated_at"`
}

// QuotaFigure is a limit (0: unlimited) and its use.
type QuotaFigure struct {
	Limit int64 `json:"limit"`
	Used  int64 `json:"used"`
}

// UserQuota is plan, limits and use.
type UserQuota struct {
	Plan   string `json:"plan"`
	Quotas struct {
		Agents    QuotaFigure `json:"agents"`
		Telemetry QuotaFigure `json:"telemetry_events_per_month"`
		Requests  QuotaFigure `json:"api_requests_per_minute"`
	} `json:"quotas"`
	Features struct {
		AIAgents  bool `json:"ai_agents"`
		Spotlight bool `json:"spotlight"`
		Analytics bool `json:"advanced_analytics"`
	} `json:"features"`
}

// PlatformKeyCreated shows a new key this once.
type PlatformKeyCreated struct {
	UUID      string `json:"uuid"`
	Key       string `json:"key"`
	Name      string `json:"name"`
	CreatedAt string `json:"created_at"`
	Status    string `json:"status"`
}

// PlatformKey is a key without its value.
type PlatformKey struct {
	UUID       string  `json:"uuid"`
	Name       string  `json:"name"`
	Prefix     string  `json:"prefix"`
	CreatedAt  string  `json:"created_at"`
	LastUsedAt *string `json:"last_used_at"`
	Status     string  `json:"status"`
}

// DeletedByUUID is the answer to a deletion.
type DeletedByUUID struct {
	Message   string `json:"message"`
	UUID      string `json:"uuid"`
	DeletedAt string `json:"deleted_at"`
}

// ProviderKey is a stored provider key without its value.
type ProviderKey struct {
	UUID      string  `json:"uuid"`
	Provider  string  `json:"provider"`
	Label     *string `json:"label"`
	Status    string  `json:"status"`
	CreatedAt string  `json:"created_at"`
	UpdatedAt string  `json:"updated_at"`
}

// ProviderKeyTestResult says whether a provider key works.
type ProviderKeyTestResult struct {
	Valid    bool   `json:"valid"`
	Provider string `json:"provider"`
	Message  string `json:"message,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Health is the short health.
type Health struct {
	Status   string `json:"status"`
	Database string `json:"database"`
}

// DependencyHealth is the health of one dependency.
type DependencyHealth struct {
	Status    string   `json:"status"`
	LatencyMS *float64 `json:"latency_ms"`
}

// DeepHealth is the health with dependencies.
type DeepHealth struct {
	Status     string            `json:"status"`
	Database   DependencyHealth  `json:"database"`
	Cluster    *DependencyHealth `json:"cluster,omitempty"`
	Kubernetes *DependencyHealth `json:"kubernetes,omitempty"`
	Timestamp  string            `json:"timestamp"`
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

// LegacyAgentCreated is the answer of the first-generation create.
type LegacyAgentCreated struct {
	UUID          string              `json:"uuid"`
	Name          string              `json:"name"`
	Description   *string             `json:"description"`
	Status        string              `json:"status"`
	CreatedAt     string              `json:"created_at"`
	EndpointURL   string              `json:"endpoint_url"`
	ContainerID   string              `json:"container_id"`
	PlatformKey   string              `json:"platform_api_key"`
	Configuration LegacyConfiguration `json:"configuration"`
	WebhookSecret string              `json:"webhook_secret,omitempty"`
}

// LegacyConfiguration is its narrower configuration, webhooks under the names given.
type LegacyConfiguration struct {
	TimeoutSeconds int64             `json:"timeout_seconds"`
	Memory         MemoryConfig      `json:"memory_config"`
	Webhooks       map[string]string `json:"webhooks,omitempty"`
}

// LegacyTaskAccepted is the answer to a task.
type LegacyTaskAccepted struct {
	TaskID         string `json:"task_id"`
	Status         string `json:"status"`
	CreatedAt      string `json:"created_at"`
	EstimatedStart string `json:"estimated_start"`
	PollURL        string `json:"poll_url"`
	CancelURL      string `json:"cancel_url"`
}

// LegacyTask is a task as polled.
type LegacyTask struct {
	TaskID      string          `json:"task_id"`
	Status      string          `json:"status"`
	CreatedAt   string          `json:"created_at"`
	StartedAt   string          `json:"started_at,omitempty"`
	CompletedAt string          `json:"completed_at,omitempty"`
	CancelledAt string          `json:"cancelled_at,omitempty"`
	Progress    any             `json:"progress,omitempty"`
	Result      json.RawMessage `json:"result,omitempty"`
	Error       string          `json:"error,omitempty"`
}

// LegacyTaskInput is the answer to input for a task.
type LegacyTaskInput struct {
	TaskID   string `json:"task_id"`
	Status   string `json:"status"`
	Received bool   `json:"message_received"`
}

// LegacyTaskCancelled is the answer to a cancel.
type LegacyTaskCancelled struct {
	TaskID      string `json:"task_id"`
	Status      string `json:"status"`
	CancelledAt string `json:"cancelled_at"`
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

// AgentEvent is one event of an agent's stream.
type AgentEvent struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	AgentID string          `json:"agent_id"`
	At      string          `json:"at"`
	Data    json.RawMessage `json:"data"`
}

// Cluster is the state of the cluster as one node sees it.
type Cluster struct {
	Name        string          `json:"cluster_name"`
	Node        string          `json:"node"`
	GeneratedAt string          `json:"generated_at"`
	Members     []ClusterMember `json:"members"`
	Grains      map[string]int  `json:"grains"`
	Shards      []ClusterShard  `json:"shards"`
}

// ClusterMember is one node of the cluster.
type ClusterMember struct {
	ID        string         `json:"id"`
	Address   string         `json:"address"`
	Status    string         `json:"status"`
	Version   string         `json:"version"`
	StartedAt string         `json:"started_at"`
	Kinds     []string       `json:"kinds"`
	Grains    map[string]int `json:"grains"`
}

// ClusterShard is one shard of the clock.
type ClusterShard struct {
	Shard          int     `json:"shard"`
	Owner          *string `json:"owner"`
	Epoch          int64   `json:"epoch"`
	LeaseExpiresAt *string `json:"lease_expires_at"`
}

// Trigger is an address at which the outside can wake an agent.
type Trigger struct {
	UUID      string  `json:"uuid"`
	AgentUUID string  `json:"agent_uuid"`
	Name      string  `json:"name"`
	Template  string  `json:"message_template"`
	Enabled   bool    `json:"enabled"`
	URL       string  `json:"webhook_url"`
	Count     int64   `json:"trigger_count"`
	LastAt    *string `json:"last_triggered_at"`
	CreatedAt string  `json:"created_at"`
	UpdatedAt string  `json:"updated_at"`
}

// TriggerCreated shows the secret once.
type TriggerCreated struct {
	Trigger
	Secret string `json:"webhook_secret"`
}

// TriggerList is a page of triggers.
type TriggerList struct {
	Triggers   []Trigger  `json:"triggers"`
	Pagination Pagination `json:"pagination"`
}

// TriggerAccepted answers a call of a trigger.
type TriggerAccepted struct {
	Message   string `json:"message"`
	MessageID string `json:"message_id"`
}

// FileTransferResult is the outcome of copies or moves, in request order.
type FileTransferResult struct {
	Results []FileTransferred `json:"results"`
}

// FileTransferred is the outcome of one of them.
type FileTransferred struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Success     bool   `json:"success"`
	Error       string `json:"error,omitempty"`
}

// Schedule is a message at the slots of a cron expression.
type Schedule struct {
	UUID      string  `json:"uuid"`
	AgentUUID string  `json:"agent_uuid"`
	Name      string  `json:"name"`
	Cron      string  `json:"cron_expression"`
	Template  string  `json:"message_template"`
	Zone      string  `json:"timezone"`
	Enabled   bool    `json:"enabled"`
	LastAt    *string `json:"last_run_at"`
	NextAt    *string `json:"next_run_at"`
	Count     int64   `json:"execution_count"`
	CreatedAt string  `json:"created_at"`
	UpdatedAt string  `json:"updated_at"`
}

// ScheduleList is a page of schedules.
type ScheduleList struct {
	Schedules  []Schedule `json:"schedules"`
	Pagination Pagination `json:"pagination"`
}

// ScheduleExecution is one entry of a schedule's history.
type ScheduleExecution struct {
	UUID         string  `json:"uuid"`
	ScheduleUUID string  `json:"schedule_uuid"`
	ScheduledFor *string `json:"scheduled_for,omitempty"`
	ExecutedAt   string  `json:"executed_at"`
	Status       string  `json:"status"`
	MessageUUID  *string `json:"message_uuid"`
	Error        *string `json:"error"`
	MissedCount  int     `json:"missed_count,omitempty"`
}

// ScheduleExecutionList is a page of executions, newest first.
type ScheduleExecutionList struct {
	Executions []ScheduleExecution `json:"executions"`
	Pagination Pagination          `json:"pagination"`
}

// WebhookSecret shows a new signing secret once.
type WebhookSecret struct {
	Secret      string  `json:"webhook_secret"`
	FormerUntil *string `json:"previous_secret_expires_at"`
}

// WebhookDelivery is one event on its way to a receiver.
type WebhookDelivery struct {
	ID          string  `json:"id"`
	Event       string  `json:"event"`
	URL         string  `json:"url"`
	Status      string  `json:"status"`
	Attempts    int     `json:"attempts"`
	MessageID   *string `json:"message_id"`
	CreatedAt   string  `json:"created_at"`
	NextAt      *string `json:"next_attempt_at"`
	DeliveredAt *string `json:"delivered_at"`
	Code        *int    `json:"last_status_code"`
	Error       *string `json:"last_error"`
}

// WebhookDeliveryList is a page of them, newest first.
type WebhookDeliveryList struct {
	Deliveries []WebhookDelivery `json:"deliveries"`
	Pagination Pagination        `json:"pagination"`
}

// ChannelBinding is one way to and from an agent.
type ChannelBinding struct {
	ID           string  `json:"id"`
	Channel      string  `json:"channel"`
	Status       string  `json:"status"`
	CreatedAt    string  `json:"created_at"`
	QueueMode    string  `json:"queue_mode"`
	DiscordUser  string  `json:"discord_user_id,omitempty"`
	DiscordName  string  `json:"discord_username,omitempty"`
	SlackUser    string  `json:"slack_user_id,omitempty"`
	SlackName    string  `json:"slack_username,omitempty"`
	SlackTeam    string  `json:"slack_team_id,omitempty"`
	TelegramUser string  `json:"telegram_user_id,omitempty"`
	TelegramName *string `json:"telegram_username,omitempty"`
	WhatsAppUser string  `json:"whatsapp_user_id,omitempty"`
	WhatsAppName *string `json:"whatsapp_username,omitempty"`
}

// ChannelBindingList holds the active ones; that of the API comes first.
type ChannelBindingList struct {
	Bindings []ChannelBinding `json:"bindings"`
}

// LinkCode is to be sent to the bot.
type LinkCode struct {
	Code         string `json:"code"`
	ExpiresAt    string `json:"expires_at"`
	Instructions string `json:"instructions"`
}

// NotLinked is the status of a channel without an account.
type NotLinked struct {
	Linked bool `json:"linked"`
}

// DiscordStatus says who is linked, nested and flat.
type DiscordStatus struct {
	Linked    bool            `json:"linked"`
	Binding   *DiscordBinding `json:"binding"`
	User      string          `json:"discord_user_id,omitempty"`
	Name      string          `json:"discord_username,omitempty"`
	Mode      string          `json:"queue_mode,omitempty"`
	CreatedAt string          `json:"created_at,omitempty"`
}

// DiscordBinding is its nested part.
type DiscordBinding struct {
	ID        string `json:"id"`
	User      string `json:"discord_user_id"`
	Name      string `json:"discord_username"`
	Mode      string `json:"queue_mode"`
	CreatedAt string `json:"created_at"`
}

// SlackStatus says who is linked.
type SlackStatus struct {
	Linked   bool   `json:"linked"`
	User     string `json:"slack_user_id,omitempty"`
	Team     string `json:"slack_team_id,omitempty"`
	Name     string `json:"slack_username,omitempty"`
	LinkedAt string `json:"linked_at,omitempty"`
	Binding  string `json:"channel_binding_id,omitempty"`
	Mode     string `json:"queue_mode,omitempty"`
}

// TelegramStatus says who is linked, nested and flat.
type TelegramStatus struct {
	Linked   bool            `json:"linked"`
	Binding  TelegramBinding `json:"channel_binding"`
	User     string          `json:"telegram_user_id"`
	Name     *string         `json:"telegram_username"`
	LinkedAt string          `json:"linked_at"`
}

// TelegramBinding is its nested part.
type TelegramBinding struct {
	UUID      string  `json:"uuid"`
	User      string  `json:"telegram_user_id"`
	Name      *string `json:"telegram_username"`
	CreatedAt string  `json:"created_at"`
	Active    bool    `json:"active"`
	Mode      string  `json:"queue_mode"`
}

// WhatsAppStatus says who is linked.
type WhatsAppStatus struct {
	Linked   bool    `json:"linked"`
	Binding  string  `json:"channel_binding_id"`
	User     string  `json:"whatsapp_user_id"`
	Name     *string `json:"whatsapp_username"`
	Mode     string  `json:"queue_mode"`
	LinkedAt string  `json:"linked_at"`
}

// Unlinked confirms the end of a binding.
type Unlinked struct {
	Success *bool  `json:"success,omitempty"`
	Message string `json:"message"`
}

// Took confirms a call of a chat network.
type Took struct {
	OK bool `json:"ok"`
}

// SlackChallenge answers the verification of an address.
type SlackChallenge struct {
	Challenge string `json:"challenge"`
}
