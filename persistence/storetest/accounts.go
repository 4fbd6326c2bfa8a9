package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

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
