package storetest

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

func testAccept(t *testing.T, k *kit) {
	id := k.agent(10)
	party := agent.NewUUID()
	a := k.message(id, party)
	a.Body.Metadata = json.RawMessage(`{"a":[1,2],"b":"<&>"}`)
	got, err := k.s.Accept(k.ctx, &a)
	k.must(err)
	if got.ID != a.ID || got.Seq != 1 || got.CreatedMS == 0 || got.Status != agent.Active || got.Replayed {
		t.Fatalf("accepted %+v", got)
	}
	m, err := k.s.Message(k.ctx, id, a.ID)
	k.must(err)
	if m.Content != "hello" || m.Status != agent.Pending || m.Counterparty != party || string(m.Metadata) != `{"a":[1,2],"b":"<&>"}` || m.CreatedMS != got.CreatedMS {
		t.Fatalf("stored %+v", m)
	}
	again, err := k.s.Accept(k.ctx, &a)
	k.must(err)
	if again.Seq != got.Seq || !again.Replayed {
		t.Fatalf("the same id was accepted again: %+v", again)
	}
	f, queue, err := k.s.Peek(k.ctx, id, 10)
	k.must(err)
	if f.Pending != 1 || f.Messages != 1 || len(queue) != 1 || queue[0].ID != a.ID {
		t.Fatalf("queue %+v of %+v", queue, f)
	}

	full := k.message(id, party)
	full.Limit = 1
	_, err = k.s.Accept(k.ctx, &full)
	k.refused(err, fault.Limited, "queue_full")
	other := k.message(id, party)
	other.Account = "somebody-else"
	_, err = k.s.Accept(k.ctx, &other)
	k.refused(err, fault.NotFound, "not_found")
	fence := k.claim(id, "m1")
	_, err = k.commit(id, fence, func(c *agent.Commit) { c.Head = map[string]string{agent.HeadStatus: "stopped"} })
	k.must(err)
	late := k.message(id, party)
	_, err = k.s.Accept(k.ctx, &late)
	k.refused(err, fault.Unavailable, "agent_unavailable")
	if f, _, err = k.s.Peek(k.ctx, id, 1); err != nil || f.Messages != 1 {
		t.Fatalf("a refused message left something behind: %+v %v", f, err)
	}
	unknown := k.message(agent.ID(agent.NewUUID()), party)
	_, err = k.s.Accept(k.ctx, &unknown)
	k.refused(err, fault.NotFound, "not_found")
}

func testAcceptIdempotent(t *testing.T, k *kit) {
	id := k.agent(10)
	send := func(hash string) (agent.Accepted, error) {
		a := k.message(id, "p")
		a.Idem = &agent.Idempotency{Key: "key", Hash: hash}
		return k.s.Accept(k.ctx, &a)
	}
	first, err := send("h1")
	k.must(err)
	again, err := send("h1")
	k.must(err)
	if again.ID != first.ID || !again.Replayed || again.CreatedMS != first.CreatedMS {
		t.Fatalf("first %+v, repeated %+v", first, again)
	}
	_, err = send("h2")
	k.refused(err, fault.Mismatch, "idempotency_key_reused")
	f, _, err := k.s.Peek(k.ctx, id, 1)
	k.must(err)
	if f.Messages != 1 {
		t.Fatalf("%d messages stored", f.Messages)
	}
}

func testOrder(t *testing.T, k *kit) {
	id := k.agent(10)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 {
				a := k.message(id, "p")
				if _, err := k.s.Accept(k.ctx, &a); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	msgs, more, err := k.s.List(k.ctx, id, agent.Page{Limit: 1000})
	k.must(err)
	if len(msgs) != 160 || more {
		t.Fatalf("%d messages, more %v", len(msgs), more)
	}
	for i := range msgs {
		if msgs[i].Seq != int64(i+1) || i > 0 && msgs[i].CreatedMS < msgs[i-1].CreatedMS {
			t.Fatalf("message %d has seq %d, created %d after %d", i, msgs[i].Seq, msgs[i].CreatedMS, msgs[max(0, i-1)].CreatedMS)
		}
	}
}

func testPaging(t *testing.T, k *kit) {
	id := k.agent(10)
	var ids []agent.MessageID
	for i := range 25 {
		ids = append(ids, k.accept(id, fmt.Sprintf("p%d", i%2)).ID)
	}
	seqs := func(p agent.Page) (out []int64, more bool) {
		t.Helper()
		ms, more, err := k.s.List(k.ctx, id, p)
		k.must(err)
		for _, m := range ms {
			out = append(out, m.Seq)
		}
		return out, more
	}
	for _, c := range []struct {
		name string
		page agent.Page
		want []int64
		more bool
	}{
		{"oldest", agent.Page{Limit: 3}, []int64{1, 2, 3}, true},
		{"newest", agent.Page{Limit: 3, Desc: true}, []int64{25, 24, 23}, true},
		{"after", agent.Page{Limit: 3, After: ids[4]}, []int64{6, 7, 8}, true},
		{"after, newest first", agent.Page{Limit: 3, After: ids[4], Desc: true}, []int64{8, 7, 6}, true},
		{"before", agent.Page{Limit: 3, Before: ids[4]}, []int64{2, 3, 4}, true},
		{"before, newest first", agent.Page{Limit: 3, Before: ids[4], Desc: true}, []int64{4, 3, 2}, true},
		{"before, to the start", agent.Page{Limit: 9, Before: ids[2]}, []int64{1, 2}, false},
		{"after the last", agent.Page{Limit: 9, After: ids[24]}, nil, false},
		{"one party", agent.Page{Limit: 3, Party: "p1"}, []int64{2, 4, 6}, true},
		{"one party, cursor of the other", agent.Page{Limit: 3, Party: "p1", After: ids[0]}, []int64{2, 4, 6}, true},
		{"no such status", agent.Page{Limit: 3, Status: agent.Read}, nil, false},
		{"role", agent.Page{Limit: 2, Role: agent.RoleUser, Channel: agent.ChannelAPI}, []int64{1, 2}, true},
	} {
		got, more := seqs(c.page)
		if fmt.Sprint(got) != fmt.Sprint(c.want) || more != c.more {
			t.Errorf("%s: got %v more %v, want %v more %v", c.name, got, more, c.want, c.more)
		}
	}
	_, _, err := k.s.List(k.ctx, id, agent.Page{Limit: 1, After: agent.MessageID(agent.NewUUID())})
	k.refused(err, fault.Invalid, "invalid_cursor")
}

func testConversations(t *testing.T, k *kit) {
	id := k.agent(10)
	for i := range 5 {
		k.accept(id, fmt.Sprintf("p%d", i%2))
		time.Sleep(2 * time.Millisecond) // distinct instants: the store's own clock is under test
	}
	rows, more, err := k.s.Conversations(k.ctx, id, 0, 1)
	k.must(err)
	if len(rows) != 1 || rows[0].Party != "p0" || rows[0].Total != 3 || rows[0].Unread != 3 || !more {
		t.Fatalf("rows %+v more %v", rows, more)
	}
	rows, more, err = k.s.Conversations(k.ctx, id, rows[0].LastMS, 5)
	k.must(err)
	if len(rows) != 1 || rows[0].Party != "p1" || rows[0].Total != 2 || more {
		t.Fatalf("rows %+v more %v", rows, more)
	}
}

// testPriorities: tasks stand in the queue by priority, plain messages count as 5, and one that returns gets its old place.
func testPriorities(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	ids := map[string]agent.MessageID{}
	put := func(name string, task *agent.TaskBody) {
		a := k.message(id, agent.NewUUID())
		a.Body.Task = task
		ids[name] = a.ID
		_, err := k.s.Accept(k.ctx, &a)
		k.must(err)
	}
	check := func(want ...string) {
		t.Helper()
		q, err := k.s.Queue(k.ctx, id, 10)
		k.must(err)
		_, peeked, err := k.s.Peek(k.ctx, id, len(want)-1)
		k.must(err)
		if len(q) != len(want) || len(peeked) != len(want)-1 {
			t.Fatalf("%d in the queue, %d at its head, not %v", len(q), len(peeked), want)
		}
		for i, name := range want {
			if q[i].ID != ids[name] || i < len(peeked) && peeked[i].ID != ids[name] {
				t.Fatalf("%s is not at place %d", name, i)
			}
		}
	}
	put("low", &agent.TaskBody{Priority: 1})
	put("plain", nil)
	put("same", &agent.TaskBody{Priority: 5})
	put("high", &agent.TaskBody{Priority: 9})
	put("input", &agent.TaskBody{Of: ids["low"], Priority: 11})
	put("next", nil)
	check("input", "high", "plain", "same", "next", "low")
	q, err := k.s.Queue(k.ctx, id, 10)
	k.must(err)
	for _, m := range []agent.Message{q[1], q[2], q[5]} {
		_, err = k.commit(id, f, func(c *agent.Commit) { c.Take = []agent.MessageID{m.ID} })
		k.must(err)
	}
	check("input", "same", "next")
	_, err = k.commit(id, f, func(c *agent.Commit) {
		c.Requeue = map[agent.MessageID]agent.Place{}
		for _, m := range []agent.Message{q[1], q[2], q[5]} {
			c.Requeue[m.ID] = agent.Place{Seq: m.Seq, Rank: m.Rank()}
		}
	})
	k.must(err)
	check("input", "high", "plain", "same", "next", "low")

	spec := agent.NewSpec(agent.ID(agent.NewUUID()), agent.Settings{}.WithDefaults())
	_, err = k.s.Create(k.ctx, &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}})
	k.must(err)
	pf := k.claim(spec.ID, "m")
	_, err = k.commit(spec.ID, pf, func(c *agent.Commit) { c.Head = map[string]string{agent.HeadStatus: "paused"} })
	k.must(err)
	a := k.message(spec.ID, agent.NewUUID())
	_, err = k.s.Accept(k.ctx, &a)
	k.must(err)
	a.ID, a.Body.Task = agent.MessageID(agent.NewUUID()), &agent.TaskBody{Priority: 5}
	_, err = k.s.Accept(k.ctx, &a)
	k.refused(err, fault.Unavailable, "agent_unavailable")
	a.Body.Task.Of = ids["low"]
	_, err = k.s.Accept(k.ctx, &a)
	k.must(err)
}

// testConcurrent lets one activation commit while others accept: nothing is lost, nothing is queued twice.
func testConcurrent(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 25 {
				a := k.message(id, "p")
				if _, err := k.s.Accept(k.ctx, &a); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	taken := map[agent.MessageID]bool{}
	for len(taken) < 100 && !t.Failed() {
		q, err := k.s.Queue(k.ctx, id, 7)
		k.must(err)
		if len(q) == 0 {
			continue
		}
		_, err = k.commit(id, f, func(c *agent.Commit) {
			for _, m := range q {
				if taken[m.ID] {
					t.Errorf("message %s came twice", m.ID)
				}
				taken[m.ID] = true
				c.Take = append(c.Take, m.ID)
			}
		})
		k.must(err)
	}
	wg.Wait()
}
