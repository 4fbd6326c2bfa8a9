package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

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
		t.exec(`INSERT INTO agent (id, account, version, created, last, balance, status, card, eseq) VALUES (?,?,1,?,?,?,'active',?,1)`,
			id, string(c.Spec.Account), at, at, c.Balance, string(c.Spec.MakeCard()))
		t.exec(`INSERT INTO snapshot VALUES (?,?,?)`, id, agent.Encode(&c.Spec), agent.Encode(&c.State))
		if c.Files != nil {
			t.exec(`INSERT INTO record VALUES (?,?,'initial','',0,?)`, id, agent.RecordFiles, c.Files)
		}
		t.event(id, 1, at, "agent.status", []byte(`{"status":"active","previous":"active","reason":null}`))
		t.arm(id, c.Due)
		return nil
	})
	return at, err
}

// dropEvery is how often events that are no longer retained (EVT-4) are dropped.
const dropEvery = 64

// event appends to the agent's event log. The caller keeps eseq.
func (t *tx) event(id string, seq, at int64, typ string, data []byte) {
	t.exec(`INSERT INTO event VALUES (?,?,?,?,?)`, id, seq, at, typ, data)
	if seq%dropEvery == 0 {
		t.exec(`DELETE FROM event WHERE agent=? AND seq<=?`, id, seq-agent.MaxEvents)
	}
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
	if err = s.write(ctx, func(t *tx) error { return t.accept(a, &out) }); err == nil {
		s.hub.notify("a:" + string(a.Agent))
	}
	return out, err
}

func (t *tx) accept(a *agent.Acceptance, out *agent.Accepted) error {
	*out = agent.Accepted{}
	id := string(a.Agent)
	var acct, status, reason, deleted string
	var last, mseq, eseq int64
	var waiting int
	if !t.row(`SELECT account, status, reason, deleted, last, mseq, eseq, waiting FROM agent WHERE id=?`, args(id), &acct, &status, &reason, &deleted, &last, &mseq, &eseq, &waiting) ||
		deleted != "" || a.Account != "" && acct != string(a.Account) {
		return agent.Gone()
	}
	out.Status, out.ID = agent.Status(status), a.ID
	var hash, ref string
	if a.Idem != nil && t.row(`SELECT hash, ref FROM idem WHERE owner=? AND key=? AND expires>?`, args(id, a.Idem.Key, now()), &hash, &ref) {
		if hash != a.Idem.Hash {
			return reused()
		}
		out.ID = agent.MessageID(ref)
		t.replay(id, out)
		return nil
	}
	if err := out.Status.Accepts(reason, a.Body.IsTask()); err != nil {
		if t.replay(id, out) { // what was accepted before stays accepted
			return nil
		}
		return err
	}
	if waiting >= a.Limit {
		if t.replay(id, out) {
			return nil
		}
		return agent.QueueFull(a.Limit)
	}
	out.Seq, out.CreatedMS = mseq+1, max(now(), last)
	if t.exec(`INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`, id, out.Seq, string(a.ID), out.CreatedMS, a.Body.Counterparty, a.Body.Counterparty == acct, waitsAt(a.Body.Rank()), agent.Encode(&a.Body), pendingMark) == 0 {
		t.replay(id, out)
		return nil
	}
	t.exec(`UPDATE agent SET mseq=?1, mcount=mcount+1, last=?2, eseq=eseq+1, waiting=waiting+1, qmin=iif(waiting=0, ?1, qmin), intr=iif(?3, ?1, intr) WHERE id=?4`,
		out.Seq, out.CreatedMS, a.Body.QueueMode == "interrupt", id)
	t.talk(id, a.Body.Counterparty, out.CreatedMS, 1, a.Body.Channel)
	t.event(id, eseq+1, out.CreatedMS, "message.pending", []byte(`{"message_id":"`+a.ID.String()+`","role":"user","channel":"`+string(a.Body.Channel)+`"}`))
	if a.Idem != nil {
		t.exec(`INSERT OR REPLACE INTO idem VALUES (?,?,?,?,NULL,0,?)`, id, a.Idem.Key, a.Idem.Hash, string(a.ID), now()+idemTTL)
	}
	if a.Trigger != "" {
		t.exec(`INSERT INTO fired VALUES (?,?,1,?) ON CONFLICT DO UPDATE SET n=n+1, at=excluded.at`, id, a.Trigger, out.CreatedMS)
	}
	t.stamp(id)
	return nil
}

// stampShare is how long one pending stamp serves: acceptances this soon after it go without one of their own. The sweep takes
// stamps older than five seconds.
const stampShare, maxStamps = 2000, 50000

// stamp puts the agent into the pending set, so that the sweep finds it if the hint is lost.
func (t *tx) stamp(id string) {
	at := now()
	if at-t.stamps[id] < stampShare {
		return
	}
	if t.fresh == nil {
		t.fresh = map[string]int64{}
	}
	if _, done := t.fresh[id]; !done {
		t.fresh[id] = at // known to others once this transaction is durable
		t.exec(`INSERT INTO alarm VALUES ('p',?,?) ON CONFLICT DO UPDATE SET at=excluded.at`, id, at)
	}
}

var pendingMark = agent.Encode(agent.Mark{Status: agent.Pending})

// replay answers with the message that was accepted before under the same id, if there is one.
func (t *tx) replay(id string, out *agent.Accepted) bool {
	out.Replayed = t.row(`SELECT seq, created FROM message WHERE agent=? AND id=?`, args(id, string(out.ID)), &out.Seq, &out.CreatedMS)
	return out.Replayed
}

// Commit implements agent.Snapshots.
func (s *Store) Commit(ctx context.Context, c *agent.Commit) (out agent.Committed, err error) {
	if err = s.write(ctx, func(t *tx) error { return t.commitAgent(c, &out) }); err != nil {
		return agent.Committed{}, err
	}
	s.hub.notify("a:" + string(c.Agent))
	return out, nil
}

// head is what a commit reads of an agent's row, moves along, and writes back in one statement.
type head struct {
	account                                 string
	mseq, eseq, cseq, mcount, waiting, qmin int64
	names                                   []string // of the columns that change, with their values
	values                                  []any
}

func (h *head) set(column string, v any) {
	h.names, h.values = append(h.names, column+"=?"), append(h.values, v)
}

func (t *tx) commitAgent(c *agent.Commit, out *agent.Committed) error {
	*out = agent.Committed{}
	id := string(c.Agent)
	h := &head{}
	if err := t.check(c, h, out); err != nil || out.Done != nil {
		return err
	}
	out.Version = c.Version + 1
	for _, f := range headFields { // in a fixed order: the statement is prepared once
		if v, ok := c.Head[f]; ok {
			h.set(f, headValue(f, v))
		}
	}
	if c.Balance != nil {
		h.set("balance", out.Balance)
	}
	if c.Attach > 0 {
		out.RunnerEpoch++
		for _, f := range []string{"ratt", "rbeat"} {
			h.set(f, out.NowMS)
		}
		h.set("repoch", out.RunnerEpoch)
		h.set("rlease", out.NowMS+c.Attach)
		h.set("rsub", 0)
	}
	t.messages(c, h, out)
	t.commands(c, h)
	for _, r := range c.Records {
		if r.Body == nil {
			t.exec(`DELETE FROM record WHERE agent=? AND kind=? AND id=? AND grp=?`, id, r.Kind, r.ID, r.Group)
		} else {
			t.exec(`INSERT OR REPLACE INTO record VALUES (?,?,?,?,?,?)`, id, r.Kind, r.ID, r.Group, r.Score, r.Body)
		}
	}
	if c.Balance != nil && out.Balance != out.Previous {
		h.eseq++
		t.event(id, h.eseq, out.NowMS, "balance.changed", fmt.Appendf(nil, `{"balance":%d,"previous":%d,"cause":%q}`, out.Balance, out.Previous, c.Balance.Cause()))
	}
	for _, e := range c.Events {
		h.eseq++
		t.event(id, h.eseq, out.NowMS, e.Type, e.Data)
	}
	if c.Idem != nil {
		result := c.Idem.Result
		if len(result) == 0 { // a balance command's result is known only here
			result = fmt.Appendf(nil, `{"previous":%d,"balance":%d}`, out.Previous, out.Balance)
		}
		t.exec(`INSERT OR REPLACE INTO idem VALUES (?,?,?,'',?,0,?)`, id, c.Idem.Key, c.Idem.Hash, result, now()+idemTTL)
	}
	if out.Rearmed = c.Rearm; c.Rearm {
		t.exec(`DELETE FROM alarm WHERE kind='d' AND agent=?`, id)
	}
	t.arm(id, c.Due)
	for f, v := range map[string][]byte{"spec": c.Spec, "state": c.State} {
		if v != nil {
			t.exec(`UPDATE snapshot SET `+f+`=? WHERE agent=?`, v, id)
		}
	}
	columns := append(h.names, "version=?", "last=?", "mseq=?", "eseq=?", "cseq=?", "mcount=?", "waiting=?", "qmin=?")
	t.exec(`UPDATE agent SET `+strings.Join(columns, ", ")+` WHERE id=?`,
		append(h.values, out.Version, out.NowMS, h.mseq, h.eseq, h.cseq, h.mcount, h.waiting, h.qmin, id)...)
	return nil
}

// check holds everything that may refuse a commit; it comes before the first write.
func (t *tx) check(c *agent.Commit, h *head, out *agent.Committed) error {
	id := string(c.Agent)
	var member string
	var epoch, version, inc, last int64
	t.row(`SELECT member, epoch FROM grain WHERE kind='agent' AND identity=?`, args(id), &member, &epoch)
	if member != c.Fence.Member || epoch != c.Fence.Epoch {
		return fault.Lost("agent " + id)
	}
	if !t.row(`SELECT version, inc, repoch, balance, last, mseq, eseq, cseq, mcount, waiting, qmin, account FROM agent WHERE id=?`, args(id), &version, &inc, &out.RunnerEpoch,
		&out.Previous, &last, &h.mseq, &h.eseq, &h.cseq, &h.mcount, &h.waiting, &h.qmin, &h.account) {
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

// headFields are the columns of agent that commits name, in the order in which they are written.
var headFields = []string{agent.HeadStatus, agent.HeadReason, agent.HeadCard, agent.HeadTurn, agent.HeadLastTurn, agent.HeadTurnEnd, agent.HeadSession, agent.HeadCompaction, agent.HeadContext,
	agent.HeadIncarnation, agent.HeadLease, agent.HeadRunner, agent.HeadExecution, agent.HeadDeleted}

func headValue(f, v string) any {
	switch f {
	case agent.HeadTurnEnd, agent.HeadIncarnation, agent.HeadLease, agent.HeadContext:
		if v == "" {
			return 0
		}
	}
	return v
}

// waitsAt is the column pending of a message that waits: 1 for the ordinary place, else one that grows with the rank (QUE-6).
// 0 is not waiting.
func waitsAt(rank int) int {
	if rank == 0 {
		return 1
	}
	return rankOffset + rank
}

const rankOffset = 100

func (t *tx) messages(c *agent.Commit, h *head, out *agent.Committed) {
	id := string(c.Agent)
	for _, a := range c.Append {
		h.mseq++
		h.mcount++
		queued, unread := 0, 0
		if a.Queue {
			queued, unread = waitsAt(a.Body.Rank()), 1
			if h.waiting == 0 {
				h.qmin = h.mseq
			}
			h.waiting++
		}
		t.exec(`INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?)`, id, h.mseq, string(a.ID), out.NowMS, a.Body.Counterparty, a.Body.Counterparty == h.account, queued, agent.Encode(&a.Body), agent.Encode(&a.Mark))
		t.talk(id, a.Body.Counterparty, out.NowMS, unread, a.Body.Channel)
		out.Appended = append(out.Appended, agent.Appended{Seq: h.mseq, CreatedMS: out.NowMS})
	}
	for _, m := range c.Take {
		h.waiting -= t.exec(`UPDATE message SET pending=0 WHERE agent=? AND id=? AND pending>0`, id, string(m))
	}
	for m, place := range c.Requeue {
		h.waiting += t.exec(`UPDATE message SET pending=? WHERE agent=? AND id=? AND pending=0`, waitsAt(place.Rank), id, string(m))
		h.qmin = min(h.qmin, place.Seq)
	}
	if len(c.Take) > 0 && h.waiting > 0 {
		t.row(`SELECT seq FROM message WHERE agent=? AND seq>=? AND pending>0 ORDER BY seq LIMIT 1`, args(id, h.qmin), &h.qmin)
	}
	for _, m := range c.Marks {
		t.exec(`UPDATE message SET mark=? WHERE agent=? AND id=?`, agent.Encode(&m.Mark), id, string(m.ID))
		if m.Unread != 0 {
			t.exec(`UPDATE conversation SET unread=unread+? WHERE agent=? AND party=?`, m.Unread, id, m.Party)
		}
	}
}

// keptCommands is how many commands to a runner are kept.
const keptCommands = 100

func (t *tx) commands(c *agent.Commit, h *head) {
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
		case agent.ConfirmReminder:
			t.exec(`DELETE FROM command WHERE agent=? AND kind='reminder'`, id)
		case agent.ConfirmCompact:
			t.exec(`DELETE FROM command WHERE agent=? AND kind='session.compact'`, id)
		}
	}
	for _, x := range c.Commands {
		h.cseq++
		t.exec(`INSERT INTO command VALUES (?,?,?,?)`, id, h.cseq, x.Kind, x.Body)
		t.exec(`DELETE FROM command WHERE agent=? AND seq<=?`, id, h.cseq-keptCommands)
	}
}

const figureColumns = `a.account, a.status, a.balance, a.used, a.mcount, a.intr, a.inc, a.repoch, a.ratt, a.rlease, a.rbeat, a.rsub, a.rexec, a.rinfo, a.cseq,
	a.last, a.deleted, a.turn, a.version, coalesce(g.member,''), coalesce(g.epoch,0), a.waiting, a.ctx, a.ctxs
	FROM agent a LEFT JOIN grain g ON g.kind='agent' AND g.identity=a.id WHERE a.id=?`

// figures reads the head of an agent. More columns may come before the fixed ones.
func (s *Store) figures(ctx context.Context, id agent.ID, more string, into ...any) (f agent.Figures, turn string, version int64, err error) {
	var acct, status, deleted, session string
	var last int64
	dest := append(into, &acct, &status, &f.Balance, &f.Used, &f.Messages, &f.Interrupt, &f.Incarnation, &f.RunnerEpoch, &f.AttachedMS, &f.LeaseMS,
		&f.HeartbeatMS, &f.SubscribedMS, &f.Execution, &f.RunnerInfo, &f.CommandSeq, &last, &deleted, &turn, &version, &f.Member, &f.Epoch, &f.Pending, &f.Context, &session)
	err = s.r.QueryRowContext(ctx, "SELECT "+more+figureColumns, string(id)).Scan(dest...)
	if err == sql.ErrNoRows {
		return f, "", 0, agent.Gone()
	}
	f.ContextOf = agent.SessionID(session)
	f.Account, f.Status, f.Deleted = account.ID(acct), agent.Status(status), deleted != ""
	f.ClockMS, f.Version = now(), version
	f.NowMS = max(f.ClockMS, last)
	return f, turn, version, storeErr(err)
}

// Load implements agent.Snapshots.
func (s *Store) Load(ctx context.Context, id agent.ID) (agent.Snapshot, error) {
	var sn agent.Snapshot
	var err error
	sn.Figures, _, sn.Version, err = s.figures(ctx, id, "(SELECT spec FROM snapshot WHERE agent=a.id), (SELECT state FROM snapshot WHERE agent=a.id), ", &sn.Spec, &sn.State)
	return sn, err
}

// Begin implements agent.Snapshots.
func (s *Store) Begin(ctx context.Context, id agent.ID, limit int, p agent.RecordPage) (b agent.Beginning, err error) {
	b.Snapshot, err = s.Load(ctx, id)
	if err == nil && b.Figures.Pending > 0 {
		b.Queue, err = s.Queue(ctx, id, limit)
		b.Figures.Pending = max(b.Figures.Pending, int64(len(b.Queue))) // what came in between
	}
	if err == nil && p.Limit > 0 {
		b.Records, _, err = s.Recorded(ctx, id, p)
	}
	return b, err
}

// Peek implements agent.Snapshots.
func (s *Store) Peek(ctx context.Context, id agent.ID, limit int) (agent.Figures, []agent.Message, error) {
	f, _, _, err := s.figures(ctx, id, "")
	if err != nil || f.Pending == 0 {
		return f, nil, err
	}
	msgs, err := s.Queue(ctx, id, limit)
	f.Pending = max(f.Pending, int64(len(msgs))) // what came in between
	return f, msgs, err
}

// Purge implements agent.Snapshots.
func (s *Store) Purge(ctx context.Context, id agent.ID) error {
	return s.write(ctx, func(t *tx) error {
		for _, table := range []string{"message", "conversation", "event", "command", "record", "reservation", "usage", "alarm", "snapshot", "report", "fired", "route"} {
			t.exec(`DELETE FROM `+table+` WHERE agent=?`, string(id))
		}
		t.exec(`DELETE FROM idem WHERE owner=?`, string(id))
		t.exec(`DELETE FROM agent WHERE id=?`, string(id))
		return nil
	})
}
