package redisstore

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Accept implements agent.Inbox. The agent's pending stamp goes first: in the same pipeline on one primary, awaited on a
// Cluster, where the script then refuses to run more than four seconds after it (ARCHITECTURE, invariant 4).
func (s *Store) Accept(ctx context.Context, a *agent.Acceptance) (agent.Accepted, error) {
	shard := shardOf(a.Agent)
	now := s.now()
	stamp := redis.NewIntCmd(ctx, "zadd", clockKey(shard, "p"), now.UnixMilli(), string(a.Agent))
	var before []redis.Cmder
	latest := "0"
	if s.cluster {
		if err := s.batch.do(ctx, shard, stamp); err != nil {
			return agent.Accepted{}, err
		}
		if err := stamp.Err(); err != nil {
			return agent.Accepted{}, storeErr(err)
		}
		latest = strconv.FormatInt(now.Add(4*time.Second).UnixMilli(), 10)
	} else {
		before = append(before, stamp)
	}
	keys, args := acceptance(a, latest)
	res, err := s.script(ctx, shard, acceptScript, keys, args, before...)
	if err != nil {
		return agent.Accepted{}, err
	}
	return accepted(res, a.Limit)
}

// AcceptAlone runs the accept script in a round trip of its own, without the pending stamp. It is the reference that
// benchmarks compare with; nothing else calls it.
func (s *Store) AcceptAlone(ctx context.Context, a *agent.Acceptance) (agent.Accepted, error) {
	keys, args := acceptance(a, "0")
	res, err := acceptScript.cmdRun(ctx, s, keys, args)
	if err != nil {
		return agent.Accepted{}, err
	}
	return accepted(res, a.Limit)
}

// acceptance makes the keys and arguments of the accept script.
func acceptance(a *agent.Acceptance, latest string) (keys []string, args []any) {
	k := keysOf(a.Agent)
	idemKey, hash := k.head(), ""
	if a.Idem != nil {
		idemKey, hash = k.idem(a.Idem.Key), a.Idem.Hash
	}
	interrupt := "0"
	if a.Body.QueueMode == "interrupt" {
		interrupt = "1"
	}
	event := `{"message_id":"` + a.ID.String() + `","role":"user","channel":"` + string(a.Body.Channel) + `"}`
	return []string{k.head(), k.bodies(), k.marks(), k.order(), k.pending(), k.events(), k.conversations(), k.counters(), k.party(a.Body.Counterparty), idemKey},
		[]any{string(a.Account), string(a.ID), agent.Encode(&a.Body), pendingMark, a.Body.Counterparty, string(a.Body.Channel), a.Limit, interrupt, hash, ttlIdempotency, latest, event}
}

var pendingMark = string(agent.Encode(agent.Mark{Status: agent.Pending}))

func accepted(res any, limit int) (agent.Accepted, error) {
	r := reply(res)
	switch r.str(0) {
	case "ok":
		return agent.Accepted{ID: agent.MessageID(r.str(1)), Seq: r.num(2), CreatedMS: r.num(3), Status: agent.Status(r.str(4)), Replayed: r.str(5) == "1"}, nil
	case "gone":
		return agent.Accepted{}, agent.Gone()
	case "status":
		return agent.Accepted{}, agent.Status(r.str(1)).Accepts(r.str(2))
	case "full":
		return agent.Accepted{}, agent.QueueFull(limit)
	case "mismatch":
		return agent.Accepted{}, reused()
	}
	return agent.Accepted{}, fault.Store(nil)
}

func reused() error {
	return fault.New(fault.Mismatch, "idempotency_key_reused", "The Idempotency-Key was used before with another body")
}

// values reads the array that a script returned.
type values []any

func reply(res any) values {
	v, _ := res.([]any)
	return v
}

func (v values) str(i int) string {
	if i >= len(v) {
		return ""
	}
	switch x := v[i].(type) {
	case string:
		return x
	case int64:
		return strconv.FormatInt(x, 10)
	}
	return ""
}

func (v values) num(i int) int64 { return number(v.str(i)) }

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64) // absent fields read as zero
	return n
}
