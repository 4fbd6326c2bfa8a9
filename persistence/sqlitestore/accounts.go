package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

func notFound(what string) error { return fault.New(fault.NotFound, "not_found", what+" not found") }

// CreateAccount implements account.Accounts.
func (s *Store) CreateAccount(ctx context.Context, a account.Account) (account.Account, error) {
	err := s.write(ctx, func(t *tx) error {
		var n int
		t.row(`SELECT count(*) FROM account`, nil, &n)
		a.Admin = a.Admin || n == 0
		var taken string
		if t.row(`SELECT id FROM account WHERE email=?`, args(a.Email), &taken) {
			return fault.New(fault.Conflict, "email_taken", "An account with this e-mail exists")
		}
		t.exec(`INSERT INTO account VALUES (?,?,?)`, string(a.ID), a.Email, agent.Encode(a))
		return nil
	})
	return a, err
}

func one[T any](ctx context.Context, s *Store, what, query string, args ...any) (out T, err error) {
	var b []byte
	err = s.r.QueryRowContext(ctx, query, args...).Scan(&b)
	if err == sql.ErrNoRows {
		return out, notFound(what)
	}
	if err != nil {
		return out, fault.Store(err)
	}
	return out, json.Unmarshal(b, &out)
}

func many[T any](ctx context.Context, s *Store, query string, args ...any) ([]T, error) {
	rows, err := s.r.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var b []byte
		var v T
		if err := rows.Scan(&b); err != nil {
			return nil, fault.Store(err)
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, storeErr(rows.Err())
}

// Account implements account.Accounts.
func (s *Store) Account(ctx context.Context, id account.ID) (account.Account, error) {
	return one[account.Account](ctx, s, "Account", `SELECT doc FROM account WHERE id=?`, string(id))
}

// AccountByEmail implements account.Accounts.
func (s *Store) AccountByEmail(ctx context.Context, email string) (account.Account, error) {
	return one[account.Account](ctx, s, "Account", `SELECT doc FROM account WHERE email=?`, email)
}

// PutAccount implements account.Accounts.
func (s *Store) PutAccount(ctx context.Context, a account.Account) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE account SET doc=? WHERE id=?`, agent.Encode(a), string(a.ID))
		return nil
	})
}

// PutPlatformKey implements account.PlatformKeys.
func (s *Store) PutPlatformKey(ctx context.Context, k account.PlatformKey) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`INSERT OR REPLACE INTO platform_key VALUES (?,?,?,?)`, string(k.Account), k.ID, k.Hash, agent.Encode(k))
		return nil
	})
}

// PlatformKeyByHash implements account.PlatformKeys.
func (s *Store) PlatformKeyByHash(ctx context.Context, hash string) (account.PlatformKey, error) {
	return one[account.PlatformKey](ctx, s, "Key", `SELECT doc FROM platform_key WHERE hash=?`, hash)
}

// ListPlatformKeys implements account.PlatformKeys.
func (s *Store) ListPlatformKeys(ctx context.Context, a account.ID) ([]account.PlatformKey, error) {
	return many[account.PlatformKey](ctx, s, `SELECT doc FROM platform_key WHERE account=? ORDER BY id DESC`, string(a))
}

// DeletePlatformKey implements account.PlatformKeys.
func (s *Store) DeletePlatformKey(ctx context.Context, a account.ID, id string) error {
	return s.remove(ctx, `DELETE FROM platform_key WHERE account=? AND id=?`, a, id)
}

func (s *Store) remove(ctx context.Context, query string, a account.ID, id string) error {
	return s.write(ctx, func(t *tx) error {
		if t.exec(query, string(a), id) == 0 && t.err == nil {
			return notFound("Key")
		}
		return nil
	})
}

// PutProviderKey implements account.ProviderKeys.
func (s *Store) PutProviderKey(ctx context.Context, k account.ProviderKey) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`INSERT OR REPLACE INTO provider_key VALUES (?,?,?)`, string(k.Account), k.ID, agent.Encode(k))
		return nil
	})
}

// ListProviderKeys implements account.ProviderKeys.
func (s *Store) ListProviderKeys(ctx context.Context, a account.ID) ([]account.ProviderKey, error) {
	return many[account.ProviderKey](ctx, s, `SELECT doc FROM provider_key WHERE account=? ORDER BY id DESC`, string(a))
}

// DeleteProviderKey implements account.ProviderKeys.
func (s *Store) DeleteProviderKey(ctx context.Context, a account.ID, id string) error {
	return s.remove(ctx, `DELETE FROM provider_key WHERE account=? AND id=?`, a, id)
}

// TakePlace implements account.Directory.
func (s *Store) TakePlace(ctx context.Context, p account.Place) (out account.Taken, err error) {
	err = s.write(ctx, func(t *tx) error {
		out = account.Taken{Agent: p.Agent}
		owner := "acct/" + string(p.Account)
		var hash string
		var result []byte
		var held int64
		if p.Key != "" && t.row(`SELECT hash, ref, result, held FROM idem WHERE owner=? AND key=? AND expires>?`, args(owner, p.Key, now()), &hash, &out.Agent, &result, &held) {
			switch {
			case hash != p.Hash:
				return reused()
			case result != nil:
				out.Replayed, out.Result = true, result
				return nil
			case held > now():
				return account.InProgress()
			}
			t.exec(`UPDATE idem SET held=? WHERE owner=? AND key=?`, now()+60000, owner, p.Key)
			t.exec(`INSERT OR IGNORE INTO place VALUES (?,?,?)`, string(p.Account), out.Agent, now())
			return nil
		}
		var n int
		t.row(`SELECT count(*) FROM place WHERE account=?`, args(string(p.Account)), &n)
		if p.Limit > 0 && n >= p.Limit {
			return account.LimitReached()
		}
		t.exec(`INSERT OR IGNORE INTO place VALUES (?,?,?)`, string(p.Account), p.Agent, now())
		if p.Key != "" {
			t.exec(`INSERT OR REPLACE INTO idem VALUES (?,?,?,?,NULL,?,?)`, owner, p.Key, p.Hash, p.Agent, now()+60000, now()+idemTTL)
		}
		return nil
	})
	return out, err
}

// KeepPlace implements account.Directory.
func (s *Store) KeepPlace(ctx context.Context, p account.Place, result []byte) error {
	if p.Key == "" {
		return nil
	}
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE idem SET result=?, expires=? WHERE owner=? AND key=?`, result, now()+idemTTL, "acct/"+string(p.Account), p.Key)
		return nil
	})
}

// FreePlace implements account.Directory.
func (s *Store) FreePlace(ctx context.Context, p account.Place) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`DELETE FROM place WHERE account=? AND agent=?`, string(p.Account), p.Agent)
		if p.Key != "" {
			t.exec(`DELETE FROM idem WHERE owner=? AND key=? AND result IS NULL`, "acct/"+string(p.Account), p.Key)
		}
		return nil
	})
}

// CountAgents implements account.Directory.
func (s *Store) CountAgents(ctx context.Context, a account.ID) (n int, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT count(*) FROM place WHERE account=?`, string(a)).Scan(&n)
	return n, storeErr(err)
}

// Agents implements account.Directory.
func (s *Store) Agents(ctx context.Context, a account.ID, each func(account.Entry) bool) error {
	rows, err := s.r.QueryContext(ctx, `SELECT a.id, a.card, a.status, a.mcount FROM place p JOIN agent a ON a.id=p.agent
		WHERE p.account=? AND a.deleted='' ORDER BY p.at DESC, p.agent DESC`, string(a))
	if err != nil {
		return fault.Store(err)
	}
	defer rows.Close()
	for rows.Next() {
		var e account.Entry
		if err := rows.Scan(&e.Agent, &e.Card, &e.Status, &e.Messages); err != nil {
			return fault.Store(err)
		}
		if !each(e) {
			return nil
		}
	}
	return storeErr(rows.Err())
}

// Count implements account.Counters.
func (s *Store) Count(ctx context.Context, key string, limit, windowMS int64) (w account.Window, err error) {
	err = s.write(ctx, func(t *tx) error {
		w = account.Window{}
		t.row(`SELECT n, ends FROM counter WHERE key=? AND ends>?`, args(key, now()), &w.Count, &w.EndMS)
		if w.EndMS == 0 {
			w.EndMS = now() + windowMS
		}
		if w.Count >= limit {
			w.Refused = true
			return nil
		}
		w.Count++
		t.exec(`INSERT OR REPLACE INTO counter VALUES (?,?,?)`, key, w.Count, w.EndMS)
		return nil
	})
	return w, err
}

// Uncount implements account.Counters.
func (s *Store) Uncount(ctx context.Context, key string) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE counter SET n=n-1 WHERE key=? AND n>0`, key)
		return nil
	})
}

// Counted implements account.Counters.
func (s *Store) Counted(ctx context.Context, key string) (n int64, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT n FROM counter WHERE key=? AND ends>?`, key, now()).Scan(&n)
	return n, storeErr(err)
}
