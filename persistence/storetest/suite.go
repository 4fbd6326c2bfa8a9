// Package storetest is the contract of the store: one suite that every implementation must pass.
package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Store is everything an implementation offers.
type Store interface {
	agent.Snapshots
	agent.Creator
	agent.Inbox
	agent.Messages
	agent.Records
	agent.Ledger
	agent.EventLog
	agent.Routes
	agent.Bots
	account.Streams
	agent.Beats
	agent.Clock
	agent.Alarms
	agent.Watcher
	agent.Leases
	agent.Claims
	account.Accounts
	account.PlatformKeys
	account.ProviderKeys
	account.MCPServers
	account.Directory
	account.Counters
	Ping(ctx context.Context) error
	Close() error
}

// Run proves the contract on one implementation. Open returns a store that may be shared with earlier tests; all ids are fresh.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, *kit){
		"MSG-1 accept":              testAccept,
		"IDEM-3 accept":             testAcceptIdempotent,
		"MSG-9 order":               testOrder,
		"MSG-10 paging":             testPaging,
		"CONV-1 conversations":      testConversations,
		"FENCE-2 fencing":           testFencing,
		"FENCE-1 claims":            testClaims,
		"FENCE-1 leases":            testLeases,
		"FENCE-3 without a fence":   testWithoutFence,
		"FENCE-4 runner guard":      testRunnerGuard,
		"commit operations":         testCommit,
		"BAL-1 balance":             testBalance,
		"QUE-6 priorities":          testPriorities,
		"SCHED-6 a commit queues":   testQueued,
		"LLM-4 reservations":        testLedger,
		"LLM-2 admission":           testAdmission,
		"COMP-1 context":            testContext,
		"FENCE-8 clock":             testClock,
		"IDEM-3 places":             testPlaces,
		"accounts and keys":         testAccounts,
		"MCP-1 servers":             testMCPServers,
		"RATE-1 counters":           testCounters,
		"LIFE-6 purge":              testPurge,
		"watch":                     testWatch,
		"EVT-1 events":              testEvents,
		"OBS-3 records":             testRecords,
		"RATE-4 streams":            testStreams,
		"LLM-9 reports":             testReports,
		"TRIG-8 routes and counts":  testTriggers,
		"CHAN-13 who uses a bot":    testBots,
		"concurrent accepts commit": testConcurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, &kit{t: t, s: open(t), ctx: context.Background()}) })
	}
}

// kit is what the tests share.
type kit struct {
	t   *testing.T
	s   Store
	ctx context.Context
}

func (k *kit) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) refused(err error, kind fault.Kind, code string) {
	k.t.Helper()
	f := fault.Of(err)
	if f == nil || f.Kind != kind || code != "" && f.Code != code {
		k.t.Fatalf("got %v (%+v), want kind %s code %q", err, f, kind, code)
	}
}

// agent creates an agent with a balance and returns its id.
func (k *kit) agent(balance int64) agent.ID {
	k.t.Helper()
	spec := agent.NewSpec(agent.ID(agent.NewUUID()), agent.Settings{}.WithDefaults())
	spec.Account, spec.Name = account.ID(agent.NewUUID()), "probe"
	_, err := k.s.Create(k.ctx, &agent.Creation{Spec: spec, State: agent.State{Status: agent.Active}, Balance: balance})
	k.must(err)
	return spec.ID
}

// claim claims an agent for a member and returns the fence.
func (k *kit) claim(id agent.ID, member string) agent.Fence {
	k.t.Helper()
	for {
		former, err := k.s.Owner(k.ctx, "agent", string(id))
		k.must(err)
		got, won, err := k.s.Claim(k.ctx, "agent", string(id), former, agent.Claim{Member: member, Address: "127.0.0.1:1", PID: "p/agent/" + string(id)})
		k.must(err)
		if won {
			return agent.Fence{Member: member, Epoch: got.Epoch}
		}
	}
}

func (k *kit) version(id agent.ID) int64 {
	k.t.Helper()
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	return sn.Version
}

// commit stores changes under the fence at the present version.
func (k *kit) commit(id agent.ID, f agent.Fence, change func(*agent.Commit)) (agent.Committed, error) {
	k.t.Helper()
	c := &agent.Commit{Agent: id, Fence: f, Version: k.version(id)}
	change(c)
	return k.s.Commit(k.ctx, c)
}

func (k *kit) message(id agent.ID, party string) agent.Acceptance {
	return agent.Acceptance{Agent: id, ID: agent.MessageID(agent.NewUUID()), Limit: 1000,
		Body: agent.Body{Role: agent.RoleUser, Content: "hello", Channel: agent.ChannelAPI, QueueMode: "collect", Source: "user", Counterparty: party}}
}

func (k *kit) accept(id agent.ID, party string) agent.Accepted {
	k.t.Helper()
	a := k.message(id, party)
	got, err := k.s.Accept(k.ctx, &a)
	k.must(err)
	return got
}

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

func testCommit(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	first, second := k.accept(id, "p"), k.accept(id, "p")
	got, err := k.commit(id, f, func(c *agent.Commit) {
		c.Spec, c.State = []byte(`{"name":"n"}`), []byte(`{"x":1}`)
		c.Take = []agent.MessageID{first.ID}
		c.Marks = []agent.MarkPut{{ID: first.ID, Mark: agent.Mark{Status: agent.Read, Outcome: agent.Completed, DeliveredMS: 5, ReadMS: 6}, Party: "p", Unread: -1}}
		c.Append = []agent.Append{{ID: "reply", Body: agent.Body{Role: agent.RoleAssistant, Content: "hi", Counterparty: "p", Channel: agent.ChannelAPI}, Mark: agent.Mark{Status: agent.Delivered, DeliveredMS: agent.AtCreation}}}
		c.Records = []agent.Record{{Kind: agent.RecordTurn, ID: "t1", Score: 1, Body: []byte(`{"a":1}`)}}
		c.Commands = []agent.Command{{Kind: "turn.start", Body: []byte(`{"t":1}`)}, {Kind: "shutdown", Body: []byte(`{"s":"a b"}`)}}
		c.Events = []agent.Event{{Type: "turn.started", Data: []byte(`{}`)}}
		c.Idem = &agent.Idempotency{Key: "k", Hash: "h", Result: []byte("r")}
		c.Head = map[string]string{agent.HeadTurn: "t1", agent.HeadReason: ""}
	})
	k.must(err)
	if len(got.Appended) != 1 || got.Appended[0].Seq != 3 || got.Appended[0].CreatedMS < second.CreatedMS {
		t.Fatalf("appended %+v", got.Appended)
	}
	sn, err := k.s.Load(k.ctx, id)
	k.must(err)
	if string(sn.Spec) != `{"name":"n"}` || string(sn.State) != `{"x":1}` || sn.Version != got.Version || sn.Figures.Pending != 1 || sn.Figures.Messages != 3 || sn.Figures.CommandSeq != 2 {
		t.Fatalf("snapshot %s %s %+v", sn.Spec, sn.State, sn.Figures)
	}
	reply, err := k.s.Message(k.ctx, id, "reply")
	k.must(err)
	if reply.DeliveredAt() != got.Appended[0].CreatedMS {
		t.Fatalf("reply %+v", reply)
	}
	m, _ := k.s.Message(k.ctx, id, first.ID)
	if m.Status != agent.Read || m.Outcome != agent.Completed || m.Content != "hello" {
		t.Fatalf("marked %+v", m)
	}
	rows, _, _ := k.s.Conversations(k.ctx, id, 0, 5)
	if rows[0].Unread != 1 || rows[0].Total != 3 {
		t.Fatalf("conversation %+v", rows[0])
	}
	cmds, err := k.s.Commands(k.ctx, id, 0)
	k.must(err)
	if len(cmds) != 2 || cmds[0].Kind != "turn.start" || cmds[1].Seq != 2 || string(cmds[1].Body) != `{"s":"a b"}` {
		t.Fatalf("commands %+v", cmds)
	}
	if b, err := k.s.Record(k.ctx, id, agent.RecordTurn, "t1"); err != nil || string(b) != `{"a":1}` {
		t.Fatalf("record %s %v", b, err)
	}
	if x, err := k.s.Replay(k.ctx, id, "k", "h"); err != nil || x == nil || string(x.Result) != "r" {
		t.Fatalf("replay %+v %v", x, err)
	}
	again, err := k.commit(id, f, func(c *agent.Commit) {
		c.Idem, c.State = &agent.Idempotency{Key: "k", Hash: "h", Result: []byte("r2")}, []byte(`{"x":2}`)
	})
	k.must(err)
	if sn, _ = k.s.Load(k.ctx, id); string(again.Done) != "r" || string(sn.State) != `{"x":1}` {
		t.Fatalf("a repeated command took effect again: %s %s", again.Done, sn.State)
	}
	if x, err := k.s.Replay(k.ctx, id, "other", "h"); err != nil || x != nil {
		t.Fatalf("replay of an unknown key: %+v %v", x, err)
	}
	_, err = k.s.Replay(k.ctx, id, "k", "another")
	k.refused(err, fault.Mismatch, "idempotency_key_reused")

	_, err = k.commit(id, f, func(c *agent.Commit) {
		c.Requeue = map[agent.MessageID]agent.Place{first.ID: {Seq: first.Seq}}
		c.Confirm = []int64{agent.ConfirmTurn}
		c.Records = []agent.Record{{Kind: agent.RecordTurn, ID: "t1"}}
	})
	k.must(err)
	q, err := k.s.Queue(k.ctx, id, 10)
	k.must(err)
	if len(q) != 2 || q[0].ID != first.ID || q[1].ID != second.ID {
		t.Fatalf("LIFE-4: the queue lost its order: %+v", q)
	}
	if cmds, _ = k.s.Commands(k.ctx, id, 0); len(cmds) != 1 || cmds[0].Kind != "shutdown" {
		t.Fatalf("commands %+v", cmds)
	}
	if b, err := k.s.Record(k.ctx, id, agent.RecordTurn, "t1"); err != nil || b != nil {
		t.Fatalf("deleted record %s %v", b, err)
	}
	ms, err := k.s.ByID(k.ctx, id, []agent.MessageID{second.ID, "unknown", first.ID})
	k.must(err)
	if len(ms) != 2 || ms[0].ID != second.ID {
		t.Fatalf("by id %+v", ms)
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

// testMCPServers: names are unique in an account, and a write that was decided on an older version is refused.
func testMCPServers(t *testing.T, k *kit) {
	a := account.ID(agent.NewUUID())
	put := func(name string) account.MCPServer {
		t.Helper()
		s := account.MCPServer{ID: agent.NewUUID(), Account: a, Name: name, Transport: "http", URL: "https://mcp.example/mcp", Status: account.MCPActive}
		k.must(k.s.PutMCPServer(k.ctx, s))
		s.Version = 1
		return s
	}
	one, two := put("One"), put("one") // case-sensitive
	again := one
	again.ID, again.Version = agent.NewUUID(), 0
	k.refused(k.s.PutMCPServer(k.ctx, again), fault.Conflict, "name_taken")
	again.Account = account.ID(agent.NewUUID())
	k.must(k.s.PutMCPServer(k.ctx, again)) // another account's names are its own
	renamed := two
	renamed.Name = "One"
	k.refused(k.s.PutMCPServer(k.ctx, renamed), fault.Conflict, "name_taken")
	renamed.Name = "uno"
	k.must(k.s.PutMCPServer(k.ctx, renamed))
	k.refused(k.s.PutMCPServer(k.ctx, renamed), fault.Conflict, "version")
	got, err := k.s.MCPServer(k.ctx, a, two.ID)
	k.must(err)
	if got.Name != "uno" || got.Version != 2 || got.URL != two.URL {
		t.Fatalf("%+v", got)
	}
	put("one") // free again
	list, err := k.s.ListMCPServers(k.ctx, a)
	k.must(err)
	if len(list) != 3 || list[0].Name != "one" || list[2].Name != "One" {
		t.Fatalf("%+v", list)
	}
	_, err = account.ChangeMCPServer(k.ctx, k.s, a, one.ID, func(s *account.MCPServer) (bool, error) {
		s.Grants = append(s.Grants, account.MCPGrant{ID: "g", Agent: "x", Tools: []string{"t"}}, account.MCPGrant{ID: "h", Agent: "y"})
		return true, nil
	})
	k.must(err)
	k.must(account.RevokeAll(k.ctx, k.s, a, "x"))
	if got, err = k.s.MCPServer(k.ctx, a, one.ID); err != nil || len(got.Grants) != 1 || got.Grant("y").Mode() != "all" {
		t.Fatalf("MCP-5: %+v %v", got, err)
	}
	k.refused(k.s.DeleteMCPServer(k.ctx, a, one.ID, 1), fault.Conflict, "version")
	k.must(k.s.DeleteMCPServer(k.ctx, a, one.ID, got.Version))
	k.refused(k.s.DeleteMCPServer(k.ctx, a, one.ID, got.Version), fault.NotFound, "")
	_, err = k.s.MCPServer(k.ctx, a, one.ID)
	k.refused(err, fault.NotFound, "")
	put("One")
}

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

// running starts a turn as far as the ledger can see.
func (k *kit) running(balance int64) agent.ID {
	k.t.Helper()
	id := k.agent(balance)
	f := k.claim(id, "m")
	_, err := k.commit(id, f, func(c *agent.Commit) {
		c.Head = map[string]string{agent.HeadIncarnation: "1", agent.HeadTurn: "t1", agent.HeadSession: "s1"}
	})
	k.must(err)
	return id
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

func testClock(t *testing.T, k *kit) {
	id := k.agent(10)
	owners := map[int]agent.Fence{}
	home := -1 // the shard of the agent, once it was found
	for shard := range k.s.Shards() {
		former, err := k.s.Owner(k.ctx, agent.KindClock, fmt.Sprint(shard))
		k.must(err)
		got, won, err := k.s.Claim(k.ctx, agent.KindClock, fmt.Sprint(shard), former, agent.Claim{Member: "m", Address: "127.0.0.1:1", PID: "p"})
		k.must(err)
		if !won {
			t.Fatalf("shard %d was not claimed", shard)
		}
		owners[shard] = agent.Fence{Member: "m", Epoch: got.Epoch}
	}
	var upcoming int64 // ms, of the shard that was looked at last
	find := func(pending bool) *agent.Alarm {
		t.Helper()
		for shard, f := range owners {
			if home >= 0 && shard != home {
				continue
			}
			all, next, err := k.s.Sweep(k.ctx, shard, f, 10000)
			k.must(err)
			if upcoming = -1; next >= 0 {
				upcoming = next
			}
			for _, a := range all {
				if a.ID == id && a.Pending == pending {
					home = shard
					return &a
				}
			}
		}
		return nil
	}
	if find(false) != nil {
		t.Fatal("an alarm nobody armed")
	}
	k.must(k.s.Arm(k.ctx, id, 1000))
	a := find(false)
	if a == nil {
		t.Fatal("a due alarm was not found")
	}
	if upcoming < 1000 || upcoming > 2000 { // what was handed out comes again after two seconds
		t.Fatalf("the next alarm of the shard is due in %d ms", upcoming)
	}
	if find(false) != nil {
		t.Fatal("an alarm that was handed out came again at once")
	}
	k.must(k.s.Arm(k.ctx, id, 2000))
	k.must(k.s.Clear(k.ctx, home, owners[home], []agent.Alarm{*a})) // it has changed since it was read
	if find(false) == nil {
		t.Fatal("an alarm that was armed anew was cleared")
	}
	k.must(k.s.Arm(k.ctx, id, 0))
	f := k.claim(id, "m")
	_, err := k.commit(id, f, func(c *agent.Commit) { c.Due = 3000 })
	k.must(err)
	_, err = k.commit(id, f, func(c *agent.Commit) { c.Due = 1 << 50 })
	k.must(err)
	if find(false) == nil {
		t.Fatal("a commit moved an alarm back")
	}
	for _, due := range []int64{1 << 50, 3000, 0} { // later, earlier, gone
		k.must(k.s.Arm(k.ctx, id, 2000))
		done, err := k.commit(id, f, func(c *agent.Commit) { c.Due, c.Rearm = due, true })
		k.must(err)
		if got := find(false) != nil; done.Rearmed && got != (due == 3000) || !done.Rearmed && !got {
			t.Fatalf("armed anew to %d by a commit (done %v): found due %v", due, done.Rearmed, got)
		}
	}
	k.accept(id, "p")
	if find(true) != nil {
		t.Fatal("a fresh acceptance is swept before its hint had time")
	}
	stale := owners[home] // the owner before the last one neither hands out nor clears (FENCE-8)
	stale.Epoch--
	_, _, err = k.s.Sweep(k.ctx, home, stale, 10)
	k.refused(err, fault.Fenced, "")
	k.refused(k.s.Clear(k.ctx, home, stale, []agent.Alarm{*a}), fault.Fenced, "")
}

func testPlaces(t *testing.T, k *kit) {
	acct := account.ID(agent.NewUUID())
	place := func(key, hash string, limit int) account.Place {
		return account.Place{Account: acct, Agent: agent.NewUUID(), Limit: limit, Key: key, Hash: hash}
	}
	var wg sync.WaitGroup
	var got atomic.Int32
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := k.s.TakePlace(k.ctx, place("", "", 3))
			if err == nil {
				got.Add(1)
			} else if !fault.Is(err, fault.Forbidden) {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n, err := k.s.CountAgents(k.ctx, acct); err != nil || n != 3 || got.Load() != 3 {
		t.Fatalf("TEN-3: %d places taken, %d counted, %v", got.Load(), n, err)
	}
	p := place("key", "h", 0)
	taken, err := k.s.TakePlace(k.ctx, p)
	k.must(err)
	if taken.Agent != p.Agent || taken.Replayed {
		t.Fatalf("taken %+v", taken)
	}
	_, err = k.s.TakePlace(k.ctx, place("key", "h", 0))
	k.refused(err, fault.Conflict, "idempotency_in_progress")
	_, err = k.s.TakePlace(k.ctx, place("key", "other", 0))
	k.refused(err, fault.Mismatch, "")
	k.must(k.s.KeepPlace(k.ctx, p, []byte("response")))
	again, err := k.s.TakePlace(k.ctx, place("key", "h", 0))
	k.must(err)
	if !again.Replayed || again.Agent != p.Agent || string(again.Result) != "response" {
		t.Fatalf("replay %+v", again)
	}
	failed := place("key2", "h", 0)
	_, err = k.s.TakePlace(k.ctx, failed)
	k.must(err)
	k.must(k.s.FreePlace(k.ctx, failed))
	if fresh, err := k.s.TakePlace(k.ctx, place("key2", "other", 0)); err != nil || fresh.Agent == failed.Agent {
		t.Fatalf("IDEM-5: the key of a failed create is not free: %+v %v", fresh, err)
	}
	id := k.agent(1)
	sn, _ := k.s.Load(k.ctx, id)
	_, err = k.s.TakePlace(k.ctx, account.Place{Account: sn.Figures.Account, Agent: string(id)})
	k.must(err)
	var seen []account.Entry
	k.must(k.s.Agents(k.ctx, sn.Figures.Account, func(e account.Entry) bool { seen = append(seen, e); return true }))
	if len(seen) != 1 || seen[0].Agent != string(id) || seen[0].Status != "active" {
		t.Fatalf("agents %+v", seen)
	}
}

func testAccounts(t *testing.T, k *kit) {
	a := account.Account{ID: account.ID(agent.NewUUID()), Email: agent.NewUUID() + "@acme.test", Verified: true}
	_, err := k.s.CreateAccount(k.ctx, a)
	k.must(err)
	twin := a
	twin.ID = account.ID(agent.NewUUID())
	_, err = k.s.CreateAccount(k.ctx, twin)
	k.refused(err, fault.Conflict, "email_taken")
	a.Verified = false
	k.must(k.s.PutAccount(k.ctx, a))
	got, err := k.s.AccountByEmail(k.ctx, a.Email)
	k.must(err)
	if got.ID != a.ID || got.Verified {
		t.Fatalf("account %+v", got)
	}
	_, err = k.s.Account(k.ctx, twin.ID)
	k.refused(err, fault.NotFound, "")
	var keys []account.PlatformKey
	for i := range 2 {
		key := account.PlatformKey{ID: agent.NewUUID(), Account: a.ID, Name: fmt.Sprint(i), Hash: agent.NewUUID(), Status: account.KeyActive}
		k.must(k.s.PutPlatformKey(k.ctx, key))
		keys = append(keys, key)
	}
	list, err := k.s.ListPlatformKeys(k.ctx, a.ID)
	k.must(err)
	if len(list) != 2 || list[0].ID != keys[1].ID {
		t.Fatalf("newest first: %+v", list)
	}
	if found, err := k.s.PlatformKeyByHash(k.ctx, keys[0].Hash); err != nil || found.ID != keys[0].ID {
		t.Fatalf("by hash %+v %v", found, err)
	}
	k.must(k.s.DeletePlatformKey(k.ctx, a.ID, keys[0].ID))
	_, err = k.s.PlatformKeyByHash(k.ctx, keys[0].Hash)
	k.refused(err, fault.NotFound, "")
	k.refused(k.s.DeletePlatformKey(k.ctx, a.ID, keys[0].ID), fault.NotFound, "")
	pk := account.ProviderKey{ID: agent.NewUUID(), Account: a.ID, Provider: "anthropic", Sealed: "v1", Status: account.KeyActive}
	k.must(k.s.PutProviderKey(k.ctx, pk))
	vs, err := k.s.ListProviderKeys(k.ctx, a.ID)
	k.must(err)
	if len(vs) != 1 || vs[0].Sealed != "v1" {
		t.Fatalf("provider keys %+v", vs)
	}
	k.must(k.s.DeleteProviderKey(k.ctx, a.ID, pk.ID))
	k.refused(k.s.DeleteProviderKey(k.ctx, a.ID, pk.ID), fault.NotFound, "")
}

func testCounters(t *testing.T, k *kit) {
	key := agent.NewUUID()
	for i := int64(1); i <= 3; i++ {
		w, err := k.s.Count(k.ctx, key, 3, 60000)
		k.must(err)
		if w.Count != i || w.Refused || w.EndMS < time.Now().UnixMilli() {
			t.Fatalf("window %+v", w)
		}
	}
	w, err := k.s.Count(k.ctx, key, 3, 60000)
	k.must(err)
	if !w.Refused || w.Count != 3 {
		t.Fatalf("RATE-1: refused requests must not extend the window: %+v", w)
	}
	if n, err := k.s.Counted(k.ctx, key); err != nil || n != 3 {
		t.Fatalf("counted %d %v", n, err)
	}
	k.must(k.s.Uncount(k.ctx, key))
	k.must(k.s.Uncount(k.ctx, "nobody"))
	if w, err := k.s.Count(k.ctx, key, 3, 60000); err != nil || w.Refused || w.Count != 3 {
		t.Fatalf("after taking one back: %+v %v", w, err)
	}
	if n, err := k.s.Counted(k.ctx, "nobody"); err != nil || n != 0 {
		t.Fatalf("counted %d %v", n, err)
	}
}

func testPurge(t *testing.T, k *kit) {
	id := k.agent(10)
	k.accept(id, "p")
	k.must(k.s.Purge(k.ctx, id))
	k.must(k.s.Purge(k.ctx, id))
	_, err := k.s.Load(k.ctx, id)
	k.refused(err, fault.NotFound, "")
	if q, err := k.s.Queue(k.ctx, id, 1); err != nil || len(q) != 0 {
		t.Fatalf("queue %v %v", q, err)
	}
}

func testWatch(t *testing.T, k *kit) {
	id := k.agent(10)
	f := k.claim(id, "m")
	hints := make(chan struct{}, 100)
	cancel := k.s.Watch(id, func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	})
	defer cancel()
	for deadline := time.After(20 * time.Second); ; {
		_, err := k.commit(id, f, func(*agent.Commit) {})
		k.must(err)
		select {
		case <-hints:
			cancel()
			cancel()
			return
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("no hint came")
		}
	}
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
