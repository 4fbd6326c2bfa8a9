package main

import (
	"testing"
	"time"
)

// TestFENCE_1_EveryCommandCrossesASecondMember runs two nodes as processes on one store and sends every command through
// the one that does not hold the activation; then the holder is killed and the other takes over.
func TestFENCE_1_EveryCommandCrossesASecondMember(t *testing.T) {
	srv := startRedisFor(t)
	cfg := testConfig(t)
	cfg.RedisURL = srv.URL()
	a := startProcess(t, cfg, "TROUPE_NODE_NAME=a", "TROUPE_LEASE_TTL=2s")
	wa := a.world(cfg)
	b := startProcess(t, cfg, "TROUPE_NODE_NAME=b", "TROUPE_LEASE_TTL=2s")
	wb := b.world(cfg)
	held := map[string][]string{}
	wa.until("each member holds an agent", func() bool {
		id := wa.agent(nil)
		rt := wb.call("GET", "/v1/agent/"+id+"/runtime", nil)
		if rt.status == 200 {
			held[rt.str("node")] = append(held[rt.str("node")], id)
		}
		return len(held["a"]) > 0 && len(held["b"]) > 0
	})
	for node, ids := range held {
		w := map[string]*world{"a": wb, "b": wa}[node] // the other one
		id := ids[0]
		msg := w.ask(id, "!tool reply {\"message_id\":\"none\",\"content\":\"x\"}\n!say across")
		if msg.str("reply.content") != "[rehearsal model] across" {
			t.Fatalf("%s: %s", node, msg.body)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/messages/mark-read", map[string]any{"message_ids": []string{msg.str("reply.id")}}), 200)
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		w.refused(w.call("POST", "/v1/agent/"+id+"/pause", nil), 400, "invalid_state")
		w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
		w.want(w.call("POST", "/v1/agent/"+id+"/status", map[string]any{"status": "paused"}), 200)
		w.want(w.call("POST", "/v1/agent/"+id+"/status", map[string]any{"status": "active"}), 200)
		if got := w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 7, "type": "set"}), 200); got.num("new_balance") != 7 {
			t.Errorf("%s", got.body)
		}
		w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"name": "renamed"}), 200)
		w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"files": map[string]any{"add": []any{map[string]any{"path": "f", "content": "x"}}}}), 200)
		if got := w.call("GET", "/v1/agent/"+id+"/runtime", nil).str("node"); got != node {
			t.Errorf("placement is sticky, but %s moved to %s", node, got)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
		w.want(w.call("POST", "/v1/agent/delete/"+id, nil), 200)
		w.refused(w.call("GET", "/v1/agent/"+id, nil), 404, "not_found")
	}
	id := wb.agent(nil)
	for wb.call("GET", "/v1/agent/"+id+"/runtime", nil).str("node") != "a" {
		id = wb.agent(nil)
	}
	wb.want(wb.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!tool shell {\"command\":\"sleep 1\"}\n!say survived"}), 201)
	wb.until("the turn runs", func() bool { return wb.call("GET", "/v1/agent/"+id+"/runtime", nil).get("turn") != nil })
	killed := time.Now()
	a.kill()
	wb.until("the other member took over and the turn ended", func() bool {
		m := allMessages(wb, id)
		return len(m) == 2 && m[0]["outcome"] == "completed"
	})
	if took := time.Since(killed); took > 10*time.Second {
		t.Errorf("REC-1: takeover and end took %s", took)
	}
	if rt := wb.want(wb.call("GET", "/v1/agent/"+id+"/runtime", nil), 200); rt.str("node") != "b" {
		t.Errorf("%s", rt.body)
	}
	t.Logf("agents held: a %d, b %d; turn ended %s after the kill", len(held["a"]), len(held["b"]), time.Since(killed).Round(time.Millisecond))
}
