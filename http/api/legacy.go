package api

import "encoding/json"

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
