package redisstore

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
)

const (
	pendingAge = 5 * time.Second  // a pending entry younger than this may belong to a hint that is on its way
	handedOut  = 10 * time.Second // a due alarm comes again after this unless the agent arms or clears it
)

// Sweep implements agent.Clock: one pipeline over all shards.
func (s *Store) Sweep(ctx context.Context, limit int) ([]agent.Alarm, error) {
	t, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	s.sync(t)
	restamp := t.Add(-time.Second) // older than any stamp of an acceptance that is on its way
	pipe := s.rdb.Pipeline()
	var due, pend [shards]*redis.ZSliceCmd
	for i := range shards {
		due[i] = pipe.ZRangeArgsWithScores(ctx, upTo(clockKey(i, "d"), t.UnixMilli(), limit))
		pend[i] = pipe.ZRangeArgsWithScores(ctx, upTo(clockKey(i, "p"), t.Add(-pendingAge).UnixMilli(), limit))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, storeErr(err)
	}
	var out []agent.Alarm
	again := s.rdb.Pipeline()
	for i := range shards {
		for _, z := range due[i].Val() {
			id, _ := z.Member.(string)
			out = append(out, agent.Alarm{ID: agent.ID(id), Stamp: int64(z.Score)})
			again.ZAddXX(ctx, clockKey(i, "d"), redis.Z{Score: float64(t.Add(handedOut).UnixMilli()), Member: id})
		}
		for _, z := range pend[i].Val() {
			id, _ := z.Member.(string)
			out = append(out, agent.Alarm{ID: agent.ID(id), Stamp: restamp.UnixMilli(), Pending: true}) // comes again when it is old again
			again.ZAddArgs(ctx, clockKey(i, "p"), redis.ZAddArgs{XX: true, GT: true, Members: []redis.Z{{Score: float64(restamp.UnixMilli()), Member: id}}})
		}
	}
	if again.Len() > 0 {
		if _, err := again.Exec(ctx); err != nil {
			return nil, storeErr(err)
		}
	}
	return out, nil
}

func upTo(key string, ms int64, limit int) redis.ZRangeArgs {
	return redis.ZRangeArgs{Key: key, Start: "-inf", Stop: strconv.FormatInt(ms, 10), ByScore: true, Count: int64(limit)}
}

// clearScript removes an entry only if its score is unchanged.
var clearScript = inline(`if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('ZREM', KEYS[1], ARGV[1]) end return 0`)

func inline(src string) *script { return &script{src: src, hash: hashOf(src)} }

// Clear implements agent.Clock.
func (s *Store) Clear(ctx context.Context, alarms []agent.Alarm) error {
	for _, a := range alarms {
		kind := "d"
		if a.Pending {
			kind = "p"
		}
		shard := shardOf(a.ID)
		if _, err := s.script(ctx, shard, clearScript, []string{clockKey(shard, kind)}, []any{string(a.ID), strconv.FormatInt(a.Stamp, 10)}); err != nil {
			return err
		}
	}
	return nil
}

// Arm implements agent.Clock.
func (s *Store) Arm(ctx context.Context, id agent.ID, dueMS int64) error {
	key := clockKey(shardOf(id), "d")
	if dueMS == 0 {
		return storeErr(s.rdb.ZRem(ctx, key, string(id)).Err())
	}
	return storeErr(s.rdb.ZAdd(ctx, key, redis.Z{Score: float64(dueMS), Member: string(id)}).Err())
}
