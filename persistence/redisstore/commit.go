package redisstore

import (
	"context"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// operations collects the arguments of one commit; keys that are not fixed are named by their position.
type operations struct {
	k    agentKeys
	keys []string
	args []any
}

// fixedKeys is how many keys every commit has.
const fixedKeys = 11

func (o *operations) key(name string) int {
	if i := slices.Index(o.keys[fixedKeys:], name); i >= 0 {
		return fixedKeys + i + 1
	}
	o.keys = append(o.keys, name)
	return len(o.keys)
}

func (o *operations) add(args ...any) { o.args = append(o.args, args...) }

// Commit implements agent.Snapshots.
func (s *Store) Commit(ctx context.Context, c *agent.Commit) (agent.Committed, error) {
	k := keysOf(c.Agent)
	o := &operations{k: k, args: make([]any, 0, 64)}
	idem := k.head()
	if c.Idem != nil {
		idem = k.idem(c.Idem.Key)
	}
	o.keys = []string{k.head(), k.bodies(), k.marks(), k.order(), k.pending(), k.events(), k.conversations(), k.counters(), k.commands(), k.records(), idem}
	guard, epoch := "", int64(0)
	if c.Guard != nil {
		guard, epoch = strconv.FormatInt(c.Guard.Incarnation, 10), c.Guard.Epoch
	}
	kind, amount, cause := "", int64(0), ""
	if c.Balance != nil {
		kind, amount, cause = "add", c.Balance.Amount, c.Balance.Cause()
		if c.Balance.Set {
			kind = "set"
		}
	}
	once := "0"
	if c.Idem != nil {
		once = "1"
	}
	o.add(c.Fence.Member, c.Fence.Epoch, c.Version, guard, epoch, kind, amount, k.topic(), once, cause)
	o.collect(c)
	if s.cluster { // the clock lies on another master
		if _, err := s.arming(ctx, c.Agent, c.Due); err != nil {
			return agent.Committed{}, err
		}
	} else if c.Due > 0 || c.Rearm {
		o.add("K", o.key(clockKey(shardOf(c.Agent), "d")), c.Due, string(c.Agent), c.Rearm)
	}
	res, err := s.script(ctx, shardOf(c.Agent), commitScript, o.keys, o.args)
	if err != nil {
		return agent.Committed{}, err
	}
	out, err := committed(c, reply(res))
	out.Rearmed = c.Rearm && !s.cluster
	return out, err
}

// arming returns the command that arms the agent's alarm before the commit that depends on it, and only ever earlier: a crash
// leaves a spurious wake-up at worst. On a Cluster it lies on another master, so it is made durable here and now.
func (s *Store) arming(ctx context.Context, id agent.ID, due int64) ([]redis.Cmder, error) {
	if due == 0 {
		return nil, nil
	}
	cmd := redis.NewIntCmd(ctx, "zadd", clockKey(shardOf(id), "d"), "lt", due, string(id))
	if !s.cluster {
		return []redis.Cmder{cmd}, nil
	}
	if err := s.batch.write(ctx, shardOf(id), cmd); err != nil {
		return nil, err
	}
	return nil, storeErr(cmd.Err())
}

func (o *operations) collect(c *agent.Commit) {
	for f, v := range c.Head {
		o.add("H", f, v)
	}
	if c.Spec != nil {
		o.add("S", c.Spec)
	}
	if c.State != nil {
		o.add("T", c.State)
	}
	if c.Clear {
		o.add("Z")
	}
	for _, x := range c.Confirm {
		o.add("X", confirmKinds[x])
	}
	for _, a := range c.Append {
		op := "A"
		if a.Queue {
			op = "Q"
		}
		o.add(op, string(a.ID), agent.Encode(&a.Body), agent.Encode(&a.Mark), a.Body.Counterparty, o.key(o.k.party(a.Body.Counterparty)), string(a.Body.Channel))
	}
	for _, id := range c.Take {
		o.add("-", string(id))
	}
	for id, place := range c.Requeue {
		o.add("+", string(id), place.Score())
	}
	for _, m := range c.Marks {
		o.add("M", string(m.ID), agent.Encode(&m.Mark), m.Party, m.Unread)
	}
	for _, r := range c.Records {
		switch {
		case r.Body == nil:
			o.add("D", r.Kind+"/"+r.ID, r.ID, o.key(o.k.index(r.Kind, r.Group)))
		case r.Known:
			o.add("r", r.Kind+"/"+r.ID, r.Body)
		default:
			o.add("R", r.Kind+"/"+r.ID, r.Body, r.Score, r.ID, o.key(o.k.index(r.Kind, r.Group)))
		}
	}
	for _, x := range c.Commands {
		o.add("C", x.Kind, x.Body)
	}
	for _, e := range c.Events {
		o.add("E", e.Type, e.Data)
	}
	if c.Idem != nil {
		o.add("I", c.Idem.Hash, c.Idem.Result, ttlIdempotency)
	}
	if c.Attach > 0 {
		o.add("L", c.Attach)
	}
}

var confirmKinds = map[int64]string{agent.ConfirmStart: "turn.start", agent.ConfirmTurn: "turn.start turn.cancel reminder", agent.ConfirmReminder: "reminder", agent.ConfirmCompact: "session.compact"}

func committed(c *agent.Commit, r values) (agent.Committed, error) {
	switch r.str(0) {
	case "ok":
		out := agent.Committed{Version: r.num(1), NowMS: r.num(2), RunnerEpoch: r.num(3), Previous: r.num(4), Balance: r.num(5)}
		for i := range c.Append {
			out.Appended = append(out.Appended, agent.Appended{Seq: r.num(6 + 2*i), CreatedMS: r.num(7 + 2*i)})
		}
		return out, nil
	case "done":
		return agent.Committed{Done: []byte(r.str(1))}, nil
	case "fenced":
		return agent.Committed{}, fault.Lost("agent " + string(c.Agent))
	case "gone":
		return agent.Committed{}, agent.Gone()
	case "version":
		return agent.Committed{}, fault.New(fault.Fenced, "store_unavailable", "The agent's state has moved on; try again")
	case "key":
		return agent.Committed{}, fault.New(fault.Unauthenticated, "invalid_token", "Invalid or expired token")
	case "runner":
		return agent.Committed{}, fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
	case "balance":
		if c.Balance.Amount < 0 {
			return agent.Committed{}, fault.Newf(fault.Invalid, "balance_below_zero", "The balance is %d and cannot go below zero", r.num(1)).At("amount", "would bring the balance below zero")
		}
		return agent.Committed{}, fault.New(fault.Invalid, "validation_failed", "amount would exceed the largest balance").At("amount", "would exceed 9007199254740991")
	}
	return agent.Committed{}, fault.Store(nil)
}

// Create implements agent.Creator.
func (s *Store) Create(ctx context.Context, c *agent.Creation) (int64, error) {
	k := keysOf(c.Spec.ID)
	before, err := s.arming(ctx, c.Spec.ID, c.Due)
	if err != nil {
		return 0, err
	}
	res, err := s.script(ctx, shardOf(c.Spec.ID), createScript, []string{k.head(), k.records(), k.index(agent.RecordFiles, ""), k.events()},
		[]any{string(c.Spec.Account), agent.Encode(&c.Spec), agent.Encode(&c.State), c.Spec.MakeCard(), c.Balance, c.Files,
			`{"status":"active","previous":"active","reason":null}`}, before...)
	if err != nil {
		return 0, err
	}
	return values{res}.num(0), nil
}
