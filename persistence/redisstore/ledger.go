package redisstore

import (
	"context"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// reservationTTL is how long a reservation holds without being renewed (LLM-7).
const reservationTTL = 60000

// Reserve implements agent.Ledger.
func (s *Store) Reserve(ctx context.Context, r *agent.Reservation) (agent.Granted, error) {
	k := keysOf(r.Agent)
	res, err := s.script(ctx, shardOf(r.Agent), reserveScript, []string{k.head(), k.reservations(), k.usage(), k.events()},
		[]any{r.Call, r.Incarnation, r.RunnerEpoch, string(r.Turn), r.Want, r.Floor, r.Overdraft, reservationTTL, agent.AfterTurn.Milliseconds()})
	if err != nil {
		return agent.Granted{}, err
	}
	v := reply(res)
	if v.str(0) == "ok" {
		return agent.Granted{Tokens: v.num(1), Turn: agent.TurnID(v.str(2)), Session: agent.SessionID(v.str(3)), Balance: v.num(4)}, nil
	}
	return agent.Granted{Turn: agent.TurnID(v.str(1))}, agent.Refused(v.str(0))
}

// Renew implements agent.Ledger.
func (s *Store) Renew(ctx context.Context, id agent.ID, call string, soFar int64) error {
	return s.settle(ctx, id, []any{call, 0, soFar, 0, 0, "1", reservationTTL}, nil)
}

// Settle implements agent.Ledger.
func (s *Store) Settle(ctx context.Context, x *agent.Settlement) (int64, error) {
	var balance int64
	loop := 0
	if x.Loop {
		loop = 1
	}
	err := s.settle(ctx, x.Agent, []any{x.Call, x.Usage.Input, x.Usage.Output, x.Usage.CacheWrite, x.Usage.CacheRead, "0", 0, loop}, &balance)
	return balance, err
}

func (s *Store) settle(ctx context.Context, id agent.ID, args []any, balance *int64) error {
	k := keysOf(id)
	res, err := s.script(ctx, shardOf(id), settleScript, []string{k.head(), k.reservations(), k.usage(), k.events()}, args)
	if err == nil && balance != nil {
		*balance = reply(res).num(1)
	}
	return err
}

// Beat implements agent.Beats: the lease first, then what the runner is told, in one pipeline.
func (s *Store) Beat(ctx context.Context, b *agent.Heartbeat) (agent.Figures, agent.TurnID, error) {
	subscribe := "0"
	if b.Subscribe {
		subscribe = "1"
	}
	k := keysOf(b.Agent)
	res, err := s.script(ctx, shardOf(b.Agent), beatScript, []string{k.head()}, []any{b.Guard.Incarnation, b.Guard.Epoch, b.LeaseMS, b.Execution, subscribe})
	if err != nil {
		return agent.Figures{}, "", err
	}
	switch reply(res).str(0) {
	case "key":
		return agent.Figures{}, "", fault.New(fault.Unauthenticated, "invalid_token", "Invalid or expired token")
	case "runner":
		return agent.Figures{}, "", fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
	}
	r, err := s.read(ctx, b.Agent, nil)
	if err != nil {
		return agent.Figures{}, "", err
	}
	v := values(r.head.Val())
	return figures(v, r.depth.Val(), r.now.Val()), agent.TurnID(v.str(19)), nil
}
