package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"troupe/channels/channelstest"
)

// TestCHAN_13_ARollingRestartUnderLoad: three nodes share the bots and are restarted one after the other while people write. Every message is
// answered once, and a restart costs a bot at most one new session. TROUPE_TEST_BOTS sets how many bots there are.
func TestCHAN_13_ARollingRestartUnderLoad(t *testing.T) {
	bots := 12
	if n, err := strconv.Atoi(os.Getenv("TROUPE_TEST_BOTS")); err == nil {
		bots = n
	}
	srv := startRedisFor(t)
	cfg := testConfig(t)
	cfg.RedisURL = srv.URL()
	master := strings.Repeat("QUJD", 10) + "QUI="
	servers := make([]*channelstest.Discord, bots)
	mux := channelstest.StartDiscords(t, bots, func(i int) string { return fmt.Sprint("token-", i) }, servers)
	var nodes []*nodeProcess
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, startProcess(t, cfg, "TROUPE_NODE_NAME="+name, "TROUPE_LEASE_TTL=6s", "TROUPE_SANDBOX=off", "TROUPE_MASTER_KEY="+master, "TROUPE_DISCORD_URL="+mux, "TROUPE_PROCESS_LIMIT=8"))
	}
	w := nodes[0].world(cfg)
	for _, n := range nodes[1:] {
		n.world(cfg)
	}
	ids := make([]string, bots)
	for i := range ids {
		ids[i] = w.agent(map[string]any{"name": fmt.Sprint("bot ", i), "discord_bot_token": fmt.Sprint("token-", i), "warmth_window_ms": 300000})
		w.want(w.call("POST", "/v1/agent/"+ids[i]+"/pause", nil), 200) // what comes in is what is looked at
	}
	w.until("all bots are there", func() bool {
		for _, s := range servers {
			if !s.Connected() {
				return false
			}
		}
		return true
	})
	for i, s := range servers {
		code := w.want(w.call("POST", "/v1/agent/"+ids[i]+"/discord/link", nil), 200).str("code")
		s.Say("7", "ann", "/link "+code)
	}
	w.until("all are linked", func() bool {
		for _, s := range servers {
			if len(s.Sent()) == 0 {
				return false
			}
		}
		return true
	})
	before := make([]int, bots)
	for i, s := range servers {
		before[i], _ = s.Sessions()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	said := make([]int, bots)
	for i, s := range servers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				s.Say("7", "ann", fmt.Sprint("message ", said[i]))
				said[i]++
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(200+bots*5) * time.Millisecond):
				}
			}
		}()
	}
	perRestart := 0 // sessions that one bot began in one restart, at most
	now := slices.Clone(before)
	for _, n := range nodes {
		began := time.Now()
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		_ = n.cmd.Wait()
		n.up()
		n.world(cfg)
		t.Logf("a node was restarted in %s", time.Since(began).Round(time.Millisecond))
		time.Sleep(2 * time.Second) // as a deployment waits between two
		for i, s := range servers {
			sessions, _ := s.Sessions()
			perRestart = max(perRestart, sessions-now[i])
			now[i] = sessions
		}
	}
	cancel()
	wg.Wait()
	count := func(id string) (n int, twice int) {
		seen := map[string]bool{}
		for after := ""; ; {
			page := w.want(w.call("GET", "/v1/agent/"+id+"/messages?limit=100"+after, nil), 200)
			for _, m := range page.get("messages").([]any) {
				text := m.(map[string]any)["content"].(string)
				if seen[text] {
					twice++
				}
				seen[text] = true
				after = "&after=" + m.(map[string]any)["id"].(string)
			}
			if page.get("has_more") != true {
				return len(seen), twice
			}
		}
	}
	total, duplicates, sessions := 0, 0, 0
	for i, id := range ids {
		var n, twice int
		w.until(fmt.Sprintf("bot %d has everything that was said", i), func() bool { n, twice = count(id); return n >= said[i] })
		total, duplicates = total+n, duplicates+twice
		after, _ := servers[i].Sessions()
		sessions += after - before[i]
	}
	if duplicates > 0 || perRestart > 1 {
		t.Errorf("%d messages twice; a bot began %d sessions in one restart", duplicates, perRestart)
	}
	t.Logf("%d bots, %d messages, lost 0, twice %d; %d new sessions in %d restarts, at most %d of one bot in one restart", bots, total, duplicates, sessions, len(nodes), perRestart)
}
