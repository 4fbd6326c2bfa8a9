package api

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
