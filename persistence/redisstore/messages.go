package redisstore

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// scanChunk is how many messages a filtered list reads at a time.
const scanChunk = 200

// pendingMark stands for the mark of a message that has none yet.
var pendingMark = string(agent.Encode(agent.Mark{Status: agent.Pending}))

// fetch reads messages by id, in the order given; ids that are unknown are left out.
func (s *Store) fetch(ctx context.Context, id agent.ID, ids []string) ([]agent.Message, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	k := keysOf(id)
	args := make([]any, 0, len(ids)+2)
	args = append(args, "hmget", k.bodies())
	for _, x := range ids {
		args = append(args, x)
	}
	marks := append([]any{"hmget", k.marks()}, args[2:]...)
	b, m := redis.NewSliceCmd(ctx, args...), redis.NewSliceCmd(ctx, marks...)
	if err := s.batch.do(ctx, shardOf(id), b, m); err != nil {
		return nil, err
	}
	if b.Err() != nil || m.Err() != nil {
		return nil, fault.Store(firstErr(b.Err(), m.Err()))
	}
	out := make([]agent.Message, 0, len(ids))
	for i, x := range ids {
		raw, ok := b.Val()[i].(string)
		mark, _ := m.Val()[i].(string)
		if !ok {
			continue
		}
		if mark == "" {
			mark = pendingMark
		}
		seq, rest, _ := strings.Cut(raw, ":")
		at, body, _ := strings.Cut(rest, ":")
		msg, err := agent.DecodeMessage(agent.MessageID(x), number(seq), number(at), []byte(body), []byte(mark))
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
	}
	return out, nil
}

func firstErr(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// Message implements agent.Messages. Errors: fault.NotFound.
func (s *Store) Message(ctx context.Context, id agent.ID, msg agent.MessageID) (agent.Message, error) {
	ms, err := s.fetch(ctx, id, []string{string(msg)})
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
	ids := make([]string, len(msgs))
	for i, m := range msgs {
		ids[i] = string(m)
	}
	return s.fetch(ctx, id, ids)
}

// Queue implements agent.Messages.
func (s *Store) Queue(ctx context.Context, id agent.ID, limit int) ([]agent.Message, error) {
	ids, err := s.rdb.ZRange(ctx, keysOf(id).pending(), 0, int64(limit)-1).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	return s.fetch(ctx, id, ids)
}

// List implements agent.Messages (MSG-10): it walks the order of the agent, or of one counterparty, from the cursor on.
func (s *Store) List(ctx context.Context, id agent.ID, p agent.Page) ([]agent.Message, bool, error) {
	k := keysOf(id)
	index := k.order()
	if p.Party != "" {
		index = k.party(p.Party)
	}
	lo, hi, back := "-inf", "+inf", p.Desc
	for cursor, set := range map[agent.MessageID]*string{p.After: &lo, p.Before: &hi} {
		if cursor == "" {
			continue
		}
		seq, err := s.rdb.ZScore(ctx, k.order(), string(cursor)).Result()
		if err == redis.Nil {
			return nil, false, fault.New(fault.Invalid, "invalid_cursor", "The cursor is no message of this agent")
		}
		if err != nil {
			return nil, false, storeErr(err)
		}
		*set = "(" + strconv.FormatFloat(seq, 'f', 0, 64)
	}
	if p.After != "" {
		back = false
	} else if p.Before != "" {
		back = true
	}
	var out []agent.Message
	for len(out) <= p.Limit {
		from, to := lo, hi
		if back {
			from, to = hi, lo
		}
		ids, err := s.rdb.ZRangeArgs(ctx, redis.ZRangeArgs{Key: index, Start: from, Stop: to, ByScore: true, Rev: back, Count: scanChunk}).Result()
		if err != nil {
			return nil, false, storeErr(err)
		}
		msgs, err := s.fetch(ctx, id, ids)
		if err != nil {
			return nil, false, err
		}
		for _, m := range msgs {
			if p.Matches(&m) && len(out) <= p.Limit {
				out = append(out, m)
			}
			edge := "(" + strconv.FormatInt(m.Seq, 10)
			if back {
				hi = edge
			} else {
				lo = edge
			}
		}
		if len(ids) < scanChunk {
			break
		}
	}
	out, more := p.Cut(out, back)
	return out, more, nil
}

// Conversations implements agent.Messages (CONV-1).
func (s *Store) Conversations(ctx context.Context, id agent.ID, beforeMS int64, limit int) ([]agent.ConversationRow, bool, error) {
	k := keysOf(id)
	newest := "+inf"
	if beforeMS > 0 {
		newest = "(" + strconv.FormatInt(beforeMS, 10)
	}
	zs, err := s.rdb.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{Key: k.conversations(), Start: newest, Stop: "-inf", ByScore: true, Rev: true, Count: int64(limit) + 1}).Result()
	if err != nil {
		return nil, false, storeErr(err)
	}
	more := len(zs) > limit
	rows := make([]agent.ConversationRow, 0, limit)
	for _, z := range zs[:min(len(zs), limit)] {
		party, _ := z.Member.(string)
		c, total := redis.NewSliceCmd(ctx, "hmget", k.counters(), party+":u", party+":c"), redis.NewIntCmd(ctx, "zcard", k.party(party))
		if err := s.batch.do(ctx, shardOf(id), c, total); err != nil {
			return nil, false, err
		}
		if err := firstErr(c.Err(), total.Err()); err != nil {
			return nil, false, fault.Store(err)
		}
		v := values(c.Val())
		rows = append(rows, agent.ConversationRow{Party: party, Total: total.Val(), Unread: max(0, v.num(0)), Channel: agent.Channel(v.str(1)), LastMS: int64(z.Score)})
	}
	return rows, more, nil
}

// Record implements agent.Records.
func (s *Store) Record(ctx context.Context, id agent.ID, kind, rec string) ([]byte, error) {
	b := redis.NewStringCmd(ctx, "hget", keysOf(id).records(), kind+"/"+rec)
	if err := s.batch.do(ctx, shardOf(id), b); err != nil { // it is read for every call of a trigger
		return nil, err
	}
	body, err := b.Bytes()
	return body, storeErr(err)
}

// Commands implements agent.Records.
func (s *Store) Commands(ctx context.Context, id agent.ID, after int64) ([]agent.Command, error) {
	rows, err := s.rdb.ZRangeArgs(ctx, redis.ZRangeArgs{Key: keysOf(id).commands(), Start: "(" + strconv.FormatInt(after, 10), Stop: "+inf", ByScore: true}).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := make([]agent.Command, 0, len(rows))
	for _, r := range rows {
		p := strings.SplitN(r, " ", 3)
		if len(p) == 3 {
			out = append(out, agent.Command{Seq: number(p[0]), Kind: p[1], Body: []byte(p[2])})
		}
	}
	return out, nil
}

// Replay implements agent.Records.
func (s *Store) Replay(ctx context.Context, id agent.ID, key, hash string) (*agent.Idempotency, error) {
	v, err := s.rdb.HMGet(ctx, keysOf(id).idem(key), "hash", "result").Result()
	if err != nil {
		return nil, storeErr(err)
	}
	r := values(v)
	switch {
	case v[0] == nil:
		return nil, nil
	case r.str(0) != hash:
		return nil, reused()
	}
	return &agent.Idempotency{Key: key, Hash: hash, Result: []byte(r.str(1))}, nil
}

var recordsScript = load("records")

// Recorded implements agent.Records.
func (s *Store) Recorded(ctx context.Context, id agent.ID, p agent.RecordPage) ([][]byte, int, error) {
	keys, args := paging(id, p)
	res, err := s.query(ctx, shardOf(id), recordsScript, keys, args)
	if err != nil {
		return nil, 0, err
	}
	bodies, total := paged(res)
	return bodies, total, nil
}

func paging(id agent.ID, p agent.RecordPage) (keys []string, args []any) {
	k, order := keysOf(id), "0"
	if p.Desc {
		order = "1"
	}
	return []string{k.index(p.Kind, p.Group), k.records()}, []any{p.From, order, p.Offset, p.Limit, p.Kind + "/"}
}

func paged(res any) (bodies [][]byte, total int) {
	v := reply(res)
	for i := 1; i < len(v); i++ {
		bodies = append(bodies, []byte(v.str(i)))
	}
	return bodies, int(v.num(0))
}

// Usage implements agent.Records.
func (s *Store) Usage(ctx context.Context, id agent.ID, scopes ...string) ([]agent.Usage, error) {
	if len(scopes) == 0 {
		return nil, nil
	}
	fields := make([]string, 0, 5*len(scopes))
	for _, x := range scopes {
		fields = append(fields, x+":i", x+":o", x+":w", x+":r", x+":n")
	}
	v, err := s.rdb.HMGet(ctx, keysOf(id).usage(), fields...).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	r := values(v)
	out := make([]agent.Usage, len(scopes))
	for i := range out {
		out[i] = agent.Usage{Input: r.num(5 * i), Output: r.num(5*i + 1), CacheWrite: r.num(5*i + 2), CacheRead: r.num(5*i + 3), Requests: r.num(5*i + 4)}
	}
	return out, nil
}
