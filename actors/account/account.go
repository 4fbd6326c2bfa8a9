// Package account says who is calling: the account, the credential it used and what that credential may do.
// It holds no I/O and no secrets other than hashes.
package account

import "time"

// ID is the bare UUID of an account.
type ID string

// Account is one owner of agents. Every object of the platform belongs to exactly one (TEN-1).
type Account struct {
	ID           ID        `json:"id"`
	Email        string    `json:"email"` // lower case
	PasswordHash string    `json:"password_hash,omitempty"`
	Verified     bool      `json:"verified"`
	Admin        bool      `json:"admin"`
	NoAgents     bool      `json:"no_agents,omitempty"`   // the feature flag of TEN-2, inverted: default on
	AgentLimit   int       `json:"agent_limit,omitempty"` // 0: unlimited (TEN-3)
	CreatedAt    time.Time `json:"created_at"`
	UpdatedAt    time.Time `json:"updated_at"`
	// VerifyHash is the hash of the one-time verification token, empty when there is none; VerifyUntil its end (AUTH-5).
	VerifyHash  string    `json:"verify_hash,omitempty"`
	VerifyUntil time.Time `json:"verify_until,omitzero"`
}

// Scope is what a platform key may be used for.
type Scope string

// The scopes of platform keys.
const (
	ScopeAll       Scope = ""          // every route that takes a platform key
	ScopeAnalytics Scope = "analytics" // made by the legacy create route (AUTH-4)
)

// KeyStatus is the state of a stored key; only active keys work.
type KeyStatus string

// The states of a stored key.
const (
	KeyActive   KeyStatus = "active"
	KeyInactive KeyStatus = "inactive"
	KeyRevoked  KeyStatus = "revoked"
)

// PlatformKey is an API key of an account. The key itself is never stored, only Hash (AUTH-4).
type PlatformKey struct {
	ID         string    `json:"id"`
	Account    ID        `json:"account"`
	Name       string    `json:"name"`
	Prefix     string    `json:"prefix"` // first 20 characters and "..."
	Hash       string    `json:"hash"`   // hex HMAC-SHA-256 with the server's pepper
	Scope      Scope     `json:"scope,omitempty"`
	Agent      string    `json:"agent,omitempty"` // the agent whose deletion deletes this key (LEG-2)
	Status     KeyStatus `json:"status"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
}

// ProviderKey is a stored model-provider credential of an account; Sealed holds the encrypted key (SEC-1).
type ProviderKey struct {
	ID        string    `json:"id"`
	Account   ID        `json:"account"`
	Provider  string    `json:"provider"`
	Sealed    string    `json:"sealed"`
	BaseURL   string    `json:"base_url,omitempty"`
	Label     *string   `json:"label"`
	Status    KeyStatus `json:"status"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Caller is the outcome of a successful authentication.
type Caller struct {
	Account Account
	KeyID   string // the platform key used, empty for a JWT
	Scope   Scope
}
