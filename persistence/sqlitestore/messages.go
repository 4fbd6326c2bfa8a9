package sqlitestore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

const messageColumns = `SELECT id, seq, created, body, mark FROM message `

func (s *Store) query(ctx context.Context, where string, args ...any) ([]agent.Message, error) {
	rows, err := s.r.QueryContext(ctx, messageColumns+where, args...)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	var out []agent.Message
	for rows.Next() {
		var id string
		var seq, created int64
		var body, mark []byte
		if err := rows.Scan(&id, &seq, &created, &body, &mark); err != nil {
			return nil, fault.Store(err)
		}
		m, err := agent.DecodeMessage(agent.MessageID(id), seq, created, body, mark)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, storeErr(rows.Err())
}

// Message implements agent.Messages. Errors: fault.NotFound.
func (s *Store) Message(ctx context.Context, id agent.ID, msg agent.MessageID) (agent.Message, error) {
	ms, err := s.query(ctx, `WHERE agent=? AND id=?`, string(id), string(msg))
	if err == nil && len(ms) == 0 {
		err = fault.New(fault.NotFound, "not_found", "Message not found")
	}
	if err != nil {
		return agent.Message{}, err
	}
	return ms[0], nil
}

// ByID implements agent.Messages.
func (s *Store) ByID(ctx context.Context, id agent.ID, msgs []agent.MessageID) ([]agent.Message, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	args := []any{string(id)}
	for _, m := range msgs {
		args = append(args, string(m))
	}
	out, err := s.query(ctx, `WHERE agent=? AND id IN (?`+strings.Repeat(",?", len(msgs)-1)+`)`, args...)
	at := func(m agent.Message) int { return slices.Index(msgs, m.ID) }
	slices.SortFunc(out, func(a, b agent.Message) int { return at(a) - at(b) })
	return out, err
}

// Queue implements agent.Messages.
func (s *Store) Queue(ctx context.Context, id agent.ID, limit int) ([]agent.Message, error) {
	plain, err := s.query(ctx, `WHERE agent=?1 AND seq>=(SELECT qmin FROM agent WHERE id=?1) AND pending=1 ORDER BY seq LIMIT ?2`, string(id), limit)
	if err != nil {
		return nil, err
	}
	ranked, err := s.query(ctx, `WHERE agent=? AND pending>1 ORDER BY pending DESC, seq LIMIT ?`, string(id), limit)
	if err != nil || len(ranked) == 0 {
		return plain, err
	}
	all := append(ranked, plain...)
	slices.SortFunc(all, func(a, b agent.Message) int {
		return cmp.Or(cmp.Compare(b.Rank(), a.Rank()), cmp.Compare(a.Seq, b.Seq))
	})
	return all[:min(len(all), limit)], nil
}

// List implements agent.Messages (MSG-10).
func (s *Store) List(ctx context.Context, id agent.ID, p agent.Page) ([]agent.Message, bool, error) {
	where, args, back := `WHERE agent=?`, []any{string(id)}, p.Desc
	for _, c := range []struct {
		id agent.MessageID
		op string
	}{{p.After, ">"}, {p.Before, "<"}} {
		if c.id == "" {
			continue
		}
		var seq int64
		err := s.r.QueryRowContext(ctx, `SELECT seq FROM message WHERE agent=? AND id=?`, string(id), string(c.id)).Scan(&seq)
		if err == sql.ErrNoRows {
			return nil, false, fault.New(fault.Invalid, "invalid_cursor", "The cursor is no message of this agent")
		}
		if err != nil {
			return nil, false, fault.Store(err)
		}
		where, args, back = where+` AND seq`+c.op+`?`, append(args, seq), c.op == "<"
	}
	party, err := s.partyFilter(ctx, id, p.Party)
	if err != nil {
		return nil, false, err
	}
	for _, f := range []struct{ sql, value string }{
		{party, p.Party}, {` AND json_extract(CAST(mark AS TEXT),'$.status')=?`, string(p.Status)},
		{` AND json_extract(CAST(body AS TEXT),'$.channel')=?`, string(p.Channel)}, {` AND json_extract(CAST(body AS TEXT),'$.role')=?`, string(p.Role)},
	} {
		if f.value != "" {
			where, args = where+f.sql, append(args, f.value)
		}
	}
	dir := " ORDER BY seq"
	if back {
		dir += " DESC"
	}
	out, err := s.query(ctx, where+dir+` LIMIT ?`, append(args, p.Limit+1)...)
	if err != nil {
		return nil, false, err
	}
	out, more := p.Cut(out, back)
	return out, more, nil
}

// partyFilter is the condition on one counterparty, in the words of the index that serves it.
func (s *Store) partyFilter(ctx context.Context, id agent.ID, party string) (string, error) {
	if party == "" {
		return "", nil
	}
	var owner bool
	err := s.r.QueryRowContext(ctx, `SELECT account=? FROM agent WHERE id=?`, party, string(id)).Scan(&owner)
	if owner {
		return ` AND party=? AND owner=1`, storeErr(err)
	}
	return ` AND party=? AND owner=0`, storeErr(err)
}

// Conversations implements agent.Messages (CONV-1).
func (s *Store) Conversations(ctx context.Context, id agent.ID, beforeMS int64, limit int) ([]agent.ConversationRow, bool, error) {
	if beforeMS == 0 {
		beforeMS = 1 << 62
	}
	rows, err := s.r.QueryContext(ctx, `SELECT party, total, unread, last, channel FROM conversation WHERE agent=? AND last<? ORDER BY last DESC, party DESC LIMIT ?`, string(id), beforeMS, limit+1)
	if err != nil {
		return nil, false, fault.Store(err)
	}
	defer rows.Close()
	var out []agent.ConversationRow
	for rows.Next() {
		var r agent.ConversationRow
		var channel string
		if err := rows.Scan(&r.Party, &r.Total, &r.Unread, &r.LastMS, &channel); err != nil {
			return nil, false, fault.Store(err)
		}
		r.Channel, r.Unread = agent.Channel(channel), max(0, r.Unread)
		out = append(out, r)
	}
	more := len(out) > limit
	return out[:min(len(out), limit)], more, storeErr(rows.Err())
}

// Record implements agent.Records.
func (s *Store) Record(ctx context.Context, id agent.ID, kind, rec string) ([]byte, error) {
	var b []byte
	err := s.r.QueryRowContext(ctx, `SELECT body FROM record WHERE agent=? AND kind=? AND id=?`, string(id), kind, rec).Scan(&b)
	return b, storeErr(err)
}

// Commands implements agent.Records.
func (s *Store) Commands(ctx context.Context, id agent.ID, after int64) ([]agent.Command, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT seq, kind, body FROM command WHERE agent=? AND seq>? ORDER BY seq`, string(id), after)
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	var out []agent.Command
	for rows.Next() {
		var c agent.Command
		if err := rows.Scan(&c.Seq, &c.Kind, &c.Body); err != nil {
			return nil, fault.Store(err)
		}
		out = append(out, c)
	}
	return out, storeErr(rows.Err())
}

// Replay implements agent.Records.
func (s *Store) Replay(ctx context.Context, id agent.ID, key, hash string) (*agent.Idempotency, error) {
	x := &agent.Idempotency{Key: key}
	err := s.r.QueryRowContext(ctx, `SELECT hash, result FROM idem WHERE owner=? AND key=? AND expires>?`, string(id), key, now()).Scan(&x.Hash, &x.Result)
	switch {
	case err == sql.ErrNoRows:
		return nil, nil
	case err != nil:
		return nil, fault.Store(err)
	case x.Hash != hash:
		return nil, reused()
	}
	return x, nil
}

// Recorded implements agent.Records.
func (s *Store) Recorded(ctx context.Context, id agent.ID, p agent.RecordPage) (out [][]byte, total int, err error) {
	where := ` FROM record WHERE agent=? AND kind=? AND grp=? AND score>=?`
	args := []any{string(id), p.Kind, p.Group, p.From}
	if err := s.r.QueryRowContext(ctx, `SELECT count(*)`+where, args...).Scan(&total); err != nil {
		return nil, 0, fault.Store(err)
	}
	dir := ""
	if p.Desc {
		dir = " DESC"
	}
	rows, err := s.r.QueryContext(ctx, `SELECT body`+where+` ORDER BY score`+dir+`, id`+dir+` LIMIT ? OFFSET ?`, append(args, p.Limit, p.Offset)...)
	if err != nil {
		return nil, 0, fault.Store(err)
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, 0, fault.Store(err)
		}
		out = append(out, b)
	}
	return out, total, storeErr(rows.Err())
}

// Usage implements agent.Records.
func (s *Store) Usage(ctx context.Context, id agent.ID, scopes ...string) ([]agent.Usage, error) {
	out := make([]agent.Usage, len(scopes))
	for i, scope := range scopes {
		u := &out[i]
		err := s.r.QueryRowContext(ctx, `SELECT i, o, w, r, n FROM usage WHERE agent=? AND scope=?`, string(id), scope).Scan(&u.Input, &u.Output, &u.CacheWrite, &u.CacheRead, &u.Requests)
		if err := storeErr(err); err != nil {
			return nil, err
		}
	}
	return out, nil
}
