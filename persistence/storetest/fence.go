package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testFencing(t *testing.T, k *kit) {
	id := k.agent(10)
	old := k.claim(id, "m1")
	_, err := k.commit(id, old, func(c *agent.Commit) { c.State = []byte(`{"status":"active"}`) })
	k.must(err)
	young := k.claim(id, "m2")
	if young.Epoch != old.Epoch+1 {
		t.Fatalf("epochs %d, %d", old.Epoch, young.Epoch)
	}
	writes := map[string]func(*agent.Commit){
		"state":   func(c *agent.Commit) { c.State = []byte(`{"status":"stopped"}`) },
		"message": func(c *agent.Commit) { c.Append = []agent.Append{{ID: "x", Body: agent.Body{Counterparty: "p"}}} },
		"balance": func(c *agent.Commit) { c.Balance = &agent.BalanceChange{Set: true, Amount: 99} },
		"command": func(c *agent.Commit) { c.Commands = []agent.Command{{Kind: "shutdown", Body: []byte("{}")}} },
		"record":  func(c *agent.Commit) { c.Records = []agent.Record{{Kind: "turn", ID: "t", Body: []byte("{}")}} },
		"attach":  func(c *agent.Commit) { c.Attach = 1000 },
		"nothing": func(*agent.Commit) {},
	}
	for name, w := range writes {
		_, err := k.commit(id, old, w)
		k.refused(err, fault.Fenced, "")
		_, err = k.commit(id, agent.Fence{Member: "m1", Epoch: young.Epoch}, w)
		k.refused(err, fault.Fenced, "")
		if t.Failed() {
			t.Log(name)
		}
	}
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	if string(sn.State) != `{"status":"active"}` || sn.Figures.Balance != 10 || sn.Figures.RunnerEpoch != 0 || sn.Figures.Messages != 0 {
		t.Fatalf("a fenced write left something behind: %s %+v", sn.State, sn.Figures)
	}
	c := &agent.Commit{Agent: id, Fence: young, Version: sn.Version}
	_, err = k.s.Commit(k.ctx, c)
	k.must(err)
	_, err = k.s.Commit(k.ctx, c) // the version has moved
	k.refused(err, fault.Fenced, "")
}

func testClaims(t *testing.T, k *kit) {
	identity := agent.NewUUID()
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, ok, err := k.s.Claim(k.ctx, "bot", identity, agent.Claim{}, agent.Claim{Member: fmt.Sprint("m", i), Address: "a", PID: "pid"})
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		}()
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d claimants won", won.Load())
	}
	c, err := k.s.Owner(k.ctx, "bot", identity)
	k.must(err)
	if c.Epoch != 1 || c.PID != "pid$1" || c.Address != "a" {
		t.Fatalf("claim %+v", c)
	}
	k.must(k.s.Release(k.ctx, "bot", identity, agent.Fence{Member: "stranger", Epoch: 1}))
	if now, _ := k.s.Owner(k.ctx, "bot", identity); now != c {
		t.Fatalf("a stranger released it: %+v", now)
	}
	k.must(k.s.Release(k.ctx, "bot", identity, agent.Fence{Member: c.Member, Epoch: 1}))
	free, err := k.s.Owner(k.ctx, "bot", identity)
	k.must(err)
	if free.Member != "" || free.Epoch != 1 {
		t.Fatalf("after release %+v", free)
	}
	next, ok, err := k.s.Claim(k.ctx, "bot", identity, free, agent.Claim{Member: "m9", Address: "a", PID: "pid"})
	k.must(err)
	if !ok || next.Epoch != 2 {
		t.Fatalf("the epoch must grow: %+v %v", next, ok)
	}
	if now, ok, err := k.s.Claim(k.ctx, "bot", identity, free, agent.Claim{Member: "m8", Address: "a", PID: "pid"}); err != nil || ok || now != next {
		t.Fatalf("taken from its holder: %+v, %v, %v", now, ok, err)
	}
	k.must(k.s.Release(k.ctx, "bot", identity, agent.Fence{Member: "m9", Epoch: 2}))
	if now, ok, err := k.s.Claim(k.ctx, "bot", identity, agent.Claim{}, agent.Claim{Member: "m8", Address: "a", PID: "pid"}); err != nil || !ok || now.Epoch != 3 {
		t.Fatalf("what nobody holds is free, whoever held it: %+v, %v, %v", now, ok, err)
	}
	var wanted []agent.Wanted
	for i := range 20 {
		wanted = append(wanted, agent.Wanted{Identity: agent.NewUUID(), PID: fmt.Sprint("p", i)})
	}
	wanted[7].Identity = identity
	for i, x := range k.s.ClaimFree(k.ctx, "bot", wanted, "m1", "b") {
		if want := (agent.Claim{Member: "m1", Address: "b", PID: fmt.Sprintf("p%d$1", i), Epoch: 1}); i != 7 && (x.Err != nil || !x.Mine || x.Claim != want) {
			t.Fatalf("%d of a list: %+v", i, x)
		}
		if now, err := k.s.Owner(k.ctx, "bot", wanted[i].Identity); err != nil || now != x.Claim || i == 7 && (x.Mine || now.Member != "m8") {
			t.Fatalf("%d of a list: %+v, it is %+v, %v", i, x, now, err)
		}
	}
}

func testLeases(t *testing.T, k *kit) {
	m := agent.Member{ID: agent.NewUUID(), Name: "n", Address: "127.0.0.1:1", Kinds: []string{"agent"}}
	has := func(tp agent.Topology) bool {
		for _, x := range tp.Members {
			if x.ID == m.ID && x.Address == m.Address && len(x.Kinds) == 1 {
				return true
			}
		}
		return false
	}
	tp, err := k.s.Lease(k.ctx, m, true, 60000, map[string]int{"agent": 2})
	k.must(err)
	if !has(tp) || tp.Version == 0 {
		t.Fatalf("topology %+v", tp)
	}
	tp2, err := k.s.Lease(k.ctx, m, false, 60000, map[string]int{"agent": 3, "clock": 1})
	k.must(err)
	if tp2.Version != tp.Version {
		t.Fatalf("a renewal changed the version: %d, %d", tp.Version, tp2.Version)
	}
	census, err := k.s.Census(k.ctx)
	k.must(err)
	if st := census[m.ID]; st.Grains["agent"] != 3 || st.Grains["clock"] != 1 || time.Until(time.UnixMilli(st.LeaseMS)) < 30*time.Second {
		t.Errorf("census %+v", census)
	}
	k.must(k.s.Leave(k.ctx, m.ID))
	if census, err := k.s.Census(k.ctx); err != nil || census[m.ID].LeaseMS != 0 {
		t.Errorf("census after leaving: %+v, %v", census, err)
	}
	_, err = k.s.Lease(k.ctx, m, false, 60000, map[string]int{"agent": 3, "clock": 1})
	k.refused(err, fault.Fenced, "")
	short := m
	short.ID = agent.NewUUID()
	_, err = k.s.Lease(k.ctx, short, true, 1, nil)
	k.must(err)
	time.Sleep(5 * time.Millisecond) // the store's own clock is under test
	other := m
	other.ID = agent.NewUUID()
	tp, err = k.s.Lease(k.ctx, other, true, 60000, nil)
	k.must(err)
	for _, x := range tp.Members {
		if x.ID == short.ID {
			t.Fatal("an overdue member was not evicted")
		}
	}
	k.must(k.s.Leave(k.ctx, other.ID))
}

// testWithoutFence: what needs no fence has a guard of its own, and never moves the snapshot under the activation.
func testWithoutFence(t *testing.T, k *kit) {
	id := k.running(100)
	before := k.version(id)
	k.accept(id, "p")
	g, err := k.s.Reserve(k.ctx, &agent.Reservation{Agent: id, Call: "c", Incarnation: 1, Want: 10})
	k.must(err)
	k.must(k.s.Renew(k.ctx, id, "c", 1))
	_, err = k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: "c", Usage: agent.Usage{Output: g.Tokens}})
	k.must(err)
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	if _, _, err := k.s.Beat(k.ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 1, Epoch: sn.Figures.RunnerEpoch}, LeaseMS: 45000, Execution: "idle"}); err != nil {
		t.Fatal(err)
	}
	after, err := k.s.Load(k.ctx, id)
	k.must(err)
	if f := after.Figures; after.Version != before || f.Version != before || f.Balance != 90 || f.Pending != 1 || f.Execution != "idle" {
		t.Fatalf("version %d, was %d: %+v", after.Version, before, f)
	}
	if f := after.Figures; f.ClockMS == 0 || f.NowMS < f.ClockMS {
		t.Fatalf("GEN-1: the agent's time is never behind the store's clock: %+v", f)
	}
}

func testRunnerGuard(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	_, err := k.commit(id, f, func(c *agent.Commit) { c.Head = map[string]string{agent.HeadIncarnation: "3"} })
	k.must(err)
	attach := func(inc, epoch int64) (agent.Committed, error) {
		return k.commit(id, f, func(c *agent.Commit) {
			c.Guard, c.Attach = &agent.RunnerGuard{Incarnation: inc, Epoch: epoch}, 45000
		})
	}
	got, err := attach(3, 0)
	k.must(err)
	if got.RunnerEpoch != 1 {
		t.Fatalf("runner epoch %d", got.RunnerEpoch)
	}
	_, err = attach(2, 0)
	k.refused(err, fault.Unauthenticated, "invalid_token")
	_, err = attach(3, 9)
	k.refused(err, fault.Conflict, "stale_runner")
	fig, _, err := k.s.Beat(k.ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 3, Epoch: 1}, LeaseMS: 45000, Execution: "idle"})
	k.must(err)
	if !fig.RunnerLive() || fig.Execution != "idle" || fig.SubscribedMS != 0 {
		t.Fatalf("figures %+v", fig)
	}
	fig, _, err = k.s.Beat(k.ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 3, Epoch: 1}, Subscribe: true})
	k.must(err)
	if fig.SubscribedMS == 0 {
		t.Fatal("the stream is not marked as open")
	}
	_, _, err = k.s.Beat(k.ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 3, Epoch: 2}})
	k.refused(err, fault.Conflict, "stale_runner")
	_, _, err = k.s.Beat(k.ctx, &agent.Heartbeat{Agent: id, Guard: agent.RunnerGuard{Incarnation: 4, Epoch: 1}})
	k.refused(err, fault.Unauthenticated, "")
}
