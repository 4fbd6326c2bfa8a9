package sqlitestore

import (
	"context"
	"database/sql"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// retained is the condition on events of ?1 that are kept (EVT-4), given the oldest instant in ?2.
const retained = `agent=?1 AND seq>(SELECT eseq FROM agent WHERE id=?1)-10000 AND at>=?2`

func oldestEvent() int64 { return now() - agent.MaxEventAge.Milliseconds() }

// Events implements agent.EventLog.
func (s *Store) Events(ctx context.Context, id agent.ID, after agent.EventAt, limit int) ([]agent.EventRow, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT seq, at, type, data FROM event WHERE `+retained+` AND seq>?3 ORDER BY seq LIMIT ?4`, string(id), oldestEvent(), after.Seq, limit)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	var out []agent.EventRow
	for rows.Next() {
		var e agent.EventRow
		if err := rows.Scan(&e.At.Seq, &e.At.MS, &e.Type, &e.Data); err != nil {
			return nil, fault.Store(err)
		}
		out = append(out, e)
	}
	return out, storeErr(rows.Err())
}

// EventBounds implements agent.EventLog.
func (s *Store) EventBounds(ctx context.Context, id agent.ID) (oldest, newest agent.EventAt, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT last, eseq FROM agent WHERE id=? AND deleted=''`, string(id)).Scan(&newest.MS, &newest.Seq)
	if err == sql.ErrNoRows {
		return oldest, newest, agent.Gone()
	}
	if err != nil {
		return oldest, newest, fault.Store(err)
	}
	err = s.r.QueryRowContext(ctx, `SELECT at, seq FROM event WHERE `+retained+` ORDER BY seq LIMIT 1`, string(id), oldestEvent()).Scan(&oldest.MS, &oldest.Seq)
	return oldest, newest, storeErr(err)
}

// OpenStream implements account.Streams.
func (s *Store) OpenStream(ctx context.Context, key, id string, limit int, ttlMS int64) (ok bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		var others int
		t.exec(`DELETE FROM stream WHERE expires<?`, now())
		t.row(`SELECT count(*) FROM stream WHERE key=? AND id<>?`, args(key, id), &others)
		if ok = others < limit; ok {
			t.exec(`INSERT OR REPLACE INTO stream VALUES (?,?,?)`, key, id, now()+ttlMS)
		}
		return nil
	})
	return ok, err
}

// CloseStream implements account.Streams.
func (s *Store) CloseStream(ctx context.Context, key, id string) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`DELETE FROM stream WHERE key=? AND id=?`, key, id)
		return nil
	})
}

// PutRoute implements agent.Routes.
func (s *Store) PutRoute(ctx context.Context, kind, id string, to agent.ID) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`INSERT OR REPLACE INTO route VALUES (?,?,?)`, kind, id, string(to))
		return nil
	})
}

// Route implements agent.Routes.
func (s *Store) Route(ctx context.Context, kind, id string) (to agent.ID, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT agent FROM route WHERE kind=? AND id=?`, kind, id).Scan(&to)
	return to, storeErr(err)
}

// DropRoute implements agent.Routes.
func (s *Store) DropRoute(ctx context.Context, kind, id string, of agent.ID) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`DELETE FROM route WHERE kind=? AND id=? AND agent=?`, kind, id, string(of))
		return nil
	})
}

// Fired implements agent.Records.
func (s *Store) Fired(ctx context.Context, id agent.ID, triggers ...string) ([]agent.Fired, error) {
	out := make([]agent.Fired, len(triggers))
	for i, t := range triggers {
		err := s.r.QueryRowContext(ctx, `SELECT n, at FROM fired WHERE agent=? AND trigger=?`, string(id), t).Scan(&out[i].Count, &out[i].LastMS)
		if err := storeErr(err); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Report implements agent.Ledger.
func (s *Store) Report(ctx context.Context, r *agent.Report) (counted bool, balance int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		counted = false
		id := string(r.Agent)
		var inc, repoch int64
		var turn, lturn, session, deleted string
		found := t.row(`SELECT inc, repoch, turn, lturn, session, deleted, balance FROM agent WHERE id=?`, args(id), &inc, &repoch, &turn, &lturn, &session, &deleted, &balance)
		switch {
		case !found || deleted != "" || inc != r.Guard.Incarnation:
			return agent.RefusedReport("key")
		case repoch != r.Guard.Epoch:
			return agent.RefusedReport("runner")
		case r.Turn != "" && string(r.Turn) != turn && string(r.Turn) != lturn:
			return agent.RefusedReport("stale")
		}
		t.exec(`DELETE FROM report WHERE agent=? AND at<?`, id, now()-idemTTL)
		if t.exec(`INSERT INTO report VALUES (?,?,?) ON CONFLICT DO NOTHING`, id, r.ID, now()) == 0 {
			return nil
		}
		u := r.Usage
		u.Requests = 1
		if counted = r.Count; counted {
			if r.Turn != "" {
				turn = string(r.Turn)
			}
			balance = t.charge(id, charge{turn, session, u})
			return nil
		}
		t.sum(id, "reported", u)
		return nil
	})
	if err == nil && counted {
		s.hub.notify("a:" + string(r.Agent))
	}
	return counted, balance, err
}
