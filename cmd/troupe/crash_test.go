package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// nodeProcess is a node in a process of its own, which a test can kill.
type nodeProcess struct {
	t    testing.TB
	env  []string
	addr string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

// startProcess runs this test binary as a node.
func startProcess(t testing.TB, cfg Config, env ...string) *nodeProcess {
	t.Helper()
	p := &nodeProcess{t: t, addr: freePort(t)}
	p.env = append(os.Environ(), "TROUPE_TEST_NODE=1", "TROUPE_LISTEN="+p.addr, "TROUPE_DATA_DIR="+cfg.DataDir, "TROUPE_RUNNER="+runnerBinary, "TROUPE_BOOTSTRAP_API_KEY="+testKey,
		"TROUPE_RATE_LIMIT=0", "TROUPE_GUEST_RATE_LIMIT=0", "TROUPE_ANTHROPIC_URL=rehearsal", "TROUPE_LOG=warn", "TROUPE_REDIS_URL="+cfg.RedisURL, "TROUPE_LEASE_TTL=500ms")
	p.env = append(p.env, env...)
	p.up()
	t.Cleanup(func() {
		p.kill()
		killRunners(t, cfg.DataDir)
		if t.Failed() {
			b := p.out.Bytes()
			t.Logf("node's log:\n%s", b[max(0, len(b)-8000):])
		}
	})
	return p
}

func (p *nodeProcess) up() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "dev")
	p.cmd.Env = p.env
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *nodeProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// world returns a client of the process, once it answers.
func (p *nodeProcess) world(cfg Config) *world {
	p.t.Helper()
	w := &world{t: p.t, base: "http://" + p.addr, key: testKey, dir: cfg.DataDir}
	w.until("the node answers", func() bool { a, err := w.try("GET", "/health", nil); return err == nil && a.status == 200 })
	return w
}

// TestMSG_2_NothingIsLostOrAnsweredTwice kills the node again and again, at random points, under concurrent senders.
// Every message that was acknowledged reaches an outcome, and none is answered by two completed turns.
func TestMSG_2_NothingIsLostOrAnsweredTwice(t *testing.T) {
	kills := 12
	if s := os.Getenv("TROUPE_TEST_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	stores(t, func(t *testing.T, change func(*Config)) {
		cfg := testConfig(t)
		change(&cfg)
		p := startProcess(t, cfg)
		w := p.world(cfg)
		var agents []string
		for i := range 4 {
			agents = append(agents, w.agent(map[string]any{"name": fmt.Sprint("a", i), "output_token_balance": 1 << 40}))
		}
		var mu sync.Mutex
		sent := map[string]string{} // message → agent
		var stop atomic.Bool
		var senders sync.WaitGroup
		for s := range 32 {
			senders.Add(1)
			go func() {
				defer senders.Done()
				for n := 0; !stop.Load(); n++ {
					id := agents[rand.IntN(len(agents))]
					a, err := w.try("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": fmt.Sprintf("%d/%d", s, n)}, "Idempotency-Key", fmt.Sprintf("s%d-%d", s, n))
					if err == nil && a.status == 201 {
						mu.Lock()
						sent[a.str("id")] = id
						mu.Unlock()
					}
					time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond) // senders have pauses
				}
			}()
		}
		w.until("something is acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(sent) > 0
		})
		for range kills {
			time.Sleep(time.Duration(50+rand.IntN(600)) * time.Millisecond) // the random point
			p.kill()
			p.up()
		}
		stop.Store(true)
		senders.Wait()
		w = p.world(cfg)
		outcomes := map[string]int{}
		w.until("every message has its outcome", func() bool {
			clear(outcomes)
			open := 0
			for _, id := range agents {
				for _, m := range allMessages(w, id) {
					if m["role"] == "user" {
						if m["outcome"] == nil {
							open++
						} else {
							outcomes[m["outcome"].(string)]++
						}
					}
				}
			}
			return open == 0
		})
		stored, replies := map[string]map[string]any{}, map[string]int{}
		completedBy := map[string]map[string]bool{}
		for _, id := range agents {
			for _, m := range allMessages(w, id) {
				if m["role"] == "user" {
					stored[m["id"].(string)] = m
				} else if to, ok := m["reply_to_id"].(string); ok {
					replies[to]++
					if completedBy[to] == nil {
						completedBy[to] = map[string]bool{}
					}
					completedBy[to][m["turn_id"].(string)] = true
				}
			}
		}
		lost, twice := 0, 0
		for id := range sent {
			if stored[id] == nil {
				lost++
			}
		}
		for id, turns := range completedBy {
			if len(turns) > 1 {
				twice++
				t.Errorf("message %s was answered by turns %v", id, turns)
			}
		}
		if lost > 0 || twice > 0 || len(sent) == 0 {
			t.Errorf("acknowledged %d, lost %d, answered twice %d", len(sent), lost, twice)
		}
		t.Logf("%d kills: acknowledged %d, stored %d, lost %d, answered twice %d, outcomes %v", kills, len(sent), len(stored), lost, twice, outcomes)
	})
}

// allMessages walks the whole history (MSG-10).
func allMessages(w *world, id string) (out []map[string]any) {
	w.t.Helper()
	after := ""
	for {
		path := "/v1/agent/" + id + "/messages?limit=100"
		if after != "" {
			path += "&after=" + after
		}
		a := w.want(w.call("GET", path, nil), 200)
		rows, _ := a.doc["messages"].([]any)
		for _, r := range rows {
			m := r.(map[string]any)
			out = append(out, m)
			after = m["id"].(string)
		}
		if a.doc["has_more"] != true {
			return out
		}
	}
}
