package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

const idemTTL = 24 * 3600 * 1000

func reused() error {
	return fault.New(fault.Mismatch, "idempotency_key_reused", "The Idempotency-Key was used before with another body")
}

// Create implements agent.Creator.
func (s *Store) Create(ctx context.Context, c *agent.Creation) (at int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		id := string(c.Spec.ID)
		if t.row(`SELECT created FROM agent WHERE id=?`, args(id), &at) {
			return nil
		}
		at = now()
		t.exec(`INSERT INTO agent (id, account, spec, state, version, created, last, balance, status, card) VALUES (?,?,?,?,1,?,?,?,'active',?)`,
			id, string(c.Spec.Account), agent.Encode(&c.Spec), agent.Encode(&c.State), at, at, c.Balance, string(c.Spec.MakeCard()))
		if c.Files != nil {
			t.exec(`INSERT INTO record VALUES (?,?,'initial',0,?)`, id, agent.RecordFiles, c.Files)
		}
		t.event(id, at, "agent.status", []byte(`{"status":"active","previous":"active","reason":null}`))
		t.arm(id, c.Due)
		return nil
	})
	return at, err
}

func (t *tx) event(id string, at int64, typ string, data []byte) {
	t.exec(`UPDATE agent SET eseq=eseq+1 WHERE id=?`, id)
	t.exec(`INSERT INTO event SELECT id, eseq, ?, ?, ? FROM agent WHERE id=?`, at, typ, data, id)
	t.exec(`DELETE FROM event WHERE agent=? AND seq <= (SELECT eseq FROM agent WHERE id=?) - 10000`, id, id)
}

// arm brings the agent's alarm forward, never back.
func (t *tx) arm(id string, due int64) {
	if due > 0 {
		t.exec(`INSERT INTO alarm VALUES ('d',?,?) ON CONFLICT DO UPDATE SET at=min(at, excluded.at)`, id, due)
	}
}

// talk counts a message for its conversation.
func (t *tx) talk(id, party string, at int64, unread int, channel agent.Channel) {
	t.exec(`INSERT INTO conversation VALUES (?,?,?,1,?,?) ON CONFLICT DO UPDATE SET last=excluded.last, total=total+1, unread=unread+excluded.unread, channel=excluded.channel`,
		id, party, at, unread, string(channel))
}

// Accept implements agent.Inbox. There is one process and one disk, so the pending stamp travels in the same transaction.
func (s *Store) Accept(ctx context.Context, a *agent.Acceptance) (out agent.Accepted, err error) {
	err = s.write(ctx, func(t *tx) error { return t.accept(a, &out) })
	return out, err
}

func (t *tx) accept(a *agent.Acceptance, out *agent.Accepted) error {
	id := string(a.Agent)
	var acct, status, reason, deleted string
	var last int64
	if !t.row(`SELECT account, status, reason, deleted, last FROM agent WHERE id=?`, args(id), &acct, &status, &reason, &deleted, &last) ||
		deleted != "" || a.Account != "" && acct != string(a.Account) {
		return agent.Gone()
	}
	out.Status = agent.Status(status)
	var hash, ref string
	if a.Idem != nil && t.row(`SELECT hash, ref FROM idem WHERE owner=? AND key=? AND expires>?`, args(id, a.Idem.Key, now()), &hash, &ref) {
		if hash != a.Idem.Hash {
			return reused()
		}
		out.ID = agent.MessageID(ref)
	} else {
		out.ID = a.ID
	}
	if t.row(`SELECT seq, created FROM message WHERE agent=? AND id=?`, args(id, string(out.ID)), &out.Seq, &out.CreatedMS) {
		out.Replayed = true
		return nil
	}
	if err := out.Status.Accepts(reason); err != nil {
		return err
	}
	var waiting int
	t.row(`SELECT count(*) FROM message WHERE agent=? AND pending=1`, args(id), &waiting)
	if waiting >= a.Limit {
		return agent.QueueFull(a.Limit)
	}
	out.CreatedMS = max(now(), last)
	t.exec(`UPDATE agent SET mseq=mseq+1, mcount=mcount+1, last=?, intr=CASE WHEN ? THEN mseq+1 ELSE intr END WHERE id=?`,
		out.CreatedMS, a.Body.QueueMode == "interrupt", id)
	t.row(`SELECT mseq FROM agent WHERE id=?`, args(id), &out.Seq)
	t.exec(`INSERT INTO message VALUES (?,?,?,?,?,1,?,?)`, id, out.Seq, string(a.ID), out.CreatedMS, a.Body.Counterparty, agent.Encode(&a.Body), agent.Encode(agent.Mark{Status: agent.Pending}))
	t.talk(id, a.Body.Counterparty, out.CreatedMS, 1, a.Body.Channel)
	t.event(id, out.CreatedMS, "message.pending", []byte(`{"message_id":"`+a.ID.String()+`","role":"user","channel":"`+string(a.Body.Channel)+`"}`))
	if a.Idem != nil {
		t.exec(`INSERT OR REPLACE INTO idem VALUES (?,?,?,?,NULL,0,?)`, id, a.Idem.Key, a.Idem.Hash, string(a.ID), now()+idemTTL)
	}
	t.exec(`INSERT INTO alarm VALUES ('p',?,?) ON CONFLICT DO UPDATE SET at=excluded.at`, id, now())
	return nil
}

// Commit implements agent.Snapshots.
func (s *Store) Commit(ctx context.Context, c *agent.Commit) (out agent.Committed, err error) {
	if err = s.write(ctx, func(t *tx) error { return t.commitAgent(c, &out) }); err != nil {
		return agent.Committed{}, err
	}
	s.hub.notify("a:" + string(c.Agent))
	return out, nil
}

func (t *tx) commitAgent(c *agent.Commit, out *agent.Committed) error {
	*out = agent.Committed{}
	id := string(c.Agent)
	if err := t.check(c, out); err != nil || out.Done != nil {
		return err
	}
	if c.Balance != nil {
		t.exec(`UPDATE agent SET balance=? WHERE id=?`, out.Balance, id)
	}
	t.exec(`UPDATE agent SET version=version+1, last=? WHERE id=?`, out.NowMS, id)
	out.Version = c.Version + 1
	for f, v := range c.Head {
		t.exec(fmt.Sprintf(`UPDATE agent SET %s=? WHERE id=?`, headColumn(f)), headValue(f, v), id)
	}
	if c.Spec != nil {
		t.exec(`UPDATE agent SET spec=? WHERE id=?`, c.Spec, id)
	}
	if c.State != nil {
		t.exec(`UPDATE agent SET state=? WHERE id=?`, c.State, id)
	}
	t.messages(c, out)
	t.commands(c)
	for _, r := range c.Records {
		if r.Body == nil {
			t.exec(`DELETE FROM record WHERE agent=? AND kind=? AND id=?`, id, r.Kind, r.ID)
		} else {
			t.exec(`INSERT OR REPLACE INTO record VALUES (?,?,?,?,?)`, id, r.Kind, r.ID, r.Score, r.Body)
		}
	}
	for _, e := range c.Events {
		t.event(id, out.NowMS, e.Type, e.Data)
	}
	if c.Idem != nil {
		result := c.Idem.Result
		if len(result) == 0 { // a balance command's result is known only here
			result = fmt.Appendf(nil, `{"previous":%d,"balance":%d}`, out.Previous, out.Balance)
		}
		t.exec(`INSERT OR REPLACE INTO idem VALUES (?,?,?,'',?,0,?)`, id, c.Idem.Key, c.Idem.Hash, result, now()+idemTTL)
	}
	if c.Attach > 0 {
		t.exec(`UPDATE agent SET repoch=repoch+1, ratt=?, rbeat=?, rlease=?, rsub=0 WHERE id=?`, out.NowMS, out.NowMS, out.NowMS+c.Attach, id)
		out.RunnerEpoch++
	}
	t.arm(id, c.Due)
	return nil
}

// check holds everything that may refuse a commit; it comes before the first write.
func (t *tx) check(c *agent.Commit, out *agent.Committed) error {
	id := string(c.Agent)
	var member string
	var epoch, version, inc, last int64
	t.row(`SELECT member, epoch FROM grain WHERE kind='agent' AND identity=?`, args(id), &member, &epoch)
	if member != c.Fence.Member || epoch != c.Fence.Epoch {
		return fault.Lost("agent " + id)
	}
	if !t.row(`SELECT version, inc, repoch, balance, last FROM agent WHERE id=?`, args(id), &version, &inc, &out.RunnerEpoch, &out.Previous, &last) {
		return agent.Gone()
	}
	if c.Idem != nil && t.row(`SELECT result FROM idem WHERE owner=? AND key=? AND expires>?`, args(id, c.Idem.Key, now()), &out.Done) {
		return nil
	}
	if version != c.Version {
		return fault.New(fault.Fenced, "store_unavailable", "The agent's state has moved on; try again")
	}
	if g := c.Guard; g != nil {
		if inc != g.Incarnation {
			return fault.New(fault.Unauthenticated, "invalid_token", "Invalid or expired token")
		}
		if g.Epoch != 0 && out.RunnerEpoch != g.Epoch {
			return fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
		}
	}
	out.Balance = out.Previous
	if b := c.Balance; b != nil {
		out.Balance = b.Amount
		if !b.Set {
			out.Balance += out.Previous
		}
		if out.Balance < 0 {
			return fault.Newf(fault.Invalid, "balance_below_zero", "The balance is %d and cannot go below zero", out.Previous).At("amount", "would bring the balance below zero")
		}
		if out.Balance > agent.MaxTokens {
			return fault.New(fault.Invalid, "validation_failed", "amount would exceed the largest balance").At("amount", "would exceed 9007199254740991")
		}
	}
	out.NowMS = max(now(), last)
	return nil
}

// headColumn guards the one place where a column is named by a variable.
func headColumn(f string) string {
	switch f {
	case agent.HeadStatus, agent.HeadReason, agent.HeadCard, agent.HeadTurn, agent.HeadLastTurn, agent.HeadTurnEnd, agent.HeadSession,
		agent.HeadIncarnation, agent.HeadLease, agent.HeadRunner, agent.HeadExecution, agent.HeadDeleted:
		return f
	}
	panic("unknown head field " + f)
}

func headValue(f, v string) any {
	switch f {
	case agent.HeadTurnEnd, agent.HeadIncarnation, agent.HeadLease:
		if v == "" {
			return 0
		}
	}
	return v
}

func (t *tx) messages(c *agent.Commit, out *agent.Committed) {
	id := string(c.Agent)
	for _, a := range c.Append {
		var seq int64
		t.exec(`UPDATE agent SET mseq=mseq+1, mcount=mcount+1 WHERE id=?`, id)
		t.row(`SELECT mseq FROM agent WHERE id=?`, args(id), &seq)
		t.exec(`INSERT INTO message VALUES (?,?,?,?,?,0,?,?)`, id, seq, string(a.ID), out.NowMS, a.Body.Counterparty, agent.Encode(&a.Body), agent.Encode(&a.Mark))
		t.talk(id, a.Body.Counterparty, out.NowMS, 0, a.Body.Channel)
		out.Appended = append(out.Appended, agent.Appended{Seq: seq, CreatedMS: out.NowMS})
	}
	for _, m := range c.Take {
		t.exec(`UPDATE message SET pending=0 WHERE agent=? AND id=?`, id, string(m))
	}
	for m := range c.Requeue {
		t.exec(`UPDATE message SET pending=1 WHERE agent=? AND id=?`, id, string(m))
	}
	for _, m := range c.Marks {
		t.exec(`UPDATE message SET mark=? WHERE agent=? AND id=?`, agent.Encode(&m.Mark), id, string(m.ID))
		if m.Unread != 0 {
			t.exec(`UPDATE conversation SET unread=unread+? WHERE agent=? AND party=?`, m.Unread, id, m.Party)
		}
	}
}

func (t *tx) commands(c *agent.Commit) {
	id := string(c.Agent)
	if c.Clear {
		t.exec(`DELETE FROM command WHERE agent=?`, id)
	}
	for _, x := range c.Confirm {
		switch x {
		case agent.ConfirmStart:
			t.exec(`DELETE FROM command WHERE agent=? AND kind='turn.start'`, id)
		case agent.ConfirmTurn:
			t.exec(`DELETE FROM command WHERE agent=? AND kind IN ('turn.start','turn.cancel','reminder')`, id)
		}
	}
	for _, x := range c.Commands {
		t.exec(`UPDATE agent SET cseq=cseq+1 WHERE id=?`, id)
		t.exec(`INSERT INTO command SELECT id, cseq, ?, ? FROM agent WHERE id=?`, x.Kind, x.Body, id)
		t.exec(`DELETE FROM command WHERE agent=? AND seq <= (SELECT cseq FROM agent WHERE id=?) - 100`, id, id)
	}
}

const figureColumns = `a.account, a.status, a.balance, a.used, a.mcount, a.intr, a.inc, a.repoch, a.ratt, a.rlease, a.rbeat, a.rsub, a.rexec, a.rinfo, a.cseq,
	a.last, a.deleted, a.turn, a.version, coalesce(g.member,''), coalesce(g.epoch,0), (SELECT count(*) FROM message m WHERE m.agent=a.id AND m.pending=1)
	FROM agent a LEFT JOIN grain g ON g.kind='agent' AND g.identity=a.id WHERE a.id=?`

// figures reads the head of an agent. More columns may come before the fixed ones.
func (s *Store) figures(ctx context.Context, id agent.ID, more string, into ...any) (f agent.Figures, turn string, version int64, err error) {
	var acct, status, deleted string
	var last int64
	dest := append(into, &acct, &status, &f.Balance, &f.Used, &f.Messages, &f.Interrupt, &f.Incarnation, &f.RunnerEpoch, &f.AttachedMS, &f.LeaseMS,
		&f.HeartbeatMS, &f.SubscribedMS, &f.Execution, &f.RunnerInfo, &f.CommandSeq, &last, &deleted, &turn, &version, &f.Member, &f.Epoch, &f.Pending)
	err = s.r.QueryRowContext(ctx, "SELECT "+more+figureColumns, string(id)).Scan(dest...)
	if err == sql.ErrNoRows {
		return f, "", 0, agent.Gone()
	}
	f.Account, f.Status, f.Deleted = account.ID(acct), agent.Status(status), deleted != ""
	f.NowMS = max(now(), last)
	return f, turn, version, storeErr(err)
}

// Load implements agent.Snapshots.
func (s *Store) Load(ctx context.Context, id agent.ID) (agent.Snapshot, error) {
	var sn agent.Snapshot
	var err error
	sn.Figures, _, sn.Version, err = s.figures(ctx, id, "a.spec, a.state, ", &sn.Spec, &sn.State)
	return sn, err
}

// Peek implements agent.Snapshots.
func (s *Store) Peek(ctx context.Context, id agent.ID, limit int) (agent.Figures, []agent.Message, error) {
	f, _, _, err := s.figures(ctx, id, "")
	if err != nil || f.Pending == 0 {
		return f, nil, err
	}
	msgs, err := s.Queue(ctx, id, limit)
	return f, msgs, err
}

// Purge implements agent.Snapshots.
func (s *Store) Purge(ctx context.Context, id agent.ID) error {
	return s.write(ctx, func(t *tx) error {
		for _, table := range []string{"message", "conversation", "event", "command", "record", "reservation", "usage", "alarm"} {
			t.exec(`DELETE FROM `+table+` WHERE agent=?`, string(id))
		}
		t.exec(`DELETE FROM idem WHERE owner=?`, string(id))
		t.exec(`DELETE FROM agent WHERE id=?`, string(id))
		return nil
	})
}
