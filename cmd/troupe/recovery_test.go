package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/protocol"
)

// turnsOf returns the turns of an agent's newest session.
func turnsOf(w *world, id string) []any {
	w.t.Helper()
	sessions := w.want(w.call("GET", "/v1/agent/"+id+"/sessions", nil), 200).doc["sessions"].([]any)
	detail := w.want(w.call("GET", "/v1/agent/"+id+"/sessions/"+sessions[0].(map[string]any)["id"].(string), nil), 200)
	return detail.doc["turns"].([]any)
}

func TestREC_3_ANewPodResumesTheTurn(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!tool shell {\"command\":\"echo x >> log; touch started; sleep 3\"}\n!say done"}), 201)
	pid := w.runnerPID(id, "started")
	if err := exec.Command("pkill", "-KILL", "-s", fmt.Sprint(pid)).Run(); err != nil { // the pod, with everything in it
		t.Fatal(err)
	}
	w.until("the turn ended", func() bool { return allMessages(w, id)[0]["outcome"] != nil })
	if m := allMessages(w, id); m[0]["outcome"] != "completed" || len(m) != 2 {
		t.Errorf("%v", m)
	}
	turns := turnsOf(w, id)
	if turn := turns[0].(map[string]any); len(turns) != 1 || turn["attempt"] != 2.0 {
		t.Errorf("REC-2: %v", turns)
	}
	if rt := w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200); rt.num("pod.incarnation") != 2 {
		t.Errorf("%s", rt.body)
	}
}

// TestREC_7_AStoreThatWentBackIsBelieved takes the last write of an agent away, as a failover to a replica may that did not have it.
func TestREC_7_AStoreThatWentBackIsBelieved(t *testing.T) {
	srv := startRedisFor(t)
	w := startWorld(t, func(c *Config) { c.RedisURL, c.Sandbox = srv.URL(), "off" })
	id := w.agent(nil)
	w.until("it rests", func() bool { return w.call("GET", "/v1/agent/"+id+"/ready", nil).get("ready") == true })
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr})
	defer rdb.Close()
	ctx, head := context.Background(), "a:{"+id+"}:h"
	before, err := rdb.Dump(ctx, head).Result()
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	if err := rdb.RestoreReplace(ctx, head, 0, before).Err(); err != nil {
		t.Fatal(err)
	}
	w.refused(w.call("POST", "/v1/agent/"+id+"/pause", nil), 400, "invalid_state") // it is paused, as the store says
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	if m := w.ask(id, "!say fine"); m.str("outcome") != "completed" {
		t.Errorf("%s", m.body)
	}
}

func TestREC_8_TheWholeControlPlaneComesBack(t *testing.T) {
	cfg := testConfig(t)
	cfg.RedisURL = startRedisFor(t).URL()
	p := startProcess(t, cfg, "TROUPE_SANDBOX=off")
	w := p.world(cfg)
	id := w.agent(nil)
	msg := w.say(id, "!tool shell {\"command\":\"touch started; sleep 1; echo x >> log\"}\n!say survived")
	w.runnerPID(id, "started")
	p.kill() // and nobody is left: the tool ends, the runner waits
	w.runnerPID(id, "log")
	p.up()
	w = p.world(cfg)
	w.until("the turn ended", func() bool { return w.call("GET", "/v1/agent/"+id+"/messages/"+msg, nil).get("outcome") != nil })
	if m := allMessages(w, id); m[0]["outcome"] != "completed" || m[1]["content"] != "[rehearsal model] survived" {
		t.Errorf("%v", m)
	}
	if turn := turnsOf(w, id)[0].(map[string]any); turn["attempt"] != 1.0 {
		t.Errorf("the turn was restarted: %v", turn)
	}
}

// TestREC_9_ARollingRestartRefusesNobody restarts three nodes one after the other under load. A connection that is refused is
// what a load balancer answers; whatever a node answers itself is no 5xx.
func TestREC_9_ARollingRestartRefusesNobody(t *testing.T) {
	cfg := testConfig(t)
	cfg.RedisURL = startRedisFor(t).URL()
	var nodes []*nodeProcess
	var worlds []*world
	for _, name := range []string{"a", "b", "c"} {
		p := startProcess(t, cfg, "TROUPE_NODE_NAME="+name, "TROUPE_LEASE_TTL=6s", "TROUPE_SANDBOX=off")
		nodes, worlds = append(nodes, p), append(worlds, p.world(cfg))
	}
	all := func() bool {
		for _, w := range worlds {
			got, err := w.try("GET", "/v1/cluster", nil)
			if err != nil || got.status != 200 || len(got.doc["members"].([]any)) != 3 {
				return false
			}
		}
		return true
	}
	worlds[0].until("the nodes see each other", all)
	var ids []string
	for range 6 {
		ids = append(ids, worlds[0].agent(nil))
	}
	var stop atomic.Bool
	var answered, away atomic.Int64
	var wg sync.WaitGroup
	sent := make([]map[string]bool, 6) // by sender, only one writes each
	for k := range 6 {
		sent[k] = map[string]bool{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; !stop.Load(); n++ {
				w, id := worlds[(k+n)%3], ids[k]
				var got *answer
				var err error
				if n%3 == 0 {
					got, err = w.try("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "increment", "amount": 1})
				} else {
					got, err = w.try("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say ok"})
				}
				switch {
				case err != nil && (strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "closed idle")):
					away.Add(1)
				case err != nil:
					t.Errorf("%v", err)
				case got.status >= 500:
					t.Errorf("REC-9: %d %s", got.status, got.body)
				default:
					answered.Add(1)
					if got.status == 201 {
						sent[k][got.str("id")] = true
					}
				}
			}
		}()
	}
	for i, p := range nodes {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("node %d ended with %v", i, err)
		}
		p.up()
		worlds[0].until("the node is back", all)
	}
	stop.Store(true)
	wg.Wait()
	for k, id := range ids {
		worlds[0].until("everything is answered", func() bool {
			for _, m := range allMessages(worlds[0], id) {
				if m["role"] == "user" && m["outcome"] == nil {
					return false
				}
			}
			return true
		})
		stored := map[string]bool{}
		for _, m := range allMessages(worlds[0], id) {
			stored[m["id"].(string)] = true
		}
		for msg := range sent[k] {
			if !stored[msg] {
				t.Errorf("message %s is lost", msg)
			}
		}
	}
	t.Logf("%d calls answered, %d met a node that was down", answered.Load(), away.Load())
}

// TestFENCE_7_TwoActivationsAliveAtOnce gives an agent a second owner while the first lives on, holds its lease and knows
// nothing. Whatever the first has or gets to do, it neither writes nor commands nor spends.
func TestFENCE_7_TwoActivationsAliveAtOnce(t *testing.T) {
	w, r := byHand(t, nil)
	id, st, ctx := agent.ID(r.id), w.n.st, context.Background()
	w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	pid := w.member().Cluster.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: r.id, Kind: agentclient.Kind})

	other := agent.Member{ID: "other", Name: "other", Address: "127.0.0.1:1", Kinds: []string{agentclient.Kind}}
	if _, err := st.Lease(ctx, other, true, 60_000, nil); err != nil {
		t.Fatal(err)
	}
	former, err := st.Owner(ctx, agentclient.Kind, r.id)
	if err != nil {
		t.Fatal(err)
	}
	next, won, err := st.Claim(ctx, agentclient.Kind, r.id, former, agent.Claim{Member: other.ID, Address: other.Address, PID: "x"})
	if err != nil || !won {
		t.Fatal(next, won, err)
	}
	sn, err := st.Load(ctx, id) // the new owner lets a runner of its own in
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(ctx, &agent.Commit{Agent: id, Fence: agent.Fence{Member: other.ID, Epoch: next.Epoch}, Version: sn.Version, Attach: 45_000}); err != nil {
		t.Fatal(err)
	}
	before, err := st.Load(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	commands, err := st.Commands(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}

	root := w.member().Cluster.ActorSystem.Root
	for _, cmd := range []*protocol.Command{protocol.NewCommand(protocol.Status, protocol.StatusCommand{Verb: agent.Stop}), {Kind: protocol.Look}, {Kind: protocol.Observe},
		protocol.NewCommand(protocol.Balance, agent.BalanceChange{Set: true, Amount: 1}),
		protocol.NewCommand(protocol.End, protocol.EndCommand{Guard: protocol.Guard{Incarnation: 1, Epoch: int64(r.epoch)}, End: agent.End{Turn: agent.TurnID(turn.ID), Outcome: agent.Completed}})} {
		if cmd.Id == "" {
			root.Send(pid, cmd)
			continue
		}
		res, err := root.RequestFuture(pid, cmd, 3*time.Second).Result()
		if reply, ok := res.(*protocol.Reply); err == nil && ok && reply.Err() == nil {
			t.Errorf("FENCE-2: the stale activation carried out %s", cmd.Kind)
		}
	}
	for path, body := range map[string]any{"/heartbeat": map[string]any{"execution_status": "working"}} {
		w.refused(r.do("POST", path, body), 409, "stale_runner")
	}
	call := r.call("POST", messagesPath, map[string]any{"model": "m", "max_tokens": 10, "messages": []any{map[string]any{"role": "user", "content": "!say spend"}}},
		"Authorization", "", "x-api-key", r.key, "X-Troupe-Runner-Epoch", fmt.Sprint(r.epoch))
	if call.status != http.StatusForbidden {
		t.Errorf("FENCE-7: a model call of the stale runner: %d %s", call.status, call.body)
	}
	after, err := st.Load(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	now, err := st.Commands(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if after.Version != before.Version || string(after.State) != string(before.State) || after.Figures.Balance != before.Figures.Balance || len(now) != len(commands) {
		t.Errorf("FENCE-7: the stale activation left something behind: version %d to %d, %d commands to %d\n%s", before.Version, after.Version, len(commands), len(now), after.State)
	}
	w.until("the stale activation has ended", func() bool {
		_, lives := w.member().Cluster.ActorSystem.ProcessRegistry.GetLocal(pid.Id)
		return !lives
	})
	if page := string(w.n.metrics.page()); !strings.Contains(page, `troupe_fence_rejections_total{kind="agent"}`) {
		t.Error("FENCE-2: nothing was counted")
	}
	if err := st.Leave(ctx, other.ID); err != nil {
		t.Fatal(err)
	}
}

func TestFENCE_6_CommandsNameTheirActivation(t *testing.T) {
	w, r := byHand(t, nil)
	s := r.subscribe("")
	first := s.next("sync")
	epoch := int(w.want(w.call("GET", "/v1/agent/"+r.id+"/runtime", nil), 200).num("epoch"))
	if first.Epoch != epoch {
		t.Errorf("the stream speaks for activation %d, the agent's is %d", first.Epoch, epoch)
	}
	w.say(r.id, "one")
	if c := s.next("turn.start"); c.Epoch != epoch {
		t.Errorf("turn.start speaks for activation %d, the agent's is %d", c.Epoch, epoch)
	}
}

// TestTrap17_AnUnknownCommandIsAnswered: between nodes of two versions the library cuts the connection on a message it does not know.
func TestTrap17_AnUnknownCommandIsAnswered(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	here := w.member().Cluster
	var pid *actor.PID
	w.until("it is activated", func() bool {
		pid = here.IdentityLookup.Get(&cluster.ClusterIdentity{Identity: id, Kind: agentclient.Kind})
		return pid != nil
	})
	res, err := here.ActorSystem.Root.RequestFuture(pid, protocol.NewCommand("of-a-later-version", struct{}{}), 20*time.Second).Result()
	reply, ok := res.(*protocol.Reply)
	if err != nil || !ok || reply.Err() == nil || !strings.Contains(reply.Err().Error(), "of-a-later-version") {
		t.Errorf("%v, %v", res, err)
	}
}

// TestTrap16_LargeCommandsCrossMembers: with the library's defaults a batch above four megabytes is dropped without a word.
func TestTrap16_LargeCommandsCrossMembers(t *testing.T) {
	_, _, wa, wb := pair(t, 6*time.Second)
	id := held(wa, "a", 1)[0]
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			prompt := fmt.Sprint(i) + strings.Repeat("x", 95_000)
			if got, err := wb.try("POST", "/v1/agent/update/"+id, map[string]any{"system_prompt": prompt}); err != nil || got.status != 200 {
				t.Errorf("update %d: %v %+v", i, err, got)
			}
		}()
	}
	wg.Wait()
}

// TestTrap19_StrangersAreNotHeard: the library's remote authenticates nobody by default.
func TestTrap19_StrangersAreNotHeard(t *testing.T) {
	w := startWorld(t, nil)
	addr := w.member().Provider.Self().Address
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_ = plain.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = plain.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	buf := make([]byte, 64)
	if n, err := plain.Read(buf); err == nil && n > 0 && buf[0] != 21 { // anything but a TLS alert
		t.Errorf("in clear it answers %q", buf[:n])
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // a stranger's client, which trusts anybody
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(buf)
	}
	if err == nil {
		t.Error("a caller without a certificate is heard")
	}
}
