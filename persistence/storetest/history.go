package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testEvents(t *testing.T, k *kit) {
	id := k.running(100)
	first := k.accept(id, "p")
	if _, err := k.s.Reserve(k.ctx, &agent.Reservation{Agent: id, Call: "c", Incarnation: 1, Want: 10}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.s.Settle(k.ctx, &agent.Settlement{Agent: id, Call: "c", Usage: agent.Usage{Output: 10}}); err != nil {
		t.Fatal(err)
	}
	owner, err := k.s.Owner(k.ctx, "agent", string(id))
	k.must(err)
	_, err = k.commit(id, agent.Fence{Member: owner.Member, Epoch: owner.Epoch}, func(c *agent.Commit) {
		c.Balance = &agent.BalanceChange{Amount: 5}
		for i := range 5 {
			c.Events = append(c.Events, agent.Event{Type: "turn.started", Data: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
	})
	k.must(err)
	all, err := k.s.Events(k.ctx, id, agent.EventAt{}, 100)
	k.must(err)
	var types []string
	for i, e := range all {
		types = append(types, e.Type)
		if i > 0 && (e.At.Seq != all[i-1].At.Seq+1 || e.At.MS < all[i-1].At.MS) {
			t.Errorf("event %d at %+v follows %+v", i, e.At, all[i-1].At)
		}
	}
	want := []string{"agent.status", "message.pending", "balance.changed", "balance.changed", "turn.started", "turn.started", "turn.started", "turn.started", "turn.started"}
	if !slices.Equal(types, want) {
		t.Fatalf("EVT-1: %v, want %v", types, want)
	}
	if got := string(all[1].Data); got != `{"message_id":"`+first.ID.String()+`","role":"user","channel":"api"}` {
		t.Errorf("the event of an acceptance is %s", got)
	}
	if got := string(all[2].Data); got != `{"balance":90,"previous":100,"cause":"usage"}` {
		t.Errorf("the event of a charge is %s", got)
	}
	if got := string(all[3].Data); got != `{"balance":95,"previous":90,"cause":"increment"}` {
		t.Errorf("the event of a top-up is %s", got)
	}
	page, err := k.s.Events(k.ctx, id, all[4].At, 2)
	k.must(err)
	if len(page) != 2 || page[0].At != all[5].At || page[1].At != all[6].At {
		t.Errorf("EVT-3: after %+v came %+v", all[4].At, page)
	}
	oldest, newest, err := k.s.EventBounds(k.ctx, id)
	k.must(err)
	if oldest != all[0].At || newest != all[len(all)-1].At {
		t.Errorf("bounds %+v to %+v of %+v to %+v", oldest, newest, all[0].At, all[len(all)-1].At)
	}
	if rest, err := k.s.Events(k.ctx, id, newest, 10); err != nil || len(rest) != 0 {
		t.Errorf("after the newest event came %+v, %v", rest, err)
	}
	_, _, err = k.s.EventBounds(k.ctx, agent.ID(agent.NewUUID()))
	k.refused(err, fault.NotFound, "not_found")
	for round := range 102 { // more than is retained
		owner, err := k.s.Owner(k.ctx, "agent", string(id))
		k.must(err)
		_, err = k.commit(id, agent.Fence{Member: owner.Member, Epoch: owner.Epoch}, func(c *agent.Commit) {
			for i := range 100 {
				c.Events = append(c.Events, agent.Event{Type: "tool.started", Data: fmt.Appendf(nil, "%d", round*100+i)})
			}
		})
		k.must(err)
	}
	oldest, newest, err = k.s.EventBounds(k.ctx, id)
	k.must(err)
	if kept := newest.Seq - oldest.Seq + 1; kept != agent.MaxEvents {
		t.Errorf("EVT-4: %d events are retained", kept)
	}
}

func testRecords(t *testing.T, k *kit) {
	id := k.agent(1)
	f := k.claim(id, "m")
	_, err := k.commit(id, f, func(c *agent.Commit) {
		for i := range 9 {
			c.Records = append(c.Records, agent.Record{Kind: agent.RecordTurn, Group: fmt.Sprint("s", i%2), ID: fmt.Sprint("t", i), Score: int64(i), Body: []byte(fmt.Sprint(i))})
		}
	})
	k.must(err)
	show := func(p agent.RecordPage) string {
		rows, total, err := k.s.Recorded(k.ctx, id, p)
		k.must(err)
		return fmt.Sprintf("%s of %d", rows, total)
	}
	for _, c := range []struct {
		p    agent.RecordPage
		want string
	}{
		{agent.RecordPage{Kind: agent.RecordTurn, Group: "s0", Limit: 10}, "[0 2 4 6 8] of 5"},
		{agent.RecordPage{Kind: agent.RecordTurn, Group: "s0", Limit: 2, Desc: true}, "[8 6] of 5"},
		{agent.RecordPage{Kind: agent.RecordTurn, Group: "s1", Limit: 2, Offset: 2}, "[5 7] of 4"},
		{agent.RecordPage{Kind: agent.RecordTurn, Group: "s1", Limit: 9, From: 4, Desc: true}, "[7 5] of 2"},
		{agent.RecordPage{Kind: agent.RecordTurn, Group: "s2", Limit: 9}, "[] of 0"},
		{agent.RecordPage{Kind: agent.RecordTurn, Limit: 9}, "[] of 0"},
	} {
		if got := show(c.p); got != c.want {
			t.Errorf("%+v: %s, want %s", c.p, got, c.want)
		}
	}
	_, err = k.commit(id, f, func(c *agent.Commit) { // from one group to the other
		c.Records = []agent.Record{{Kind: agent.RecordTurn, Group: "s0", ID: "t0"}, {Kind: agent.RecordTurn, Group: "s1", ID: "t0", Score: 9, Body: []byte("moved")}}
	})
	k.must(err)
	if got := show(agent.RecordPage{Kind: agent.RecordTurn, Group: "s1", Limit: 1, Desc: true}); got != "[moved] of 5" {
		t.Error(got)
	}
	if b, err := k.s.Record(k.ctx, id, agent.RecordTurn, "t0"); err != nil || string(b) != "moved" {
		t.Errorf("%s, %v", b, err)
	}
	_, err = k.commit(id, f, func(c *agent.Commit) {
		c.Records = []agent.Record{{Kind: agent.RecordTurn, Group: "s1", ID: "t1", Score: 1, Body: []byte("known"), Known: true}}
	})
	k.must(err)
	if got := show(agent.RecordPage{Kind: agent.RecordTurn, Group: "s1", Limit: 2}); got != "[known 3] of 5" {
		t.Error(got)
	}
}

func testStreams(t *testing.T, k *kit) {
	key := agent.NewUUID()
	open := func(id string, ttl int64) bool {
		ok, err := k.s.OpenStream(k.ctx, key, id, 2, ttl)
		k.must(err)
		return ok
	}
	if !open("a", 60000) || !open("b", 60000) || open("c", 60000) {
		t.Error("RATE-4: two streams, then none")
	}
	if !open("a", 60000) {
		t.Error("an open stream renews its place")
	}
	k.must(k.s.CloseStream(k.ctx, key, "a"))
	if !open("c", 60000) {
		t.Error("a place that was given back is free")
	}
	k.must(k.s.CloseStream(k.ctx, key, "c"))
	if !open("short", 1) {
		t.Error("a place that was given back is free")
	}
	for end := time.Now().Add(20 * time.Second); !open("d", 60000); {
		if time.Now().After(end) {
			t.Fatal("a stream that is not renewed ends")
		}
	}
}

func testReports(t *testing.T, k *kit) {
	id := k.running(100)
	report := func(change func(*agent.Report)) (bool, int64, error) {
		r := &agent.Report{Agent: id, ID: "r1", Guard: agent.RunnerGuard{Incarnation: 1}, Turn: "t1", Usage: agent.Usage{Input: 7, Output: 30}, Count: true}
		if change != nil {
			change(r)
		}
		return k.s.Report(k.ctx, r)
	}
	for i, want := range []bool{true, false} {
		counted, left, err := report(nil)
		k.must(err)
		if counted != want || left != 70 {
			t.Errorf("report %d: counted %v, %d left", i, counted, left)
		}
	}
	counted, left, err := report(func(r *agent.Report) { r.ID, r.Count = "r2", false })
	k.must(err)
	if counted || left != 70 {
		t.Errorf("a report for comparison: counted %v, %d left", counted, left)
	}
	sums, err := k.s.Usage(k.ctx, id, "t/t1", "reported")
	k.must(err)
	if want := (agent.Usage{Input: 7, Output: 30, Requests: 1}); sums[0] != want || sums[1] != want {
		t.Errorf("sums %+v", sums)
	}
	_, _, err = report(func(r *agent.Report) { r.ID, r.Turn = "r3", "t0" })
	k.refused(err, fault.Conflict, "stale_turn")
	_, _, err = report(func(r *agent.Report) { r.ID, r.Guard.Epoch = "r3", 9 })
	k.refused(err, fault.Conflict, "stale_runner")
	_, _, err = report(func(r *agent.Report) { r.ID, r.Guard.Incarnation = "r3", 9 })
	k.refused(err, fault.Unauthenticated, "")
}

func testTriggers(t *testing.T, k *kit) {
	id, trigger := k.agent(1), agent.NewUUID()
	if to, err := k.s.Route(k.ctx, "trigger", trigger); err != nil || to != "" {
		t.Errorf("a route nobody made leads to %q, %v", to, err)
	}
	k.must(k.s.PutRoute(k.ctx, "trigger", trigger, id))
	if to, err := k.s.Route(k.ctx, "trigger", trigger); err != nil || to != id {
		t.Errorf("the route leads to %q, %v", to, err)
	}
	a := k.message(id, "p")
	a.Trigger = trigger
	got, err := k.s.Accept(k.ctx, &a)
	k.must(err)
	if _, err := k.s.Accept(k.ctx, &a); err != nil { // a repeat counts once
		t.Error(err)
	}
	fired, err := k.s.Fired(k.ctx, id, agent.NewUUID(), trigger)
	k.must(err)
	if fired[0] != (agent.Fired{}) || fired[1] != (agent.Fired{Count: 1, LastMS: got.CreatedMS}) {
		t.Errorf("%+v", fired)
	}
	k.must(k.s.DropRoute(k.ctx, "trigger", trigger, k.agent(1)))
	if to, err := k.s.Route(k.ctx, "trigger", trigger); err != nil || to != id {
		t.Errorf("another agent dropped the route: it leads to %q, %v", to, err)
	}
	k.must(k.s.DropRoute(k.ctx, "trigger", trigger, id))
	if to, err := k.s.Route(k.ctx, "trigger", trigger); err != nil || to != "" {
		t.Errorf("a dropped route leads to %q, %v", to, err)
	}
}
