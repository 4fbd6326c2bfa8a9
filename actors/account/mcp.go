package account

import (
	"context"
	"encoding/json"
	"slices"

	"troupe/actors/fault"
)

// Bounds of what an account registers. Each list of tools reads all of it.
const (
	MaxMCPServers = 200
	MaxMCPGrants  = 1000 // of one server
)

// MCPServer is a registered MCP server of an account, with the grants of the agents that may use it (§26).
type MCPServer struct {
	ID            string          `json:"id"`
	Account       ID              `json:"account"`
	Name          string          `json:"name"` // unique in the account (MCP-1)
	Description   *string         `json:"description"`
	Transport     string          `json:"transport"` // stdio or http; never changes
	Command       string          `json:"command,omitempty"`
	Args          []string        `json:"args,omitempty"`
	URL           string          `json:"url,omitempty"`
	Secrets       string          `json:"secrets,omitempty"` // env and headers, sealed JSON {"env":{},"headers":{}}
	Configuration json.RawMessage `json:"configuration,omitempty"`
	Status        MCPStatus       `json:"status"`
	Health        MCPHealth       `json:"health"`
	CheckedMS     int64           `json:"checked_ms,omitempty"`
	OAuth         string          `json:"oauth,omitempty"`    // credentials of the OAuth flow, sealed JSON (MCP-6)
	RenewMS       int64           `json:"renew_ms,omitempty"` // nobody else renews the credentials before that
	Flows         []MCPFlow       `json:"flows,omitempty"`    // that users have begun and not finished
	Grants        []MCPGrant      `json:"grants,omitempty"`
	CreatedMS     int64           `json:"created_ms"`
	UpdatedMS     int64           `json:"updated_ms"`
	Version       int64           `json:"-"` // as read; a write names it
}

// MCPStatus says whether a server is given to runners (MCP-3).
type MCPStatus string

// The states that owners choose.
const (
	MCPActive   MCPStatus = "active"
	MCPInactive MCPStatus = "inactive"
)

// MCPHealth is what the last probe found.
type MCPHealth string

// The results of probes.
const (
	MCPUnknown   MCPHealth = "unknown"
	MCPHealthy   MCPHealth = "healthy"
	MCPUnhealthy MCPHealth = "unhealthy"
)

// MCPFlow is an OAuth flow that waits for its code. Its state is known by its hash only, and works once.
type MCPFlow struct {
	State   string `json:"state"`  // hex SHA-256
	Sealed  string `json:"sealed"` // what is needed to finish it
	UntilMS int64  `json:"until_ms"`
}

// MCPGrant lets one agent use a server.
type MCPGrant struct {
	ID        string   `json:"id"`
	Agent     string   `json:"agent"`
	Tools     []string `json:"tools,omitempty"` // nil: all
	CreatedMS int64    `json:"created_ms"`
}

// Mode is the access mode as the contract names it.
func (g *MCPGrant) Mode() string {
	if g.Tools == nil {
		return "all"
	}
	return "selected"
}

// Grant returns the grant of an agent, nil for none.
func (s *MCPServer) Grant(agent string) *MCPGrant {
	i := slices.IndexFunc(s.Grants, func(g MCPGrant) bool { return g.Agent == agent })
	if i < 0 {
		return nil
	}
	return &s.Grants[i]
}

// MCPServers stores registered MCP servers. A write names the version that it was decided on, so that two of them cannot undo
// each other. Errors: fault.NotFound, fault.Conflict (name_taken, version), fault.Unavailable.
type MCPServers interface {
	// PutMCPServer stores a server; version 0 makes a new one.
	PutMCPServer(ctx context.Context, s MCPServer) error
	MCPServer(ctx context.Context, a ID, id string) (MCPServer, error)
	ListMCPServers(ctx context.Context, a ID) ([]MCPServer, error) // newest first
	DeleteMCPServer(ctx context.Context, a ID, id string, version int64) error
}

// NameTaken refuses a name that another server of the account has (MCP-1).
func NameTaken() error {
	return fault.New(fault.Conflict, "name_taken", "The account has a server of this name").At("name", "is taken")
}

// Moved refuses a write that was decided on an older version.
func Moved() error {
	return fault.New(fault.Conflict, "version", "The server was changed meanwhile")
}

// TooManyServers refuses one more than MaxMCPServers.
func TooManyServers() error {
	return fault.Newf(fault.Invalid, "limit_reached", "The account has %d MCP servers, the most there can be", MaxMCPServers)
}

// NoServer is the answer for an unknown server.
func NoServer() error { return fault.New(fault.NotFound, "not_found", "MCP server not found") }

// ChangeMCPServer reads, changes and writes a server until nobody was faster. Change returns false for nothing to write.
func ChangeMCPServer(ctx context.Context, st MCPServers, a ID, id string, change func(s *MCPServer) (bool, error)) (MCPServer, error) {
	for {
		s, err := st.MCPServer(ctx, a, id)
		if err != nil {
			return s, err
		}
		write, err := change(&s)
		if err != nil || !write {
			return s, err
		}
		if err = st.PutMCPServer(ctx, s); err == nil {
			s.Version++
			return s, nil
		}
		if fault.Of(err).Code != "version" || ctx.Err() != nil {
			return s, err
		}
	}
}

// RevokeAll takes the grants of a deleted agent away (MCP-5). It may be repeated.
func RevokeAll(ctx context.Context, st MCPServers, a ID, agent string) error {
	servers, err := st.ListMCPServers(ctx, a)
	if err != nil {
		return err
	}
	for i := range servers {
		if servers[i].Grant(agent) == nil {
			continue
		}
		_, err := ChangeMCPServer(ctx, st, a, servers[i].ID, func(s *MCPServer) (bool, error) {
			n := len(s.Grants)
			s.Grants = slices.DeleteFunc(s.Grants, func(g MCPGrant) bool { return g.Agent == agent })
			return len(s.Grants) < n, nil
		})
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}
