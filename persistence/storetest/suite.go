// Package storetest is the contract of the store: one suite that every implementation must pass.
package storetest

import (
	"context"
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
