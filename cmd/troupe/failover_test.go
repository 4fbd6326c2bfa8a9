package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// pair starts two nodes on one store with the default lease.
func pair(t *testing.T, lease time.Duration) (a, b *nodeProcess, wa, wb *world) {
	t.Helper()
	cfg := testConfig(t)
	cfg.RedisURL = startRedisFor(t).URL()
	a = startProcess(t, cfg, "TROUPE_NODE_NAME=a", "TROUPE_LEASE_TTL="+lease.String())
	wa = a.world(cfg)
	b = startProcess(t, cfg, "TROUPE_NODE_NAME=b", "TROUPE_LEASE_TTL="+lease.String())
	wb = b.world(cfg)
	wa.until("both see each other", func() bool {
		return len(wa.call("GET", "/v1/cluster", nil).doc["members"].([]any)) == 2 && len(wb.call("GET", "/v1/cluster", nil).doc["members"].([]any)) == 2
	})
	return a, b, wa, wb
}

// held makes agents until n of them are on the node, and returns those.
func held(w *world, node string, n int) (ids []string) {
	for len(ids) < n {
		id := w.agent(nil)
		if w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200).str("node") == node {
			ids = append(ids, id)
		}
	}
	return ids
}

func TestREC_9_AStoppingNodeHandsOver(t *testing.T) {
	a, _, wa, wb := pair(t, time.Minute) // who waited for its end would be refused
	ids := held(wa, "a", 8)
	var stop atomic.Bool
	var calls, slowest atomic.Int64
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Add(1)
		go func() { // commands to agents of the stopping node, through the other one
			defer wg.Done()
			for n := 0; !stop.Load(); n++ {
				start := time.Now()
				got, err := wb.try("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "increment", "amount": 1})
				if err != nil || got.status != 200 {
					t.Errorf("agent %d, call %d: %v %+v", i, n, err, got)
					return
				}
				calls.Add(1)
				slowest.Store(max(slowest.Load(), time.Since(start).Milliseconds()))
			}
		}()
	}
	wb.until("calls are made", func() bool { return calls.Load() > 50 })
	began := time.Now()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
	took := time.Since(began)
	before := calls.Load()
	wb.until("the agents go on elsewhere", func() bool { return calls.Load() > before+50 })
	stop.Store(true)
	wg.Wait()
	if took > 25*time.Second {
		t.Errorf("the node stopped in %s", took)
	}
	for _, id := range ids {
		if node := wb.want(wb.call("GET", "/v1/agent/"+id+"/runtime", nil), 200).str("node"); node != "b" {
			t.Errorf("agent %s is on %q", id, node)
		}
	}
	t.Logf("stopped in %s, %d calls, none refused, the slowest %d ms", took.Round(time.Millisecond), calls.Load(), slowest.Load())
}

func TestREC_1_RunningTurnsAreFoundByTheClock(t *testing.T) {
	a, _, wa, wb := pair(t, 6*time.Second)
	id := held(wa, "a", 1)[0]
	// The runner is silent: nothing but the clock can find the agent.
	wb.want(wb.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!tool shell {\"command\":\"sleep 28\"}\n!say done"}), 201)
	wb.until("the turn runs", func() bool { return wb.call("GET", "/v1/agent/"+id+"/runtime", nil).get("turn") != nil })
	wb.until("the shards of the clock are shared", func() bool { return wb.call("GET", "/v1/cluster", nil).get("grains.clock") == 64.0 })
	count := func() float64 {
		for _, m := range wb.want(wb.call("GET", "/v1/cluster", nil), 200).doc["members"].([]any) {
			x := m.(map[string]any)
			if x["address"] != nil && x["id"] == wb.call("GET", "/v1/cluster", nil).str("node") {
				n, _ := x["grains"].(map[string]any)["agent"].(float64)
				return n
			}
		}
		return 0
	}
	had := count()
	killed := time.Now()
	a.kill()
	wb.until("the agent is activated on the other node", func() bool { return count() > had })
	if took := time.Since(killed); took > 20*time.Second { // ten on a machine that is not busy, and the census is up to a second and a half old
		t.Errorf("REC-1: the takeover took %s", took)
	} else {
		t.Logf("the takeover was seen %s after the kill", took.Round(time.Millisecond))
	}
	wb.until("the turn ended as if nothing had happened", func() bool {
		m := allMessages(wb, id)
		return len(m) == 2 && m[0]["outcome"] == "completed"
	})
	session := wb.call("GET", "/v1/agent/"+id+"/sessions", nil).doc["sessions"].([]any)[0].(map[string]any)
	detail := wb.want(wb.call("GET", "/v1/agent/"+id+"/sessions/"+session["id"].(string), nil), 200)
	if attempt := detail.doc["turns"].([]any)[0].(map[string]any)["attempt"]; attempt != 1.0 {
		t.Errorf("REC-1: the turn was restarted, attempt %v", attempt)
	}
}

func TestFENCE_7_AFrozenNodeComesBackAsANewMember(t *testing.T) {
	a, _, wa, wb := pair(t, 6*time.Second)
	ids := held(wa, "a", 4)
	frozen := wa.call("GET", "/v1/cluster", nil).str("node")
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids { // the other node takes over once the lease is over
		wb.until("the agent moved", func() bool {
			got, err := wb.try("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "set", "amount": 100 + i})
			return err == nil && got.status == 200
		})
	}
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wa.until("the frozen node serves again under a new id", func() bool {
		got, err := wa.try("GET", "/v1/cluster", nil)
		return err == nil && got.status == 200 && got.str("node") != frozen && len(got.doc["members"].([]any)) == 2
	})
	for i, id := range ids { // and what it held before is the other's: nothing of it was written over
		got := wa.want(wa.call("GET", "/v1/agent/"+id, nil), 200)
		if got.num("output_token_balance") != float64(100+i) {
			t.Errorf("%s", got.body)
		}
		if node := wa.want(wa.call("GET", "/v1/agent/"+id+"/runtime", nil), 200).str("node"); node != "b" {
			t.Errorf("the agent went back to %s", node)
		}
		w := map[bool]*world{true: wa, false: wb}[i%2 == 0]
		if m := w.ask(id, fmt.Sprintf("!say %d", i)); m.str("outcome") != "completed" {
			t.Errorf("%s", m.body)
		}
	}
}
