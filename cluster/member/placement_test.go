package member_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/cluster/member"
	"troupe/persistence/sqlitestore"
)

// away is a store whose leases cannot be had for a while.
type away struct {
	member.Store
	gone  atomic.Bool
	joins atomic.Int32
}

func (a *away) Lease(ctx context.Context, m agent.Member, join bool, ttl int64, grains map[string]int) (agent.Topology, error) {
	if join {
		a.joins.Add(1)
	}
	if a.gone.Load() {
		return agent.Topology{}, fault.Store(errors.New("away"))
	}
	return a.Store.Lease(ctx, m, join, ttl, grains)
}

// start runs a member of one process with one kind.
func start(t *testing.T, gone bool, failed func(), receive actor.ReceiveFunc) (*member.Node, *away) {
	t.Helper()
	st, err := sqlitestore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	a := &away{Store: st}
	a.gone.Store(gone)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	n := member.Start(a, member.Config{Name: "t", Host: "127.0.0.1", Log: log, OnLost: func() {}, Busy: func() any { return nil },
		Failed: func(string, string, any) { failed() }}, cluster.NewKind("probe", actor.PropsFromFunc(receive)))
	t.Cleanup(func() {
		_ = n.Stop(5 * time.Second)
		_ = st.Close()
	})
	return n, a
}

// waitFor looks again and again until it is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not become so")
		}
	}
}

// longest is how long an answer may take.
const longest = 10 * time.Second

func ask(n *member.Node, msg any, wait time.Duration) (any, error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if pid := n.Cluster.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: "x", Kind: "probe"}); pid != nil {
			return n.Cluster.ActorSystem.Root.RequestFuture(pid, msg, wait).Result()
		}
		if time.Now().After(end) {
			return nil, errors.New("no activation")
		}
	}
}

// TestTrap6_AnActivationThatKeepsFailingComesBack: the library gives an actor up after ten panics in ten seconds; here the next
// command activates it again, after a pause that grows.
func TestTrap6_AnActivationThatKeepsFailingComesBack(t *testing.T) {
	var failures, starts atomic.Int32
	n, _ := start(t, false, func() { failures.Add(1) }, func(c actor.Context) {
		switch c.Message() {
		case "panic":
			panic("again")
		case "hello":
			c.Respond("here")
		}
		if _, ok := c.Message().(*cluster.ClusterInit); ok {
			starts.Add(1)
		}
	})
	<-n.Provider.Ready()
	began := time.Now()
	for i := range int32(12) {
		_, _ = ask(n, "panic", time.Second)
		for failures.Load() <= i {
			time.Sleep(time.Millisecond)
		}
		if i == 4 {
			break
		}
	}
	if took := time.Since(began); took < 2*time.Second { // 0.1, 0.4, 0.9, 1.6 s
		t.Errorf("five failures in %s: nothing slows a failing activation down", took)
	}
	if res, err := ask(n, "hello", longest); res != "here" || starts.Load() != 6 {
		t.Errorf("%v, %v after %d activations", res, err, starts.Load())
	}
}

// TestTrap2_APanicInStoppingStillStops: the library's supervisor starts such an actor anew.
func TestTrap2_APanicInStoppingStillStops(t *testing.T) {
	var starts atomic.Int32
	n, _ := start(t, false, func() {}, func(c actor.Context) {
		switch m := c.Message().(type) {
		case *cluster.ClusterInit:
			starts.Add(1)
		case *actor.Stopping:
			panic("in stopping")
		case string:
			if m == "leave" {
				member.ActivationOf(c).Passivate(c)
			}
			c.Respond(m)
		}
	})
	<-n.Provider.Ready()
	if _, err := ask(n, "leave", longest); err != nil {
		t.Fatal(err)
	}
	if err := n.Lookup.Drain(5 * time.Second); err != nil || starts.Load() != 1 || len(n.Lookup.Grains()) != 0 {
		t.Errorf("after a drain (%v): %d starts, %v live", err, starts.Load(), n.Lookup.Grains())
	}
}

// TestAMemberWaitsForItsStore: the library ends the process when its provider fails to start.
func TestAMemberWaitsForItsStore(t *testing.T) {
	n, st := start(t, true, func() {}, func(c actor.Context) {
		if c.Message() == "hello" {
			c.Respond("here")
		}
	})
	for st.joins.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	if n.Provider.Held() || n.Provider.Self().ID != "" {
		t.Error("FENCE-1: a member without a lease takes itself for one")
	}
	st.gone.Store(false)
	<-n.Provider.Ready()
	if res, err := ask(n, "hello", longest); res != "here" {
		t.Errorf("%v, %v", res, err)
	}
}

// TestRouse: many identities are activated by one list and told once each; who is active is told again, and what another member holds or
// would not be placed anywhere is named.
func TestRouse(t *testing.T) {
	var mu sync.Mutex
	begun, told := map[string]int{}, map[string]int{}
	n, st := start(t, false, func() {}, func(c actor.Context) {
		mu.Lock()
		defer mu.Unlock()
		switch m := c.Message().(type) {
		case *cluster.ClusterInit:
			begun[m.Identity.Identity]++
		case *protocol.Command:
			if m.Kind == protocol.Due {
				told[cluster.GetClusterIdentity(c).Identity]++
			}
		}
	})
	<-n.Provider.Ready()
	other := agent.Member{ID: "other", Address: "127.0.0.1:1", Kinds: []string{"probe"}} // answers nothing, as far as its lease goes it lives
	if _, err := st.Lease(t.Context(), other, true, time.Minute.Milliseconds(), nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(n.Provider.View().Members) == 2 })
	var ids []string
	for i := range 300 {
		ids = append(ids, fmt.Sprint("id-", i))
	}
	held := ids[:10]
	for _, id := range held {
		if _, mine, err := st.Claim(t.Context(), "probe", id, agent.Claim{}, agent.Claim{Member: other.ID, Address: other.Address}); err != nil || !mine {
			t.Fatal(mine, err)
		}
	}
	for round := 1; round <= 2; round++ {
		left := n.Lookup.Rouse(t.Context(), "probe", ids)
		slices.Sort(left)
		if want := slices.Sorted(slices.Values(held)); !slices.Equal(left, want) {
			t.Fatalf("left %v, want %v", left, want)
		}
		waitFor(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(told) == 290
		})
		mu.Lock()
		for _, id := range ids[10:] {
			if begun[id] != 1 { // a list may be given again
				t.Errorf("%s was activated %d times by round %d", id, begun[id], round)
			}
		}
		clear(told)
		mu.Unlock()
	}
	_ = n.Lookup.Drain(5 * time.Second)
	if left := n.Lookup.Rouse(t.Context(), "probe", ids); len(left) != len(ids) {
		t.Errorf("a member that leaves took %d of %d", len(ids)-len(left), len(ids))
	}
}
