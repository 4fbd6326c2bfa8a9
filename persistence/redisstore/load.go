package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/account"
	"troupe/actors/agent"
)

// headFields are read for Figures, in the order of figures().
var headFields = []any{"account", "status", "balance", "used", "mcount", "intr", "inc", "repoch", "ratt", "rlease", "rbeat", "rsub",
	"rexec", "rinfo", "cseq", "last", "epoch", "member", "deleted", "turn", "v", "ctx", "ctxs"}

func figures(v []any, pending int64, now time.Time) agent.Figures {
	r := values(v)
	f := agent.Figures{
		Account: account.ID(r.str(0)), Status: agent.Status(r.str(1)), Balance: r.num(2), Used: r.num(3), Messages: r.num(4), Interrupt: r.num(5),
		Incarnation: r.num(6), RunnerEpoch: r.num(7), AttachedMS: r.num(8), LeaseMS: r.num(9), HeartbeatMS: r.num(10), SubscribedMS: r.num(11),
		Execution: r.str(12), RunnerInfo: r.str(13), CommandSeq: r.num(14), Epoch: r.num(16), Member: r.str(17), Deleted: r.str(18) != "",
		Version: r.num(20), Context: r.num(21), ContextOf: agent.SessionID(r.str(22)), Pending: pending,
	}
	f.ClockMS = now.UnixMilli()
	f.NowMS = max(f.ClockMS, r.num(15))
	return f
}

// bodyFields are read for a Snapshot behind them.
var bodyFields = []any{"spec", "state"}

// read is one pipeline that reads an agent's head, the length of its queue and the store's clock.
type read struct {
	head  *redis.SliceCmd
	depth *redis.IntCmd
	now   *redis.TimeCmd
}

func (s *Store) read(ctx context.Context, id agent.ID, more []any, extra ...redis.Cmder) (*read, error) {
	k := keysOf(id)
	args := append(make([]any, 0, 2+len(headFields)+len(more)), "hmget", k.head())
	args = append(append(args, headFields...), more...)
	r := &read{head: redis.NewSliceCmd(ctx, args...), depth: redis.NewIntCmd(ctx, "zcard", k.pending()), now: redis.NewTimeCmd(ctx, "time")}
	cmds := append([]redis.Cmder{r.head, r.depth, r.now}, extra...)
	if err := s.batch.do(ctx, shardOf(id), cmds...); err != nil {
		return nil, err
	}
	for _, c := range cmds {
		if err := storeErr(c.Err()); err != nil {
			return nil, err
		}
	}
	if r.head.Val()[0] == nil {
		return nil, agent.Gone()
	}
	return r, nil
}

// Load implements agent.Snapshots.
func (s *Store) Load(ctx context.Context, id agent.ID) (agent.Snapshot, error) {
	r, err := s.read(ctx, id, bodyFields)
	if err != nil {
		return agent.Snapshot{}, err
	}
	return r.snapshot(), nil
}

// snapshot is what was read with bodyFields.
func (r *read) snapshot() agent.Snapshot {
	v, n := values(r.head.Val()), len(headFields)
	return agent.Snapshot{Version: v.num(20), Spec: []byte(v.str(n)), State: []byte(v.str(n + 1)), Figures: figures(v, r.depth.Val(), r.now.Val())}
}

// Begin implements agent.Snapshots.
func (s *Store) Begin(ctx context.Context, id agent.ID, limit int, p agent.RecordPage) (b agent.Beginning, err error) {
	for try := 0; ; try++ {
		ids := redis.NewStringSliceCmd(ctx, "zrange", keysOf(id).pending(), 0, limit-1)
		extra := []redis.Cmder{ids}
		var page *redis.Cmd
		if p.Limit > 0 {
			keys, args := paging(id, p)
			page = recordsScript.cmd(ctx, keys, args, try > 0)
			extra = append(extra, page)
		}
		r, err := s.read(ctx, id, bodyFields, extra...)
		if err != nil && try == 0 && page != nil && page.Err() != nil && isUnknownScript(page.Err()) {
			continue
		}
		if err != nil {
			return b, err
		}
		b.Snapshot = r.snapshot()
		if page != nil {
			b.Records, _ = paged(page.Val())
		}
		b.Queue, err = s.fetch(ctx, id, ids.Val())
		return b, err
	}
}

// Peek implements agent.Snapshots.
func (s *Store) Peek(ctx context.Context, id agent.ID, limit int) (agent.Figures, []agent.Message, error) {
	ids := redis.NewStringSliceCmd(ctx, "zrange", keysOf(id).pending(), 0, limit-1)
	r, err := s.read(ctx, id, nil, ids)
	if err != nil {
		return agent.Figures{}, nil, err
	}
	f := figures(r.head.Val(), r.depth.Val(), r.now.Val())
	msgs, err := s.fetch(ctx, id, ids.Val())
	return f, msgs, err
}

// Purge implements agent.Snapshots: every key of the agent, found by its hash tag, a thousand at a time.
func (s *Store) Purge(ctx context.Context, id agent.ID) error {
	k := keysOf(id)
	parties, err := s.rdb.ZRange(ctx, k.conversations(), 0, -1).Result()
	if err != nil {
		return storeErr(err)
	}
	keys := []string{k.bodies(), k.marks(), k.order(), k.pending(), k.conversations(), k.counters(), k.events(), k.commands(), k.records(), k.reservations(), k.usage(), k.reports()}
	for _, p := range parties {
		keys = append(keys, k.party(p), k.index(agent.RecordRelay, p))
	}
	sessions, err := s.rdb.ZRange(ctx, k.index(agent.RecordSession, ""), 0, -1).Result()
	if err != nil {
		return storeErr(err)
	}
	for _, group := range sessions {
		for _, kind := range agent.SessionRecords {
			keys = append(keys, k.index(kind, group))
		}
	}
	schedules, err := s.rdb.ZRange(ctx, k.index(agent.RecordSchedule, ""), 0, -1).Result()
	if err != nil {
		return storeErr(err)
	}
	for _, group := range schedules {
		keys = append(keys, k.index(agent.RecordExecution, group))
	}
	triggers, err := s.rdb.ZRange(ctx, k.index(agent.RecordTrigger, ""), 0, -1).Result()
	if err != nil {
		return storeErr(err)
	}
	for _, trigger := range triggers {
		if err := s.DropRoute(ctx, agent.RecordTrigger, trigger, id); err != nil {
			return err
		}
	}
	for _, kind := range agent.RecordKinds {
		keys = append(keys, k.index(kind, ""))
	}
	unlink := []any{"unlink"}
	for _, key := range keys {
		unlink = append(unlink, key)
	}
	if err := s.put(ctx, redis.NewIntCmd(ctx, unlink...)); err != nil {
		return err
	}
	for _, kind := range []string{"d", "p"} {
		if err := s.put(ctx, redis.NewIntCmd(ctx, "zrem", clockKey(shardOf(id), kind), string(id))); err != nil {
			return err
		}
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "unlink", k.head())) // last, so that a crash before it is repaired by a repeat
}
