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
