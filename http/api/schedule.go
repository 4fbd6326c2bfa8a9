package api

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
