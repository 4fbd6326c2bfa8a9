package agent

import "context"

// Member is one node of the control plane as the others see it. Its ID is new with every process start (FENCE-1).
type Member struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`    // of the node, for people
	Address   string   `json:"address"` // host:port of actor traffic
	URL       string   `json:"url"`     // base URL that runners use
	Kinds     []string `json:"kinds"`
	Version   string   `json:"version"`
	StartedMS int64    `json:"started_ms"`
	Draining  bool     `json:"draining,omitempty"`
}

// Topology is the set of members that hold a lease. Version grows with every change.
type Topology struct {
	Version int64
	Members []Member
}

// Standing is a member's lease and what it holds.
type Standing struct {
	LeaseMS int64 // end of the lease
	Grains  map[string]int
}

// Leases keeps the membership in the store, in the store's time.
type Leases interface {
	// Lease starts or renews the member's lease and returns the live members. The first call joins. A member whose lease
	// was lost is refused as fault.Fenced and can never come back under the same id.
	// Grains is how many activations of each kind the member has; changing them is no change of the topology.
	Lease(ctx context.Context, m Member, join bool, ttlMS int64, grains map[string]int) (Topology, error)
	Leave(ctx context.Context, id string) error
	// Census returns what members said when they renewed their leases last, by id.
	Census(ctx context.Context) (map[string]Standing, error)
	// WatchMembers calls notify, which must not block, when the topology may have changed.
	WatchMembers(notify func()) (cancel func())
}

// Claim says who may act for an identity. The zero claim means nobody does.
type Claim struct {
	Member  string
	Address string
	PID     string
	Epoch   int64
}

// Wanted is an identity to be claimed and the prefix of its PID.
type Wanted struct{ Identity, PID string }

// Claimed is what became of it: the claim that holds now, and whether it is the one asked for.
type Claimed struct {
	Claim Claim
	Mine  bool
	Err   error
}

// Claims places grains. Liveness of the former owner is judged by the caller; the claim is a compare-and-set (FENCE-1).
type Claims interface {
	Owner(ctx context.Context, kind, identity string) (Claim, error)
	// Claim replaces former by next with epoch + 1 and a PID of prefix + "$" + epoch. If the claim is held and is not former, it returns the
	// present one and false; one that nobody holds is free for all.
	Claim(ctx context.Context, kind, identity string, former, next Claim) (Claim, bool, error)
	// ClaimFree is Claim of many identities at once, of which it gets those that nobody holds. The results are in the order of wanted.
	ClaimFree(ctx context.Context, kind string, wanted []Wanted, member, address string) []Claimed
	// Release gives the identity up if the fence is still the newest. The epoch is kept.
	Release(ctx context.Context, kind, identity string, f Fence) error
}
