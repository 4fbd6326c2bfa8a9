// Package runnerproto is the runner protocol as seen from the pod: the shapes of its JSON and the client that a runner
// uses. It links no server code, so that the runner stays small. The contract is semantics.md §18.
package runnerproto

import "encoding/json"

// Version of the protocol.
const Version = 1

// HeaderNodes lists the base URLs of the live nodes in answers to attach and heartbeat, so that a runner can fail over.
const HeaderNodes = "X-Troupe-Nodes"

// HeaderCode tells a runner that the installation itself could not serve a model call for the moment, rather than the model
// service: the same call may be made again. Clients of the Anthropic API know nothing of it.
const HeaderCode = "X-Troupe-Code"

// HeaderEpoch and HeaderTurn bind a call to the runner and turn that make it (FENCE-4, LLM-2).
const (
	HeaderEpoch = "X-Troupe-Runner-Epoch"
	HeaderTurn  = "X-Troupe-Turn-Id"
)

// AttachRequest announces a runner process.
type AttachRequest struct {
	ProtocolVersion   int    `json:"protocol_version"`
	RunnerVersion     string `json:"runner_version"`
	SDKName           string `json:"sdk_name,omitempty"`
	SDKVersion        string `json:"sdk_version,omitempty"`
	Metering          string `json:"metering"`
	CurrentTurnID     string `json:"current_turn_id,omitempty"`
	WorkspaceEndpoint string `json:"workspace_endpoint,omitempty"`
}

// Session is a session as the runner sees it.
type Session struct {
	ID           string  `json:"id"`
	Mode         string  `json:"mode"`
	SDKSessionID *string `json:"sdk_session_id"`
	Start        string  `json:"start,omitempty"`
}

// AttachResult is the answer to attach.
type AttachResult struct {
	RunnerEpoch   int64    `json:"runner_epoch"`
	Epoch         int64    `json:"epoch"`
	Incarnation   int64    `json:"incarnation"`
	HeartbeatMS   int64    `json:"heartbeat_interval_ms"`
	LeaseMS       int64    `json:"lease_ms"`
	ConfigVersion int64    `json:"config_version"`
	CurrentTurnID *string  `json:"current_turn_id"`
	OpenSession   *Session `json:"open_session,omitempty"`
	ServerTime    string   `json:"server_time"`
}

// HeartbeatRequest renews the lease.
type HeartbeatRequest struct {
	ExecutionStatus string  `json:"execution_status"`
	TurnID          *string `json:"turn_id"`
	MemoryBytes     int64   `json:"memory_bytes,omitempty"`
}

// HeartbeatResult names the turn that the control plane believes to be running.
type HeartbeatResult struct {
	LeaseExpiresAt string  `json:"lease_expires_at"`
	Epoch          int64   `json:"epoch"`
	CurrentTurnID  *string `json:"current_turn_id"`
	ConfigVersion  int64   `json:"config_version"`
}

// Self is the agent's own configuration with effective values.
type Self struct {
	ID               string  `json:"id"`
	Name             string  `json:"name"`
	Description      *string `json:"description"`
	Status           string  `json:"status"`
	SessionMode      string  `json:"session_mode"`
	SystemPrompt     *string `json:"system_prompt"`
	SystemPromptType string  `json:"system_prompt_type"`
	Configuration    struct {
		TimeoutSeconds int64             `json:"timeout_seconds"`
		Model          string            `json:"model"`
		ReminderMS     int64             `json:"unread_reminder_interval_ms"`
		Memory         json.RawMessage   `json:"memory_config"`
		Compaction     json.RawMessage   `json:"compaction"`
		Hooks          map[string]string `json:"hook_messages"`
	} `json:"configuration"`
	WorkspacePath string `json:"workspace_path"`
	Balance       int64  `json:"output_token_balance"`
	ConfigVersion int64  `json:"config_version"`
	Epoch         int64  `json:"epoch"`
}

// Message is a message with its sender and recipient.
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
	SenderType    string          `json:"sender_type"`
	SenderUUID    string          `json:"sender_uuid"`
	SenderName    string          `json:"sender_name"`
	RecipientType string          `json:"recipient_type"`
	RecipientUUID string          `json:"recipient_uuid"`
	HopCount      int             `json:"hop_count"`
}

// MessageList is one page of messages.
type MessageList struct {
	Messages []Message `json:"messages"`
	HasMore  bool      `json:"has_more"`
}

// Entity is somebody the agent may message.
type Entity struct {
	UUID        string  `json:"uuid"`
	Type        string  `json:"type"`
	Name        string  `json:"name"`
	Channel     string  `json:"channel"`
	Description *string `json:"description"`
	Status      *string `json:"status"`
}

// Recipient names an entity.
type Recipient struct {
	Type string `json:"type"`
	UUID string `json:"uuid"`
}

// SendRequest posts a reply or a message.
type SendRequest struct {
	Content   string          `json:"content"`
	ReplyToID string          `json:"reply_to_id,omitempty"`
	Recipient *Recipient      `json:"recipient,omitempty"`
	TurnID    string          `json:"turn_id,omitempty"`
	QueueMode string          `json:"queue_mode,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}

// MarkRequest moves messages forward.
type MarkRequest struct {
	MessageIDs []string `json:"message_ids"`
	TurnID     string   `json:"turn_id,omitempty"`
}

// MarkResult says what changed.
type MarkResult struct {
	Updated int      `json:"updated"`
	Ignored []string `json:"ignored"`
}

// ProgressEntry is one progress report.
type ProgressEntry struct {
	Seq           int64  `json:"seq"`
	Kind          string `json:"kind"`
	ToolCallID    string `json:"tool_call_id,omitempty"`
	ToolName      string `json:"tool_name,omitempty"`
	IsError       bool   `json:"is_error,omitempty"`
	Summary       string `json:"summary,omitempty"`
	Text          string `json:"text,omitempty"`
	ContextTokens int64  `json:"context_tokens,omitempty"`
	CurrentStep   string `json:"current_step,omitempty"`
	Completed     *int64 `json:"steps_completed,omitempty"`
	Total         *int64 `json:"total_steps,omitempty"`
}

// Reply is one reply at the end of a turn.
type Reply struct {
	ReplyToID string          `json:"reply_to_id,omitempty"`
	Content   string          `json:"content"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}

// EndRequest ends a turn.
type EndRequest struct {
	Outcome       string          `json:"outcome"`
	Reason        string          `json:"reason,omitempty"`
	Error         string          `json:"error,omitempty"`
	Replies       []Reply         `json:"replies,omitempty"`
	SDKSessionID  string          `json:"sdk_session_id,omitempty"`
	ContextTokens int64           `json:"context_tokens,omitempty"`
	Result        json.RawMessage `json:"result,omitempty"`
}

// EndResult is the decided outcome.
type EndResult struct {
	TurnID    string   `json:"turn_id"`
	Outcome   string   `json:"outcome"`
	Duplicate bool     `json:"duplicate"`
	ReplyIDs  []string `json:"reply_ids"`
}

// MCPServer is one MCP server that the agent may use, with its credentials.
type MCPServer struct {
	Name    string            `json:"name"`
	Source  string            `json:"source"`
	Type    string            `json:"type"`
	Command string            `json:"command,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	URL     string            `json:"url,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Tools   []string          `json:"allowed_tools"` // nil: all
}

// MCPServers is the list of them.
type MCPServers struct {
	Servers []MCPServer `json:"mcp_servers"`
}

// DiskUsage reports the workspace.
type DiskUsage struct {
	TotalFiles   int64   `json:"total_files"`
	TotalBytes   int64   `json:"total_bytes"`
	MemoryBytes  int64   `json:"memory_bytes,omitempty"`
	LastModified *string `json:"last_modified"`
}

// SDKSession reports the transcript behind a session.
type SDKSession struct {
	SessionID     string `json:"session_id"`
	SDKSessionID  string `json:"sdk_session_id"`
	ContextTokens int64  `json:"context_tokens,omitempty"`
	Lost          bool   `json:"lost,omitempty"`
}

// Turn is a turn to be run.
type Turn struct {
	TurnID     string          `json:"turn_id"`
	Attempt    int             `json:"attempt"`
	Session    Session         `json:"session"`
	Trigger    json.RawMessage `json:"trigger"`
	Hook       string          `json:"hook,omitempty"`
	Prompt     string          `json:"prompt"`
	Messages   []Message       `json:"messages"`
	DeadlineAt string          `json:"deadline_at"`
}

// Event is one command or statement for the runner; which members are set depends on Event.
type Event struct {
	Event        string   `json:"event"`
	Seq          int64    `json:"seq"`
	Epoch        int64    `json:"epoch"`
	AgentID      string   `json:"agent_id"`
	At           string   `json:"at"`
	Status       string   `json:"status,omitempty"`
	Config       int64    `json:"config_version,omitempty"`
	Turn         *Turn    `json:"turn,omitempty"`
	OpenSession  *Session `json:"open_session,omitempty"`
	TurnID       string   `json:"turn_id,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	GraceMS      *int64   `json:"grace_ms,omitempty"`
	MessageCount int      `json:"message_count,omitempty"`
	Prompt       string   `json:"prompt,omitempty"`
	Changed      []string `json:"changed,omitempty"`
	Restart      *bool    `json:"restart_required,omitempty"`
	// Of session.compact; sync names the one that runs.
	SessionID     string `json:"session_id,omitempty"`
	CompactionID  string `json:"compaction_id,omitempty"`
	SDKSessionID  string `json:"sdk_session_id,omitempty"` // the transcript that is to be condensed
	Model         string `json:"model,omitempty"`
	Summarize     string `json:"summarize_template,omitempty"`
	Continuation  string `json:"continuation_template,omitempty"`
	ContextTokens int64  `json:"context_tokens,omitempty"`
}

// Compaction is the report of one attempt to condense a session.
type Compaction struct {
	CompactionID string `json:"compaction_id"`
	Status       string `json:"status"` // completed, failed
	Before       int64  `json:"input_tokens_before,omitempty"`
	After        int64  `json:"input_tokens_after"`
	Model        string `json:"model,omitempty"`
	SDKSessionID string `json:"sdk_session_id,omitempty"`
	Error        string `json:"error,omitempty"`
}

// Error is the body of every refusal.
type Error struct {
	Status    int    `json:"-"`
	Message   string `json:"error"`
	Code      string `json:"code"`
	RequestID string `json:"request_id"`
}

func (e *Error) Error() string { return e.Message + " (" + e.Code + ")" }

// FileChange is what the control plane asks of the runner's file server. Contents are base64 in JSON.
type FileChange struct {
	ID     string   `json:"id"`
	Add    []File   `json:"add,omitempty"`
	Update []File   `json:"update,omitempty"`
	Delete []string `json:"delete,omitempty"`
}

// File is one file of a change.
type File struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
}
