package account

import (
	"context"
	"time"

	"troupe/actors/fault"
)

// Accounts stores accounts. Errors: fault.NotFound, fault.Conflict (email_taken), fault.Unavailable.
type Accounts interface {
	// CreateAccount stores a new account; the first of an installation becomes administrator (AUTH-5). It returns what was stored.
	CreateAccount(ctx context.Context, a Account) (Account, error)
	Account(ctx context.Context, id ID) (Account, error)
	AccountByEmail(ctx context.Context, email string) (Account, error)
	PutAccount(ctx context.Context, a Account) error
}

// PlatformKeys stores hashes of API keys. Errors: fault.NotFound, fault.Unavailable.
type PlatformKeys interface {
	PutPlatformKey(ctx context.Context, k PlatformKey) error
	PlatformKeyByHash(ctx context.Context, hash string) (PlatformKey, error)
	ListPlatformKeys(ctx context.Context, a ID) ([]PlatformKey, error) // newest first
	DeletePlatformKey(ctx context.Context, a ID, id string) error
}

// ProviderKeys stores sealed model-provider keys. Errors: fault.NotFound, fault.Unavailable.
type ProviderKeys interface {
	PutProviderKey(ctx context.Context, k ProviderKey) error
	ListProviderKeys(ctx context.Context, a ID) ([]ProviderKey, error) // newest first
	DeleteProviderKey(ctx context.Context, a ID, id string) error
}

// Place is a place among an account's agents, taken before the agent itself is written (IDEM-3).
type Place struct {
	Account ID
	Agent   string
	Limit   int    // 0: unlimited
	Key     string // idempotency key with its scope, hashed; "" for none
	Hash    string // of the body
}

// Taken is the outcome: a new place, or what an earlier call with the same key did.
type Taken struct {
	Agent    string // the id that was reserved first
	Replayed bool
	Result   []byte // the stored response
}

// Entry is one agent of an account with what lists show.
type Entry struct {
	Agent    string
	Card     []byte
	Status   string
	Messages int64
}

// Directory knows which agents an account has. Errors: fault.Forbidden agent_limit_reached, fault.Mismatch,
// fault.Conflict idempotency_in_progress, fault.Unavailable.
type Directory interface {
	TakePlace(ctx context.Context, p Place) (Taken, error)
	// KeepPlace ends the reservation after the agent was written and stores the response for repeats.
	KeepPlace(ctx context.Context, p Place, result []byte) error
	// FreePlace gives the place back: after a failed create, whose key is free again then, and with the deletion of the agent.
	FreePlace(ctx context.Context, p Place) error
	// Agents calls each for every agent of the account, newest first, until each returns false.
	Agents(ctx context.Context, a ID, each func(Entry) bool) error
	CountAgents(ctx context.Context, a ID) (int, error)
}

// Window is the state of a counter: requests seen in the present window and when it ends, Unix ms.
type Window struct {
	Count   int64
	EndMS   int64
	Refused bool
}

// Counters counts in fixed windows that start with their first event (RATE-1). Refused events do not extend the window.
type Counters interface {
	Count(ctx context.Context, key string, limit int64, windowMS int64) (Window, error)
	// Uncount takes one event back.
	Uncount(ctx context.Context, key string) error
	// Counted returns how many events the present window has seen.
	Counted(ctx context.Context, key string) (int64, error)
}

// Streams counts the open event streams of an agent or an account over all nodes (RATE-4). A stream that is not renewed in
// time has ended.
type Streams interface {
	// OpenStream takes a place, or renews it; false when limit others are open.
	OpenStream(ctx context.Context, key, id string, limit int, ttlMS int64) (bool, error)
	CloseStream(ctx context.Context, key, id string) error
}

// LimitReached refuses one agent too many (TEN-3).
func LimitReached() error {
	return fault.New(fault.Forbidden, "agent_limit_reached", "agent limit reached")
}

// InProgress refuses a repeat of a create that still runs (IDEM-4).
func InProgress() error {
	return fault.New(fault.Conflict, "idempotency_in_progress", "A request with this Idempotency-Key is still running").After(time.Second)
}
