package api

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
