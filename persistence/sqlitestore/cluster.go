package sqlitestore

import (
	"context"
	"encoding/json"
	"strconv"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Lease implements agent.Leases. One process owns the store, so the members are those of this process.
func (s *Store) Lease(ctx context.Context, m agent.Member, join bool, ttlMS int64, grains map[string]int) (out agent.Topology, err error) {
	changed := join
	err = s.write(ctx, func(t *tx) error {
		if join {
			t.exec(`INSERT OR REPLACE INTO member VALUES (?,?,?,?)`, m.ID, now()+ttlMS, agent.Encode(m), agent.Encode(grains))
			t.exec(`INSERT INTO meta VALUES ('topology',1) ON CONFLICT DO UPDATE SET value=value+1`)
		} else if t.exec(`UPDATE member SET expires=?, record=?, grains=? WHERE id=?`, now()+ttlMS, agent.Encode(m), agent.Encode(grains), m.ID) == 0 && t.err == nil {
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

// Census implements agent.Leases.
func (s *Store) Census(ctx context.Context) (map[string]agent.Standing, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT id, expires, grains FROM member`)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	out := map[string]agent.Standing{}
	for rows.Next() {
		var id string
		var st agent.Standing
		var grains []byte
		if err := rows.Scan(&id, &st.LeaseMS, &grains); err != nil {
			return nil, fault.Store(err)
		}
		_ = json.Unmarshal(grains, &st.Grains) // written by Lease
		out[id] = st
	}
	return out, storeErr(rows.Err())
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
		out, won = t.claim(kind, identity, former, next)
		return nil
	})
	return out, won, err
}

// ClaimFree implements agent.Claims: one transaction.
func (s *Store) ClaimFree(ctx context.Context, kind string, wanted []agent.Wanted, member, address string) []agent.Claimed {
	out := make([]agent.Claimed, len(wanted))
	err := s.write(ctx, func(t *tx) error {
		for i, w := range wanted {
			out[i].Claim, out[i].Mine = t.claim(kind, w.Identity, agent.Claim{}, agent.Claim{Member: member, Address: address, PID: w.PID})
		}
		return nil
	})
	if err != nil {
		for i := range out {
			out[i] = agent.Claimed{Err: err}
		}
	}
	return out
}

func (t *tx) claim(kind, identity string, former, next agent.Claim) (out agent.Claim, won bool) {
	t.row(`SELECT member, addr, pid, epoch FROM grain WHERE kind=? AND identity=?`, args(kind, identity), &out.Member, &out.Address, &out.PID, &out.Epoch)
	if out.Member != "" && (out.Member != former.Member || out.Epoch != former.Epoch) {
		return out, false
	}
	out = agent.Claim{Member: next.Member, Address: next.Address, Epoch: out.Epoch + 1}
	out.PID = next.PID + "$" + strconv.FormatInt(out.Epoch, 10)
	t.exec(`INSERT OR REPLACE INTO grain VALUES (?,?,?,?,?,?)`, kind, identity, out.Member, out.Address, out.PID, out.Epoch)
	return out, true
}

// Release implements agent.Claims.
func (s *Store) Release(ctx context.Context, kind, identity string, f agent.Fence) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE grain SET member='', addr='', pid='' WHERE kind=? AND identity=? AND member=? AND epoch=?`, kind, identity, f.Member, f.Epoch)
		return nil
	})
}

// Shards implements agent.Clock: one process needs no more than one.
func (*Store) Shards() int { return 1 }

// Sweep implements agent.Clock. Most sweeps find nothing, and then write nothing.
func (s *Store) Sweep(ctx context.Context, shard int, f agent.Fence, limit int) ([]agent.Alarm, int64, error) {
	var due bool
	if err := s.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM alarm WHERE kind='d' AND at<=?) OR EXISTS (SELECT 1 FROM alarm WHERE kind='p' AND at<=?)`,
		now(), now()-5000).Scan(&due); err != nil {
		return nil, 0, fault.Store(err)
	}
	var out []agent.Alarm
	err := s.owned(ctx, shard, f, due, func(t *tx) {
		out = nil
		for _, id := range t.column(`SELECT agent FROM alarm WHERE kind='d' AND at<=? ORDER BY at LIMIT ?`, now(), limit) {
			a := agent.Alarm{ID: agent.ID(id)}
			t.row(`SELECT at FROM alarm WHERE kind='d' AND agent=?`, args(id), &a.Stamp)
			t.exec(`UPDATE alarm SET at=? WHERE kind='d' AND agent=?`, now()+2000, id)
			out = append(out, a)
		}
		for _, id := range t.column(`SELECT agent FROM alarm WHERE kind='p' AND at<=? ORDER BY at LIMIT ?`, now()-5000, limit) {
			a := agent.Alarm{ID: agent.ID(id), Pending: true, Stamp: now()} // comes again when it is old again
			t.exec(`UPDATE alarm SET at=? WHERE kind='p' AND agent=?`, a.Stamp, id)
			out = append(out, a)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	next := int64(-1)
	if err := s.r.QueryRowContext(ctx, `SELECT coalesce(max(min(at)-?, 0), -1) FROM alarm WHERE kind='d'`, now()).Scan(&next); err != nil {
		return nil, 0, fault.Store(err)
	}
	return out, next, nil
}

// owned checks the claim of a shard and, if write is set, runs do in the same step.
func (s *Store) owned(ctx context.Context, shard int, f agent.Fence, write bool, do func(t *tx)) error {
	identity := strconv.Itoa(shard)
	lost := fault.Lost("clock shard " + identity)
	if !write {
		c, err := s.Owner(ctx, agent.KindClock, identity)
		if err == nil && (c.Member != f.Member || c.Epoch != f.Epoch) {
			err = lost
		}
		return err
	}
	return s.write(ctx, func(t *tx) error {
		var member string
		var epoch int64
		t.row(`SELECT member, epoch FROM grain WHERE kind=? AND identity=?`, args(agent.KindClock, identity), &member, &epoch)
		if member != f.Member || epoch != f.Epoch {
			return lost
		}
		do(t)
		return nil
	})
}

// Clear implements agent.Clock.
func (s *Store) Clear(ctx context.Context, shard int, f agent.Fence, alarms []agent.Alarm) error {
	return s.owned(ctx, shard, f, true, func(t *tx) {
		for _, a := range alarms {
			kind := "d"
			if a.Pending {
				kind = "p"
			}
			t.exec(`DELETE FROM alarm WHERE kind=? AND agent=? AND at=?`, kind, string(a.ID), a.Stamp)
		}
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
