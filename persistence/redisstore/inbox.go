package redisstore

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Limits of the pending stamp (ARCHITECTURE, invariant 4). The sweep takes entries older than five seconds.
const (
	stampLife  = 4 * time.Second // an acceptance that runs later than this after its stamp is refused
	stampShare = 2 * time.Second // acceptances this soon after a stamp go without one of their own
	maxStamps  = 50000
)

// stamps remembers when this node last put an agent into the pending set, as far as that is known to be durable, so that
// acceptances in quick succession share one entry.
type stamps struct {
	mu sync.Mutex
	at map[agent.ID]time.Time
}

func (s *stamps) last(id agent.ID) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[id]
}

func (s *stamps) note(id agent.ID, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.at) >= maxStamps {
		clear(s.at)
	}
	s.at[id] = at
}

// Accept implements agent.Inbox. The agent's pending stamp goes first, unless there is a fresh one: in the same pipeline on
// one primary, awaited on a Cluster. The script refuses to run too long after it; then a new stamp is made, once.
func (s *Store) Accept(ctx context.Context, a *agent.Acceptance) (out agent.Accepted, err error) {
	for range 2 {
		stamped := s.stamps.last(a.Agent)
		if s.now().Sub(stamped) > stampShare {
			stamped = time.Time{}
		}
		var late bool
		if out, late, err = s.accept(ctx, a, stamped); !late {
			return out, err
		}
		s.stamps.note(a.Agent, time.Time{})
	}
	return out, err
}

func (s *Store) accept(ctx context.Context, a *agent.Acceptance, stamped time.Time) (out agent.Accepted, late bool, err error) {
	shard, lane := shardOf(a.Agent), int(s.turns.Add(1)) // calls that run at once have no order: any lane will do
	var before []redis.Cmder
	fresh := stamped.IsZero()
	if fresh {
		stamped = s.now()
		before = append(before, redis.NewIntCmd(ctx, "zadd", clockKey(shard, "p"), "gt", stamped.UnixMilli(), string(a.Agent)))
	}
	if s.cluster && fresh { // another slot, another master: it must be durable first
		if err := s.batch.write(ctx, lane, before...); err != nil {
			return agent.Accepted{}, false, err
		}
		if err := before[0].Err(); err != nil {
			return agent.Accepted{}, false, storeErr(err)
		}
		before = nil
	}
	keys, args := acceptance(a, stamped.Add(stampLife).UnixMilli())
	res, err := s.script(ctx, lane, acceptScript, keys, args, before...)
	if err != nil {
		return agent.Accepted{}, false, err
	}
	if fresh && (len(before) == 0 || before[0].Err() == nil) {
		s.stamps.note(a.Agent, stamped)
	}
	if r := reply(res); r.str(0) == "late" {
		s.sync(time.UnixMilli(r.num(1))) // its clock has jumped, or the call was slow; either way the next stamp is right
		return agent.Accepted{}, true, fault.Store(errors.New("an acceptance came too long after its pending stamp"))
	}
	out, err = accepted(res, a.Limit)
	return out, false, err
}

// AcceptAlone runs the accept script in a round trip of its own, without the pending stamp. It is the reference that
// benchmarks compare with; nothing else calls it.
func (s *Store) AcceptAlone(ctx context.Context, a *agent.Acceptance) (agent.Accepted, error) {
	keys, args := acceptance(a, math.MaxInt64)
	res, err := acceptScript.cmdRun(ctx, s, keys, args)
	if err != nil {
		return agent.Accepted{}, err
	}
	return accepted(res, a.Limit)
}

// acceptance makes the keys and arguments of the accept script.
func acceptance(a *agent.Acceptance, latestMS int64) (keys []string, args []any) {
	k := keysOf(a.Agent)
	idemKey, hash := k.head(), ""
	if a.Idem != nil {
		idemKey, hash = k.idem(a.Idem.Key), a.Idem.Hash
	}
	interrupt := "0"
	if a.Body.QueueMode == "interrupt" {
		interrupt = "1"
	}
	task := "0"
	if a.Body.IsTask() {
		task = "1"
	}
	event := `{"message_id":"` + a.ID.String() + `","role":"user","channel":"` + string(a.Body.Channel) + `"}`
	return []string{k.head(), k.bodies(), k.order(), k.pending(), k.events(), k.conversations(), k.counters(), k.party(a.Body.Counterparty), idemKey},
		[]any{string(a.Account), string(a.ID), agent.Encode(&a.Body), a.Body.Counterparty, string(a.Body.Channel), a.Limit, interrupt, hash, ttlIdempotency, latestMS, event, k.topic(), a.Trigger,
			agent.Place{Rank: a.Body.Rank()}.Score(), task}
}

func accepted(res any, limit int) (agent.Accepted, error) {
	r := reply(res)
	switch r.str(0) {
	case "ok":
		return agent.Accepted{ID: agent.MessageID(r.str(1)), Seq: r.num(2), CreatedMS: r.num(3), Status: agent.Status(r.str(4)), Replayed: r.str(5) == "1"}, nil
	case "gone":
		return agent.Accepted{}, agent.Gone()
	case "status":
		return agent.Accepted{}, agent.Status(r.str(1)).Accepts(r.str(2), true)
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

func (v values) num(i int) int64 {
	if i < len(v) {
		if n, ok := v[i].(int64); ok {
			return n
		}
	}
	return number(v.str(i))
}

func number(s string) int64 {
	if s == "" { // absent fields read as zero
		return 0
	}
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
