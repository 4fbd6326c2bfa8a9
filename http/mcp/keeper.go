package mcp

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
)

// Box seals and opens secrets.
type Box interface {
	Seal(owner, slot, value string) (string, error)
	Open(owner, slot, sealed string) (string, error)
}

// Slots of what is sealed with a server's id as its owner.
const (
	slotSecrets = "mcp_secrets"
	slotOAuth   = "mcp_oauth"
	slotFlow    = "mcp_flow"
)

// Secrets are the values that are never shown.
type Secrets struct {
	Env     map[string]string `json:"env,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// Keeper opens what registered servers keep sealed, and renews their tokens.
type Keeper struct {
	Store account.MCPServers
	Box   Box
	Reach *Reach
	Log   *slog.Logger
}

func put[T any](k *Keeper, id, slot string, v T) (string, error) {
	return k.Box.Seal(id, slot, string(agent.Encode(v)))
}

func take[T any](k *Keeper, id, slot, sealed string) (v T, err error) {
	if sealed == "" {
		return v, nil
	}
	clear, err := k.Box.Open(id, slot, sealed)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(clear), &v)
}

// SealSecrets replaces the values of a server that are given; nil leaves what is stored.
func (k *Keeper) SealSecrets(s *account.MCPServer, env, headers map[string]string) error {
	now, err := take[Secrets](k, s.ID, slotSecrets, s.Secrets)
	if err != nil {
		return err
	}
	if env != nil {
		now.Env = env
	}
	if headers != nil {
		now.Headers = headers
	}
	s.Secrets, err = put(k, s.ID, slotSecrets, now)
	return err
}

// Open returns a server's environment and headers, the latter with a current access token where there is one (MCP-6).
func (k *Keeper) Open(ctx context.Context, s account.MCPServer) (Secrets, error) {
	out, err := take[Secrets](k, s.ID, slotSecrets, s.Secrets)
	if err != nil || s.OAuth == "" {
		return out, err
	}
	cred, err := take[Credentials](k, s.ID, slotOAuth, s.OAuth)
	if err != nil {
		return out, err
	}
	if cred.Due(time.Now()) {
		cred = k.renew(ctx, s, cred)
	}
	headers := maps.Clone(out.Headers)
	if headers == nil {
		headers = map[string]string{}
	}
	headers["Authorization"] = "Bearer " + cred.Access
	out.Headers = headers
	return out, nil
}

// renew gets a fresh access token and stores it. Another node may have been faster; its tokens are as good.
func (k *Keeper) renew(ctx context.Context, s account.MCPServer, cred Credentials) Credentials {
	fresh := cred
	rerr := k.Reach.Renew(ctx, &fresh)
	stored, err := account.ChangeMCPServer(ctx, k.Store, s.Account, s.ID, func(now *account.MCPServer) (bool, error) {
		if rerr != nil || now.OAuth != s.OAuth {
			return false, nil
		}
		var err error
		now.OAuth, err = put(k, s.ID, slotOAuth, fresh)
		return true, err
	})
	if err == nil && stored.OAuth != s.OAuth {
		if theirs, terr := take[Credentials](k, s.ID, slotOAuth, stored.OAuth); terr == nil {
			return theirs
		}
	}
	if rerr != nil || err != nil {
		k.Log.Warn("access token of an MCP server could not be renewed", "server_id", s.ID, "err", rerr, "store_err", err)
	}
	if rerr == nil {
		return fresh
	}
	return cred
}

// SealFlow seals a flow that was begun.
func (k *Keeper) SealFlow(id string, f Flow) (string, error) { return put(k, id, slotFlow, f) }

// OpenFlow opens it.
func (k *Keeper) OpenFlow(id, sealed string) (Flow, error) {
	return take[Flow](k, id, slotFlow, sealed)
}

// SealCredentials seals the tokens of a finished flow.
func (k *Keeper) SealCredentials(id string, c Credentials) (string, error) {
	return put(k, id, slotOAuth, c)
}
