package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
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

// Bounds of a renewal. Refresh tokens work once, so one node renews at a time, and it does not give up with the caller: an answer
// that is thrown away may have been the only valid one.
const (
	renewWithin = within + storeWithin
	storeWithin = 5 * time.Second
	renewAgain  = 30 * time.Second // after one that failed
	patience    = 2 * time.Second  // of a caller
)

// Keeper opens what registered servers keep sealed, and renews their tokens.
type Keeper struct {
	Store account.MCPServers
	Box   Box
	Reach *Reach
	Log   *slog.Logger

	work sync.WaitGroup
}

// Close waits for renewals that are under way.
func (k *Keeper) Close() { k.work.Wait() }

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
	if cred.Resource != s.URL {
		return out, fmt.Errorf("the credentials of MCP server %s are for another address", s.ID)
	}
	if cred.Due(time.Now()) {
		cred = k.renewed(ctx, s, cred)
	}
	headers := map[string]string{}
	for name, v := range out.Headers {
		if !strings.EqualFold(name, "Authorization") {
			headers[name] = v
		}
	}
	headers["Authorization"] = "Bearer " + cred.Access
	out.Headers = headers
	return out, nil
}

// renewed sees to it that the tokens are renewed, by this node or another. It returns them, or the present ones if that takes long:
// they are good for a while, as renewing begins before their end.
func (k *Keeper) renewed(ctx context.Context, s account.MCPServer, cred Credentials) Credentials {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mine := false
	stored, err := account.ChangeMCPServer(ctx, k.Store, s.Account, s.ID, func(now *account.MCPServer) (bool, error) {
		ms := time.Now().UnixMilli()
		if mine = now.OAuth == s.OAuth && now.RenewMS <= ms; mine {
			now.RenewMS = ms + (renewWithin + renewAgain).Milliseconds()
		}
		return mine, nil
	})
	if err != nil {
		k.Log.Warn("access token of an MCP server not renewed", "server_id", s.ID, "err", err)
		return cred
	}
	done := make(chan struct{})
	if mine {
		k.work.Add(1)
		go func() { // ends within renewWithin
			defer k.work.Done()
			defer close(done)
			k.renew(context.WithoutCancel(ctx), s, cred)
		}()
	}
	for {
		if stored.OAuth != s.OAuth {
			if theirs, err := take[Credentials](k, s.ID, slotOAuth, stored.OAuth); err == nil {
				return theirs
			}
			return cred
		}
		if !mine && !cred.Expired(time.Now()) {
			return cred
		}
		select {
		case <-ctx.Done():
			return cred
		case <-done: // a renewal that failed is not waited for twice
			mine, done, cred.ExpiresMS = false, nil, math.MaxInt64
		case <-time.After(100 * time.Millisecond):
			if mine {
				continue
			}
		}
		if stored, err = k.Store.MCPServer(ctx, s.Account, s.ID); err != nil {
			return cred
		}
	}
}

// renew gets fresh tokens and stores them. The claim on the renewal keeps others from trying for a while after a failure.
func (k *Keeper) renew(ctx context.Context, s account.MCPServer, cred Credentials) {
	err := k.Reach.Renew(ctx, &cred)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		_, err = account.ChangeMCPServer(ctx, k.Store, s.Account, s.ID, func(now *account.MCPServer) (bool, error) {
			if now.OAuth != s.OAuth { // the flow was done anew meanwhile
				return false, nil
			}
			var err error
			now.RenewMS = 0
			now.OAuth, err = put(k, s.ID, slotOAuth, cred)
			return true, err
		})
	}
	if err != nil {
		k.Log.Warn("access token of an MCP server not renewed", "server_id", s.ID, "err", err)
	}
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
