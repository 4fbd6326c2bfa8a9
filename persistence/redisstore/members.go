package redisstore

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

const memberPrefix = "mem:{m}:"

// Lease implements agent.Leases. It does not share a pipeline with others: the lease must not wait behind them.
func (s *Store) Lease(ctx context.Context, m agent.Member, join bool, ttlMS int64, grains map[string]int) (agent.Topology, error) {
	mode := "renew"
	if join {
		mode = "join"
	}
	return s.lease(ctx, m.ID, string(agent.Encode(m)), mode, ttlMS, string(agent.Encode(grains)))
}

// Leave implements agent.Leases.
func (s *Store) Leave(ctx context.Context, id string) error {
	_, err := s.lease(ctx, id, "", "leave", 1000, "")
	return err
}

func (s *Store) lease(ctx context.Context, id, record, mode string, ttlMS int64, grains string) (agent.Topology, error) {
	keys := []string{memberPrefix + "leases", memberPrefix + "records", memberPrefix + "version", memberPrefix + "beat", memberPrefix + "grains"}
	args := []any{id, ttlMS, record, mode, memberPrefix + "t", grains}
	res, err := leaseScript.cmdRun(ctx, s, keys, args)
	if err != nil {
		return agent.Topology{}, err
	}
	v := reply(res)
	if v.num(1) == 1 {
		return agent.Topology{}, fault.Lost("member " + id)
	}
	s.sync(time.UnixMilli(v.num(2)))
	t := agent.Topology{Version: v.num(0)}
	for i := 3; i < len(v); i++ {
		var m agent.Member
		if json.Unmarshal([]byte(v.str(i)), &m) == nil {
			t.Members = append(t.Members, m)
		}
	}
	return t, nil
}

// Census implements agent.Leases.
func (s *Store) Census(ctx context.Context) (map[string]agent.Standing, error) {
	leases, err := s.rdb.ZRangeWithScores(ctx, memberPrefix+"leases", 0, -1).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	grains, err := s.rdb.HGetAll(ctx, memberPrefix+"grains").Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := map[string]agent.Standing{}
	for _, z := range leases {
		id, _ := z.Member.(string)
		st := agent.Standing{LeaseMS: int64(z.Score)}
		_ = json.Unmarshal([]byte(grains[id]), &st.Grains) // written by Lease
		out[id] = st
	}
	return out, nil
}

// cmdRun runs a script on a connection of its own.
func (sc *script) cmdRun(ctx context.Context, s *Store, keys []string, args []any) (any, error) {
	cmd := sc.cmd(ctx, keys, args, false)
	if err := s.rdb.Process(ctx, cmd); err != nil && isUnknownScript(err) {
		cmd = sc.cmd(ctx, keys, args, true)
		_ = s.rdb.Process(ctx, cmd)
	}
	res, err := cmd.Result()
	return res, storeErr(err)
}

// WatchMembers implements agent.Leases.
func (s *Store) WatchMembers(notify func()) (cancel func()) {
	return s.hub.watch(memberPrefix+"t", notify)
}

// Owner implements agent.Claims.
func (s *Store) Owner(ctx context.Context, kind, identity string) (agent.Claim, error) {
	cmd := redis.NewSliceCmd(ctx, "hmget", grainHead(kind, identity), "member", "addr", "pid", "epoch")
	if err := s.batch.do(ctx, shardOf(agent.ID(identity)), cmd); err != nil {
		return agent.Claim{}, err
	}
	if err := storeErr(cmd.Err()); err != nil {
		return agent.Claim{}, err
	}
	r := values(cmd.Val())
	return agent.Claim{Member: r.str(0), Address: r.str(1), PID: r.str(2), Epoch: r.num(3)}, nil
}

// Claim implements agent.Claims.
func (s *Store) Claim(ctx context.Context, kind, identity string, former, next agent.Claim) (agent.Claim, bool, error) {
	keys, args := claiming(kind, identity, former, next)
	res, err := s.query(ctx, shardOf(agent.ID(identity)), claimScript, keys, args)
	if err != nil {
		return agent.Claim{}, false, err
	}
	c, mine := claimOf(res)
	return c, mine, nil
}

// ClaimFree implements agent.Claims.
func (s *Store) ClaimFree(ctx context.Context, kind string, wanted []agent.Wanted, member, address string) []agent.Claimed {
	out, calls, cmds := make([]agent.Claimed, len(wanted)), make([]*call, len(wanted)), make([]*redis.Cmd, len(wanted))
	for i, w := range wanted {
		keys, args := claiming(kind, w.Identity, agent.Claim{}, agent.Claim{Member: member, Address: address, PID: w.PID})
		cmds[i] = claimScript.cmd(ctx, keys, args, false)
		calls[i] = &call{cmds: []redis.Cmder{cmds[i]}, done: make(chan struct{})}
		out[i].Err = s.batch.start(shardOf(agent.ID(w.Identity)), calls[i])
	}
	for i, w := range wanted {
		c := &out[i]
		if c.Err == nil {
			c.Err = s.batch.wait(ctx, calls[i])
		}
		if c.Err != nil {
			continue
		}
		res, err := cmds[i].Result()
		switch {
		case err == nil:
			c.Claim, c.Mine = claimOf(res)
		case isUnknownScript(err):
			c.Claim, c.Mine, c.Err = s.Claim(ctx, kind, w.Identity, agent.Claim{}, agent.Claim{Member: member, Address: address, PID: w.PID})
		default:
			c.Err = storeErr(err)
		}
	}
	return out
}

func claiming(kind, identity string, former, next agent.Claim) (keys []string, args []any) {
	return []string{grainHead(kind, identity)}, []any{former.Member, strconv.FormatInt(former.Epoch, 10), next.Member, next.Address, next.PID}
}

func claimOf(res any) (agent.Claim, bool) {
	v := reply(res)
	return agent.Claim{Member: v.str(1), Address: v.str(2), PID: v.str(3), Epoch: v.num(4)}, v.num(0) == 1
}

// Release implements agent.Claims.
func (s *Store) Release(ctx context.Context, kind, identity string, f agent.Fence) error {
	_, err := s.query(ctx, shardOf(agent.ID(identity)), releaseScript, []string{grainHead(kind, identity)}, []any{f.Member, f.Epoch})
	return err
}
