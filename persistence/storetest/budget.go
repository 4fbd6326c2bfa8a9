package storetest

import (
	"sync"
	"sync/atomic"
	"testing"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testBalance(t *testing.T, k *kit) {
	id := k.agent(100)
	f := k.claim(id, "m")
	change := func(set bool, n int64) (agent.Committed, error) {
		return k.commit(id, f, func(c *agent.Commit) { c.Balance = &agent.BalanceChange{Set: set, Amount: n} })
	}
	got, err := change(false, -40)
	k.must(err)
	if got.Previous != 100 || got.Balance != 60 {
		t.Fatalf("%+v", got)
	}
	_, err = change(false, -61)
	k.refused(err, fault.Invalid, "balance_below_zero")
	_, err = change(false, agent.MaxTokens)
	k.refused(err, fault.Invalid, "validation_failed")
	got, err = change(true, agent.MaxTokens)
	k.must(err)
	if got.Balance != agent.MaxTokens {
		t.Fatalf("the largest balance is not kept exactly: %d", got.Balance)
	}
	sn, _ := k.s.Load(k.ctx, id)
	if sn.Figures.Balance != agent.MaxTokens {
		t.Fatalf("read back %d", sn.Figures.Balance)
	}
}

func testLedger(t *testing.T, k *kit) {
	id := k.running(1000)
	var wg sync.WaitGroup
	var spent atomic.Int64
	for range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 4 {
				call := agent.NewUUID()
				g, err := k.s.Reserve(k.ctx, &agent.Reservation{Agent: id, Call: call, Incarnation: 1, Want: 37})
				if err != nil {
					if !fault.Is(err, fault.Exhausted) && !fault.Is(err, fault.Limited) {
						t.Error(err)
					}
					continue
				}
				used := g.Tokens * 2 / 3
				spent.Add(used)
				if _, err := k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: call, Usage: agent.Usage{Input: 5, Output: used}}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	if f := sn.Figures; f.Balance != 1000-spent.Load() || f.Used != spent.Load() || spent.Load() > 1000 {
		t.Fatalf("BAL-3: spent %d, balance %d, used %d", spent.Load(), f.Balance, f.Used)
	}
	sums, err := k.s.Usage(k.ctx, id, "t/t1", "nothing", "s/s1")
	k.must(err)
	u, all := sums[0], sums[2]
	if sums[1] != (agent.Usage{}) || u.Output != spent.Load() || u.Input != 5*u.Requests || all != u {
		t.Fatalf("LLM-8: usage %+v, session %+v", u, all)
	}
}

// testContext: what a session's last call has read, without those of its compaction.
func testContext(t *testing.T, k *kit) {
	id := k.running(1000)
	f := k.claim(id, "m")
	other := func(u agent.Usage, loop bool) {
		t.Helper()
		c := agent.NewUUID()
		_, err := k.s.Reserve(k.ctx, &agent.Reservation{Agent: id, Call: c, Incarnation: 1, Want: 10})
		k.must(err)
		_, err = k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: c, Usage: u, Loop: loop})
		k.must(err)
	}
	call := func(u agent.Usage) { t.Helper(); other(u, true) }
	check := func(want int64) {
		t.Helper()
		got, _, err := k.s.Peek(k.ctx, id, 1)
		k.must(err)
		if got.Context != want || want > 0 && got.ContextOf != "s1" {
			t.Fatalf("%d tokens of session %q, not %d", got.Context, got.ContextOf, want)
		}
	}
	check(0)
	call(agent.Usage{Input: 5, CacheRead: 7, CacheWrite: 8, Output: 1})
	check(20)
	call(agent.Usage{Input: 30, Output: 1})
	check(30)
	other(agent.Usage{Input: 3, Output: 1}, false) // of a program beside the model loop
	check(30)
	head := func(h map[string]string) {
		t.Helper()
		_, err := k.commit(id, f, func(c *agent.Commit) { c.Head = h })
		k.must(err)
	}
	head(map[string]string{agent.HeadCompaction: "c1"})
	call(agent.Usage{Input: 99, Output: 1})
	check(30)
	head(map[string]string{agent.HeadCompaction: "", agent.HeadContext: ""})
	check(0)
}

func testAdmission(t *testing.T, k *kit) {
	id := k.running(100)
	ask := func(change func(*agent.Reservation)) (agent.Granted, error) {
		r := &agent.Reservation{Agent: id, Call: agent.NewUUID(), Incarnation: 1, Want: 60}
		change(r)
		return k.s.Reserve(k.ctx, r)
	}
	_, err := ask(func(r *agent.Reservation) { r.Incarnation = 2 })
	k.refused(err, fault.Unauthenticated, "")
	_, err = ask(func(r *agent.Reservation) { r.RunnerEpoch = 7 })
	k.refused(err, fault.Forbidden, "")
	_, err = ask(func(r *agent.Reservation) { r.Turn = "t2" })
	k.refused(err, fault.Forbidden, "")
	var call string
	g, err := ask(func(r *agent.Reservation) { r.Turn = "t1"; call = r.Call })
	k.must(err)
	if g.Tokens != 60 || g.Turn != "t1" || g.Session != "s1" {
		t.Fatalf("granted %+v", g)
	}
	if g, err = ask(func(*agent.Reservation) {}); err != nil || g.Tokens != 40 {
		t.Fatalf("the rest: %+v %v", g, err)
	}
	_, err = ask(func(*agent.Reservation) {})
	k.refused(err, fault.Limited, "")
	k.must(k.s.Renew(k.ctx, id, call, 3))
	if b, err := k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: call, Usage: agent.Usage{Output: 60}}); err != nil || b != 40 {
		t.Fatalf("balance %d %v", b, err)
	}
	if b, err := k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: call, Usage: agent.Usage{Output: 60}}); err != nil || b != 40 {
		t.Fatalf("settled twice: balance %d %v", b, err)
	}
	_, err = ask(func(r *agent.Reservation) { r.Floor = 41 })
	k.refused(err, fault.Limited, "")
	empty := k.running(0)
	_, err = k.s.Reserve(k.ctx, &agent.Reservation{Agent: empty, Call: "c", Incarnation: 1, Want: 1})
	k.refused(err, fault.Exhausted, "")
	g, err = k.s.Reserve(k.ctx, &agent.Reservation{Agent: empty, Call: "c", Incarnation: 1, Want: 50, Overdraft: 30})
	k.must(err)
	if g.Tokens != 30 {
		t.Fatalf("overdraft grants %d", g.Tokens)
	}
	if b, err := k.s.Settle(k.ctx, &agent.Settlement{Agent: empty, Call: "c", Usage: agent.Usage{Output: 20}}); err != nil || b != 0 {
		t.Fatalf("BAL-4: balance %d %v", b, err)
	}
	if g, err = k.s.Reserve(k.ctx, &agent.Reservation{Agent: empty, Call: "d", Incarnation: 1, Want: 50, Overdraft: 30}); err != nil || g.Tokens != 10 {
		t.Fatalf("the overdraft of a turn is used once: %+v %v", g, err)
	}
	idle := k.agent(10)
	f := k.claim(idle, "m")
	_, err = k.commit(idle, f, func(c *agent.Commit) { c.Head = map[string]string{agent.HeadIncarnation: "1"} })
	k.must(err)
	_, err = k.s.Reserve(k.ctx, &agent.Reservation{Agent: idle, Call: "c", Incarnation: 1, Want: 1})
	k.refused(err, fault.Forbidden, "")
}
