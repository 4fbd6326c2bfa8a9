package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

func acct(id account.ID, what string) string { return "acct:{" + string(id) + "}:" + what }

func notFound(what string) error { return fault.New(fault.NotFound, "not_found", what+" not found") }

// CreateAccount implements account.Accounts. The document is written before the e-mail points to it, so a crash between
// the two leaves a document that nothing refers to.
func (s *Store) CreateAccount(ctx context.Context, a account.Account) (account.Account, error) {
	first, err := s.putNew(ctx, "acct:first", string(a.ID))
	if err != nil {
		return a, err
	}
	a.Admin = a.Admin || first
	if err := s.PutAccount(ctx, a); err != nil {
		return a, err
	}
	ok, err := s.putNew(ctx, "acct:email:{"+a.Email+"}", string(a.ID))
	if err != nil {
		return a, err
	}
	if !ok {
		_ = s.put(ctx, redis.NewIntCmd(ctx, "del", acct(a.ID, "doc"))) // nothing refers to it
		return a, fault.New(fault.Conflict, "email_taken", "An account with this e-mail exists")
	}
	return a, nil
}

// putNew sets a key that is not there yet.
func (s *Store) putNew(ctx context.Context, key, value string) (bool, error) {
	cmd := redis.NewBoolCmd(ctx, "setnx", key, value)
	err := s.put(ctx, cmd)
	return cmd.Val(), err
}

// Account implements account.Accounts.
func (s *Store) Account(ctx context.Context, id account.ID) (account.Account, error) {
	var a account.Account
	return a, s.get(ctx, acct(id, "doc"), &a, "Account")
}

func (s *Store) get(ctx context.Context, key string, into any, what string) error {
	b, err := s.rdb.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return notFound(what)
	}
	if err != nil {
		return storeErr(err)
	}
	return json.Unmarshal(b, into)
}

// AccountByEmail implements account.Accounts.
func (s *Store) AccountByEmail(ctx context.Context, email string) (account.Account, error) {
	id, err := s.rdb.Get(ctx, "acct:email:{"+email+"}").Result()
	if errors.Is(err, redis.Nil) {
		return account.Account{}, notFound("Account")
	}
	if err != nil {
		return account.Account{}, storeErr(err)
	}
	return s.Account(ctx, account.ID(id))
}

// PutAccount implements account.Accounts.
func (s *Store) PutAccount(ctx context.Context, a account.Account) error {
	return s.put(ctx, redis.NewStatusCmd(ctx, "set", acct(a.ID, "doc"), agent.Encode(a)))
}

// PutPlatformKey implements account.PlatformKeys.
func (s *Store) PutPlatformKey(ctx context.Context, k account.PlatformKey) error {
	if err := s.put(ctx, redis.NewIntCmd(ctx, "hset", acct(k.Account, "pk"), k.ID, agent.Encode(k))); err != nil {
		return err
	}
	return s.put(ctx, redis.NewStatusCmd(ctx, "set", "pk:{"+k.Hash+"}", string(k.Account)+"/"+k.ID))
}

// PlatformKeyByHash implements account.PlatformKeys. The pointer is a hint: only a key that its account still lists counts.
func (s *Store) PlatformKeyByHash(ctx context.Context, hash string) (account.PlatformKey, error) {
	var k account.PlatformKey
	ref, err := s.rdb.Get(ctx, "pk:{"+hash+"}").Result()
	if errors.Is(err, redis.Nil) {
		return k, notFound("Key")
	}
	if err != nil {
		return k, storeErr(err)
	}
	owner, id, _ := strings.Cut(ref, "/")
	return k, s.hget(ctx, acct(account.ID(owner), "pk"), id, &k)
}

func (s *Store) hget(ctx context.Context, key, field string, into any) error {
	b, err := s.rdb.HGet(ctx, key, field).Bytes()
	if errors.Is(err, redis.Nil) {
		return notFound("Key")
	}
	if err != nil {
		return storeErr(err)
	}
	return json.Unmarshal(b, into)
}

// ListPlatformKeys implements account.PlatformKeys.
func (s *Store) ListPlatformKeys(ctx context.Context, a account.ID) ([]account.PlatformKey, error) {
	return listKeys[account.PlatformKey](ctx, s, acct(a, "pk"), func(k account.PlatformKey) string { return k.ID })
}

func listKeys[T any](ctx context.Context, s *Store, key string, id func(T) string) ([]T, error) {
	rows, err := s.rdb.HVals(ctx, key).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := make([]T, 0, len(rows))
	for _, r := range rows {
		var k T
		if err := json.Unmarshal([]byte(r), &k); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(x, y T) int { return strings.Compare(id(y), id(x)) }) // UUIDv7: newest first
	return out, nil
}

// DeletePlatformKey implements account.PlatformKeys.
func (s *Store) DeletePlatformKey(ctx context.Context, a account.ID, id string) error {
	var k account.PlatformKey
	if err := s.hget(ctx, acct(a, "pk"), id, &k); err != nil {
		return err
	}
	if err := s.put(ctx, redis.NewIntCmd(ctx, "hdel", acct(a, "pk"), id)); err != nil {
		return err
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "del", "pk:{"+k.Hash+"}"))
}

// PutProviderKey implements account.ProviderKeys.
func (s *Store) PutProviderKey(ctx context.Context, k account.ProviderKey) error {
	return s.put(ctx, redis.NewIntCmd(ctx, "hset", acct(k.Account, "vk"), k.ID, agent.Encode(k)))
}

// ListProviderKeys implements account.ProviderKeys.
func (s *Store) ListProviderKeys(ctx context.Context, a account.ID) ([]account.ProviderKey, error) {
	return listKeys[account.ProviderKey](ctx, s, acct(a, "vk"), func(k account.ProviderKey) string { return k.ID })
}

// DeleteProviderKey implements account.ProviderKeys.
func (s *Store) DeleteProviderKey(ctx context.Context, a account.ID, id string) error {
	cmd := redis.NewIntCmd(ctx, "hdel", acct(a, "vk"), id)
	err := s.put(ctx, cmd)
	if err == nil && cmd.Val() == 0 {
		return notFound("Key")
	}
	return err
}

// TakePlace implements account.Directory.
func (s *Store) TakePlace(ctx context.Context, p account.Place) (account.Taken, error) {
	keys := []string{acct(p.Account, "ag"), acct(p.Account, "ag")}
	if p.Key != "" {
		keys[1] = acct(p.Account, "i:"+p.Key)
	}
	hash := ""
	if p.Key != "" {
		hash = p.Hash
	}
	res, err := s.script(ctx, len(p.Agent), placeScript, keys, []any{p.Agent, p.Limit, hash, 60000})
	if err != nil {
		return account.Taken{}, err
	}
	v := reply(res)
	switch v.str(0) {
	case "ok":
		return account.Taken{Agent: v.str(1)}, nil
	case "replay":
		return account.Taken{Agent: v.str(1), Replayed: true, Result: []byte(v.str(2))}, nil
	case "mismatch":
		return account.Taken{}, reused()
	case "busy":
		return account.Taken{}, account.InProgress()
	}
	return account.Taken{}, account.LimitReached()
}

// KeepPlace implements account.Directory.
func (s *Store) KeepPlace(ctx context.Context, p account.Place, result []byte) error {
	if p.Key == "" {
		return nil
	}
	key := acct(p.Account, "i:"+p.Key)
	if err := s.put(ctx, redis.NewIntCmd(ctx, "hset", key, "result", result)); err != nil {
		return err
	}
	return s.put(ctx, redis.NewBoolCmd(ctx, "pexpire", key, (24*time.Hour).Milliseconds()))
}

// freeScript drops the key of a create that did not succeed.
var freeScript = inline(`if redis.call('HEXISTS', KEYS[1], 'result') == 0 then return redis.call('DEL', KEYS[1]) end return 0`)

// FreePlace implements account.Directory.
func (s *Store) FreePlace(ctx context.Context, p account.Place) error {
	if p.Key != "" {
		if _, err := s.script(ctx, len(p.Key), freeScript, []string{acct(p.Account, "i:"+p.Key)}, nil); err != nil {
			return err
		}
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "zrem", acct(p.Account, "ag"), p.Agent))
}

// CountAgents implements account.Directory.
func (s *Store) CountAgents(ctx context.Context, a account.ID) (int, error) {
	n, err := s.rdb.ZCard(ctx, acct(a, "ag")).Result()
	return int(n), storeErr(err)
}

// Agents implements account.Directory. A place whose agent is not written yet, or is deleted already, is passed over.
func (s *Store) Agents(ctx context.Context, a account.ID, each func(account.Entry) bool) error {
	const chunk = 500
	for from := int64(0); ; from += chunk {
		ids, err := s.rdb.ZRevRange(ctx, acct(a, "ag"), from, from+chunk-1).Result()
		if err != nil {
			return storeErr(err)
		}
		pipe := s.rdb.Pipeline()
		heads := make([]*redis.SliceCmd, len(ids))
		for i, id := range ids {
			heads[i] = pipe.HMGet(ctx, keysOf(agent.ID(id)).head(), "card", "status", "mcount", "deleted")
		}
		if len(ids) > 0 {
			if _, err := pipe.Exec(ctx); err != nil {
				return storeErr(err)
			}
		}
		for i, id := range ids {
			v := values(heads[i].Val())
			if v.str(0) == "" || v.str(3) != "" {
				continue
			}
			if !each(account.Entry{Agent: id, Card: []byte(v.str(0)), Status: v.str(1), Messages: v.num(2)}) {
				return nil
			}
		}
		if len(ids) < chunk {
			return nil
		}
	}
}

// Count implements account.Counters.
func (s *Store) Count(ctx context.Context, key string, limit, windowMS int64) (account.Window, error) {
	res, err := s.script(ctx, len(key), countScript, []string{"n:{" + key + "}"}, []any{limit, windowMS})
	if err != nil {
		return account.Window{}, err
	}
	v := reply(res)
	return account.Window{Count: v.num(0), EndMS: time.Now().UnixMilli() + v.num(1), Refused: v.num(2) == 1}, nil
}

// uncountScript takes one off a counter that is there; the window keeps its end.
var uncountScript = inline(`if tonumber(redis.call('GET', KEYS[1]) or '0') > 0 then return redis.call('DECR', KEYS[1]) end return 0`)

// Uncount implements account.Counters.
func (s *Store) Uncount(ctx context.Context, key string) error {
	_, err := s.script(ctx, len(key), uncountScript, []string{"n:{" + key + "}"}, nil)
	return err
}

// Counted implements account.Counters.
func (s *Store) Counted(ctx context.Context, key string) (int64, error) {
	n, err := s.rdb.Get(ctx, "n:{"+key+"}").Int64()
	return n, storeErr(err)
}
