package sqlitestore

import (
	"context"
	"fmt"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

const reservationTTL = 60000

type charge struct {
	turn, session string
	usage         agent.Usage
}

// charge takes the output tokens off the balance, never below zero; what goes beyond is the overdraft of the turn (BAL-4).
func (t *tx) charge(id string, c charge) (left int64) {
	var before, last, eseq int64
	t.row(`SELECT balance, last, eseq FROM agent WHERE id=?`, args(id), &before, &last, &eseq)
	left = before - c.usage.Output
	if left < 0 {
		t.exec(`UPDATE agent SET odu=CASE WHEN odt=? THEN odu ELSE 0 END + ?, odt=? WHERE id=?`, c.turn, -left, c.turn, id)
		left = 0
	}
	t.exec(`UPDATE agent SET balance=?, used=used+? WHERE id=?`, left, c.usage.Output, id)
	for _, scope := range []string{"t/" + c.turn, "s/" + c.session, "d/" + time.Now().UTC().Format(time.DateOnly), "all"} {
		if len(scope) > 2 {
			t.sum(id, scope, c.usage)
		}
	}
	if left != before {
		last = max(now(), last)
		t.exec(`UPDATE agent SET eseq=eseq+1, last=? WHERE id=?`, last, id)
		t.event(id, eseq+1, last, "balance.changed", fmt.Appendf(nil, `{"balance":%d,"previous":%d,"cause":"usage"}`, left, before))
	}
	return left
}

// sum adds to the sums of one scope (LLM-8).
func (t *tx) sum(id, scope string, u agent.Usage) {
	t.exec(`INSERT INTO usage VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET i=i+excluded.i, o=o+excluded.o, w=w+excluded.w, r=r+excluded.r, n=n+excluded.n`,
		id, scope, u.Input, u.Output, u.CacheWrite, u.CacheRead, u.Requests)
}

// Reserve implements agent.Ledger.
func (s *Store) Reserve(ctx context.Context, r *agent.Reservation) (out agent.Granted, err error) {
	err = s.write(ctx, func(t *tx) error { return t.reserve(r, &out) })
	return out, err
}

func (t *tx) reserve(r *agent.Reservation, out *agent.Granted) error {
	*out = agent.Granted{}
	id := string(r.Agent)
	var inc, repoch, tend, odu int64
	var turn, lturn, session, comp, deleted, odt string
	found := t.row(`SELECT inc, repoch, turn, lturn, tend, session, comp, deleted, odt, odu FROM agent WHERE id=?`, args(id), &inc, &repoch, &turn, &lturn, &tend, &session, &comp, &deleted, &odt, &odu)
	switch {
	case !found || deleted != "" || inc != r.Incarnation:
		return agent.Refused("key")
	case r.RunnerEpoch != 0 && repoch != r.RunnerEpoch:
		return agent.Refused("runner")
	}
	if turn == "" && now() <= tend+agent.AfterTurn.Milliseconds() {
		turn = lturn
	}
	if turn == "" && comp == "" {
		return agent.Refused("idle")
	}
	if r.Turn != "" && string(r.Turn) != turn {
		return agent.Refused("turn")
	}
	t.settleExpired(id)
	var open, balance int64
	t.row(`SELECT coalesce(sum(amount),0) FROM reservation WHERE agent=? AND call<>?`, args(id, r.Call), &open)
	t.row(`SELECT balance FROM agent WHERE id=?`, args(id), &balance)
	overdraft := r.Overdraft
	if odt == turn {
		overdraft = max(0, overdraft-odu)
	}
	out.Turn = agent.TurnID(turn)
	want := min(r.Want, balance+overdraft-open)
	if want <= 0 || want < r.Floor {
		if balance > 0 && open > 0 {
			return agent.Refused("busy")
		}
		return agent.Refused("empty")
	}
	t.exec(`INSERT OR REPLACE INTO reservation VALUES (?,?,?,?,0,?,?)`, id, r.Call, want, now()+reservationTTL, turn, session)
	*out = agent.Granted{Tokens: want, Turn: agent.TurnID(turn), Session: agent.SessionID(session), Balance: balance}
	return nil
}

// settleExpired charges reservations that nobody renewed in full, so a crash never opens the cap (LLM-7).
func (t *tx) settleExpired(id string) {
	for {
		var call, turn, session string
		var amount int64
		if !t.row(`SELECT call, amount, turn, session FROM reservation WHERE agent=? AND expires<? LIMIT 1`, args(id, now()), &call, &amount, &turn, &session) {
			return
		}
		t.exec(`DELETE FROM reservation WHERE agent=? AND call=?`, id, call)
		t.charge(id, charge{turn, session, agent.Usage{Output: amount, Requests: 1}})
	}
}

// Renew implements agent.Ledger.
func (s *Store) Renew(ctx context.Context, id agent.ID, call string, soFar int64) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`UPDATE reservation SET expires=?, sofar=? WHERE agent=? AND call=?`, now()+reservationTTL, soFar, string(id), call)
		return nil
	})
}

// Settle implements agent.Ledger.
func (s *Store) Settle(ctx context.Context, x *agent.Settlement) (balance int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		id := string(x.Agent)
		var turn, session string
		known := t.row(`SELECT turn, session FROM reservation WHERE agent=? AND call=?`, args(id, x.Call), &turn, &session)
		t.exec(`DELETE FROM reservation WHERE agent=? AND call=?`, id, x.Call)
		u := x.Usage
		if known && u.Input+u.Output+u.CacheWrite+u.CacheRead > 0 {
			u.Requests = 1
			if read := u.Input + u.CacheWrite + u.CacheRead; x.Loop && session != "" && read > 0 { // calls of a compaction say nothing of the session (COMP-1)
				t.exec(`UPDATE agent SET ctx=?, ctxs=? WHERE id=? AND comp=''`, read, session, id)
			}
			balance = t.charge(id, charge{turn, session, u})
			return nil
		}
		t.row(`SELECT balance FROM agent WHERE id=?`, args(id), &balance)
		return nil
	})
	s.hub.notify("a:" + string(x.Agent))
	return balance, err
}

// Beat implements agent.Beats.
func (s *Store) Beat(ctx context.Context, b *agent.Heartbeat) (agent.Figures, agent.TurnID, error) {
	err := s.write(ctx, func(t *tx) error {
		var inc, repoch, last int64
		var deleted string
		if !t.row(`SELECT inc, repoch, deleted, last FROM agent WHERE id=?`, args(string(b.Agent)), &inc, &repoch, &deleted, &last) || deleted != "" || inc != b.Guard.Incarnation {
			return agent.Refused("key")
		}
		if repoch != b.Guard.Epoch {
			return fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
		}
		at := max(now(), last) // in the agent's time, which never goes back (GEN-1)
		if b.Subscribe {
			t.exec(`UPDATE agent SET rsub=? WHERE id=?`, at, string(b.Agent))
		} else {
			t.exec(`UPDATE agent SET rbeat=?, rlease=?, rexec=? WHERE id=?`, at, at+b.LeaseMS, b.Execution, string(b.Agent))
		}
		return nil
	})
	if err != nil {
		return agent.Figures{}, "", err
	}
	f, turn, _, err := s.figures(ctx, b.Agent, "")
	return f, agent.TurnID(turn), err
}
