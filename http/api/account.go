package api

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
