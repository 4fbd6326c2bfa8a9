package api

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
