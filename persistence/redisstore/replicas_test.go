package redisstore

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/persistence/redistest"
	"troupe/persistence/storetest"
)

// patient is how long a slow machine may take to copy a write, below the time-out of a call.
const patient = 1900 * time.Millisecond

// follow starts a replica and waits until it follows.
func follow(t *testing.T, of *redistest.Server) *redistest.Server {
	t.Helper()
	host, port, _ := net.SplitHostPort(of.Addr)
	r := redistest.Start(t, "--replicaof", host+" "+port)
	c := redis.NewClient(&redis.Options{Addr: of.Addr})
	t.Cleanup(func() { _ = c.Close() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if n, err := c.Do(context.Background(), "wait", 1, 100).Int(); err == nil && n == 1 {
			return r
		}
		if time.Now().After(end) {
			t.Fatal("the replica does not follow")
		}
	}
}

// probe stores an agent.
func probe(t *testing.T, s *Store) agent.ID {
	t.Helper()
	spec := agent.NewSpec(agent.ID(agent.NewUUID()), agent.Settings{}.WithDefaults())
	spec.Account = account.ID(agent.NewUUID())
	if _, err := s.Create(context.Background(), &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}, Balance: 5}); err != nil {
		t.Fatal(err)
	}
	return spec.ID
}

func send(s *Store, id agent.ID) error {
	_, err := s.Accept(context.Background(), &agent.Acceptance{Agent: id, ID: agent.MessageID(agent.NewUUID()), Limit: 1000, Body: agent.Body{Role: agent.RoleUser, Counterparty: "p", Channel: agent.ChannelAPI}})
	return err
}

func TestREC_7_AWriteCountsWhenReplicasHaveIt(t *testing.T) {
	primary := redistest.Start(t)
	replica := follow(t, primary)
	s := openAcks(t, primary.URL(), 1)
	s.batch.within = patient
	id := probe(t, s)
	if err := send(s, id); err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: replica.Addr})
	defer c.Close()
	if n, err := c.ZCard(context.Background(), keysOf(id).pending()).Result(); err != nil || n != 1 {
		t.Errorf("the replica has %d messages, %v", n, err)
	}
	replica.Kill()
	if err := send(s, id); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without its replica a message was acknowledged: %v", err)
	}
	if _, _, err := s.Peek(context.Background(), id, 1); err != nil { // reading needs nobody
		t.Error(err)
	}
	if err := s.PutAccount(context.Background(), account.Account{ID: "a"}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an account was acknowledged: %v", err)
	}
}

func TestContractWithReplicas(t *testing.T) {
	primary := redistest.Start(t)
	follow(t, primary)
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := openAcks(t, primary.URL(), 1)
		s.batch.within = patient
		return s
	})
}

func TestREC_7_OnAClusterEachMasterWaitsForItsOwn(t *testing.T) {
	s := openAcks(t, redistest.Cluster(t), 1) // masters without replicas: nothing can be acknowledged
	err := send(s, "somebody")
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Owner(context.Background(), "agent", "somebody"); err != nil {
		t.Error(err)
	}
}

// TestGEN_1_TheStoresClockMayJump moves what the scripts have written instead of the clock: to them it is the same.
func TestGEN_1_TheStoresClockMayJump(t *testing.T) {
	ctx := context.Background()
	srv := redistest.Start(t)
	s := open(t, srv.URL())
	ahead := time.Now().Add(time.Hour).UnixMilli()

	id := probe(t, s)
	if err := s.rdb.HSet(ctx, keysOf(id).head(), "last", ahead, "inc", 1).Err(); err != nil { // written before the clock went back
		t.Fatal(err)
	}
	f, _, err := s.Beat(ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 1}, LeaseMS: 45000, Execution: "idle"})
	if err != nil || !f.RunnerLive() {
		t.Errorf("a runner that has just been heard counts as lost: %+v, %v", f, err)
	}
	if f.NowMS != ahead || ahead-f.ClockMS < 3500_000 {
		t.Errorf("the agent's time went back: %+v", f)
	}

	m := agent.Member{ID: "m", Name: "n", Address: "127.0.0.1:1"}
	if _, err := s.Lease(ctx, m, true, 6000, nil); err != nil {
		t.Fatal(err)
	}
	s.rdb.ZAdd(ctx, memberPrefix+"leases", redis.Z{Score: float64(ahead), Member: "dead"})
	s.rdb.Set(ctx, memberPrefix+"beat", ahead, 0)
	if _, err := s.Lease(ctx, m, false, 6000, nil); err != nil {
		t.Fatal(err)
	}
	if end, err := s.rdb.ZScore(ctx, memberPrefix+"leases", "dead").Result(); err != nil || end > float64(time.Now().Add(7*time.Second).UnixMilli()) {
		t.Errorf("after the clock went back a dead member's lease lasts until %s, %v", time.UnixMilli(int64(end)), err)
	}
	past := time.Now().Add(-time.Hour).UnixMilli() // the clock jumped ahead: nobody was heard for an hour, and nobody is evicted for it
	s.rdb.ZAdd(ctx, memberPrefix+"leases", redis.Z{Score: float64(past), Member: "m"}, redis.Z{Score: float64(past), Member: "other"})
	s.rdb.Set(ctx, memberPrefix+"beat", past, 0)
	if _, err := s.Lease(ctx, m, false, 6000, nil); err != nil {
		t.Errorf("FENCE-1: %v", err)
	}
	if n, _ := s.rdb.ZCard(ctx, memberPrefix+"leases").Result(); n != 3 {
		t.Errorf("%d members left", n)
	}

	s.sync(time.Now().Add(-time.Hour)) // what this node knew of the clock before it jumped
	if err := send(s, id); err != nil {
		t.Errorf("an acceptance was refused because the clock had jumped: %v", err)
	}
}

// TestREC_7_SentinelPromotesAndNothingIsLost kills the primary under load. The one replica has whatever was acknowledged.
func TestREC_7_SentinelPromotesAndNothingIsLost(t *testing.T) {
	primary := redistest.Start(t)
	follow(t, primary)
	watch := redistest.Sentinel(t, primary)
	s := openAcks(t, fmt.Sprintf("redis://%s?master_name=main", watch), 1)
	id := probe(t, s)
	acked, refused := 0, 0
	for end := time.Now().Add(time.Minute); acked < 200 && time.Now().Before(end); {
		if send(s, id) == nil {
			acked++
		}
	}
	primary.Kill()
	replaced := false // the dead one, by another replica
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, _, err := s.Peek(context.Background(), id, 1); err == nil && !replaced {
			follow(t, &redistest.Server{Addr: redistest.Primary(t, watch)})
			replaced = true
		}
		if send(s, id) == nil {
			acked++
			break
		}
		refused++
	}
	f, _, err := s.Peek(context.Background(), id, 1)
	if err != nil || int(f.Messages) < acked || acked != 201 {
		t.Errorf("%d acknowledged, %d stored, %d refused, %v", acked, f.Messages, refused, err)
	}
}
