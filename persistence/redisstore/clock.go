package redisstore

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

const (
	pendingAge = 5 * time.Second // a pending entry younger than this may belong to a hint that is on its way
	handedOut  = 2 * time.Second // a due alarm comes again after this unless the agent arms or clears it (REC-1)
)

var (
	sweepScript = load("sweep")
	clearScript = load("clear")
)

// Shards implements agent.Clock.
func (*Store) Shards() int { return shards }

func lostShard(shard int) error { return fault.Lost("clock shard " + strconv.Itoa(shard)) }

// Sweep implements agent.Clock.
func (s *Store) Sweep(ctx context.Context, shard int, f agent.Fence, limit int) ([]agent.Alarm, int64, error) {
	res, err := s.script(ctx, shard, sweepScript, []string{clockKey(shard, "h"), clockKey(shard, "d"), clockKey(shard, "p")},
		[]any{f.Member, f.Epoch, limit, pendingAge.Milliseconds(), handedOut.Milliseconds()})
	if err != nil {
		return nil, 0, err
	}
	v := reply(res)
	if v.str(0) == "fenced" {
		return nil, 0, lostShard(shard)
	}
	var out []agent.Alarm
	for i := 2; i+2 < len(v); i += 3 {
		out = append(out, agent.Alarm{ID: agent.ID(v.str(i)), Stamp: v.num(i + 1), Pending: v.str(i+2) == "p"})
	}
	return out, v.num(1), nil
}

// Clear implements agent.Clock.
func (s *Store) Clear(ctx context.Context, shard int, f agent.Fence, alarms []agent.Alarm) error {
	args := []any{f.Member, f.Epoch}
	for _, a := range alarms {
		kind := "d"
		if a.Pending {
			kind = "p"
		}
		args = append(args, kind, string(a.ID), strconv.FormatInt(a.Stamp, 10))
	}
	res, err := s.script(ctx, shard, clearScript, []string{clockKey(shard, "h"), clockKey(shard, "d"), clockKey(shard, "p")}, args)
	if err == nil && reply(res).str(0) == "fenced" {
		err = lostShard(shard)
	}
	return err
}

// Arm implements agent.Clock.
func (s *Store) Arm(ctx context.Context, id agent.ID, dueMS int64) error {
	key := clockKey(shardOf(id), "d")
	if dueMS == 0 {
		return s.put(ctx, redis.NewIntCmd(ctx, "zrem", key, string(id)))
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "zadd", key, dueMS, string(id)))
}
