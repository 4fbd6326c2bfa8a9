package sqlitestore

import (
	"context"
	"encoding/json"
	"strconv"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Lease implements agent.Leases. One process owns the store, so the members are those of this process.
func (s *Store) Lease(ctx context.Context, m agent.Member, join bool, ttlMS int64) (out agent.Topology, err error) {
	changed := join
	err = s.write(ctx, func(t *tx) error {
		if join {
			t.exec(`INSERT OR REPLACE INTO member VALUES (?,?,?)`, m.ID, now()+ttlMS, agent.Encode(m))
			t.exec(`INSERT INTO meta VALUES ('topology',1) ON CONFLICT DO UPDATE SET value=value+1`)
		} else if t.exec(`UPDATE member SET expires=?, record=? WHERE id=?`, now()+ttlMS, agent.Encode(m), m.ID) == 0 && t.err == nil {
			return fault.Lost("member " + m.ID)
		}
		if t.exec(`DELETE FROM member WHERE expires<?`, now()) > 0 {
			t.exec(`UPDATE meta SET value=value+1 WHERE name='topology'`)
			changed = true
		}
		t.row(`SELECT value FROM meta WHERE name='topology'`, nil, &out.Version)
		var all string
		t.row(`SELECT coalesce(json_group_array(json(CAST(record AS TEXT))),'[]') FROM member`, nil, &all)
		if t.err == nil {
			return json.Unmarshal([]byte(all), &out.Members)
		}
		return nil
	})
	if err == nil && changed {
		s.hub.notify("members")
	}
	return out, err
}

// Leave implements agent.Leases.
func (s *Store) Leave(ctx context.Context, id string) error {
	err := s.write(ctx, func(t *tx) error {
		t.exec(`DELETE FROM member WHERE id=?`, id)
		t.exec(`UPDATE meta SET value=value+1 WHERE name='topology'`)
		return nil
	})
	s.hub.notify("members")
	return err
}

// WatchMembers implements agent.Leases.
func (s *Store) WatchMembers(notify func()) (cancel func()) { return s.hub.watch("members", notify) }

// Owner implements agent.Claims.
func (s *Store) Owner(ctx context.Context, kind, identity string) (c agent.Claim, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT member, addr, pid, epoch FROM grain WHERE kind=? AND identity=?`, kind, identity).Scan(&c.Member, &c.Address, &c.PID, &c.Epoch)
	return c, storeErr(err)
}

// Claim implements agent.Claims.
func (s *Store) Claim(ctx context.Context, kind, identity string, former, next agent.Claim) (out agent.Claim, won bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		out, won = agent.Claim{}, false
		t.row(`SELECT member, addr, pid, epoch FROM grain WHERE kind=? AND identity=?`, args(kind, identity), &out.Member, &out.Address, &out.PID, &out.Epoch)
		if out.Member != former.Member || out.Epoch != former.Epoch {
			return nil
		}
		won = true
		out = agent.Claim{Member: next.Member, Address: next.Address, Epoch: former.Epoch + 1}
		out.PID = next.PID + "$" + strconv.FormatInt(out.Epoch, 10)
		t.exec(`INSERT OR REPLACE INTO grain VALUES (?,?,?,?,?,?)`, kind, identity, out.Member, out.Address, out.PID, out.Epoch)
		return nil
	})
	return out, won, err
}

// Release implements agent.Claims.
func (s *Store) Release(ctx context.Context, kind, identity string, f agent.Fence) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE grain SET member='', addr='', pid='' WHERE kind=? AND identity=? AND member=? AND epoch=?`, kind, identity, f.Member, f.Epoch)
		return nil
	})
}

// Sweep implements agent.Clock.
func (s *Store) Sweep(ctx context.Context, limit int) ([]agent.Alarm, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT * FROM (SELECT agent, at, 0 FROM alarm WHERE kind='d' AND at<=? ORDER BY at LIMIT ?)
		UNION ALL SELECT * FROM (SELECT agent, at, 1 FROM alarm WHERE kind='p' AND at<=? ORDER BY at LIMIT ?)`, now(), limit, now()-5000, limit)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	var out []agent.Alarm
	for rows.Next() {
		var a agent.Alarm
		var id string
		if err := rows.Scan(&id, &a.Stamp, &a.Pending); err != nil {
			return nil, fault.Store(err)
		}
		a.ID = agent.ID(id)
		out = append(out, a)
	}
	if err := storeErr(rows.Err()); err != nil || len(out) == 0 {
		return nil, err
	}
	return out, s.write(ctx, func(t *tx) error {
		for i := range out {
			a := &out[i]
			if !a.Pending {
				t.exec(`UPDATE alarm SET at=? WHERE kind='d' AND agent=? AND at=?`, now()+10000, string(a.ID), a.Stamp)
				continue
			}
			a.Stamp = now() // comes again when it is old again
			t.exec(`UPDATE alarm SET at=max(at,?) WHERE kind='p' AND agent=?`, a.Stamp, string(a.ID))
		}
		return nil
	})
}

// Clear implements agent.Clock.
func (s *Store) Clear(ctx context.Context, alarms []agent.Alarm) error {
	return s.write(ctx, func(t *tx) error {
		for _, a := range alarms {
			kind := "d"
			if a.Pending {
				kind = "p"
			}
			t.exec(`DELETE FROM alarm WHERE kind=? AND agent=? AND at=?`, kind, string(a.ID), a.Stamp)
		}
		return nil
	})
}

// Arm implements agent.Clock.
func (s *Store) Arm(ctx context.Context, id agent.ID, dueMS int64) error {
	return s.write(ctx, func(t *tx) error {
		if dueMS == 0 {
			t.exec(`DELETE FROM alarm WHERE kind='d' AND agent=?`, string(id))
		} else {
			t.exec(`INSERT OR REPLACE INTO alarm VALUES ('d',?,?)`, string(id), dueMS)
		}
		return nil
	})
}
