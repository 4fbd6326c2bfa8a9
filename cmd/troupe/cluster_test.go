package main

import (
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// TestFENCE_1_EveryCommandCrossesASecondMember runs two nodes as processes on one store and sends every command through
// the one that does not hold the activation; then the holder is killed and the other takes over.
func TestFENCE_1_EveryCommandCrossesASecondMember(t *testing.T) {
	srv := startRedisFor(t)
	cfg := testConfig(t)
	cfg.RedisURL = srv.URL()
	a := startProcess(t, cfg, "TROUPE_NODE_NAME=a", "TROUPE_LEASE_TTL=2s", "TROUPE_SANDBOX=off")
	wa := a.world(cfg)
	b := startProcess(t, cfg, "TROUPE_NODE_NAME=b", "TROUPE_LEASE_TTL=2s", "TROUPE_SANDBOX=off")
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
		if got := w.want(w.call("GET", "/v1/agent/"+id+"/filesystem/files/f", nil), 200); got.str("content") != "x" { // FS-8: the wake-up crosses, the call goes to the runner
			t.Errorf("%s", got.body)
		}
		if got := w.call("GET", "/v1/agent/"+id+"/runtime", nil).str("node"); got != node {
			t.Errorf("placement is sticky, but %s moved to %s", node, got)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/triggers", map[string]any{"name": "x", "message_template": "x"}), 201)
		slots := "/v1/agent/" + id + "/schedules" // SCHED-1, SCHED-11: the commands cross, like the answers
		made := w.want(w.call("POST", slots, map[string]any{"name": "x", "cron_expression": "@daily", "message_template": "x"}, "Idempotency-Key", "slot"), 201)
		if again := w.want(w.call("POST", slots, map[string]any{"name": "x", "cron_expression": "@daily", "message_template": "x"}, "Idempotency-Key", "slot"), 201); again.str("uuid") != made.str("uuid") {
			t.Errorf("%s", again.body)
		}
		if got := w.want(w.call("POST", slots+"/"+made.str("uuid")+"/toggle", nil), 200); got.doc["enabled"] != false {
			t.Errorf("%s", got.body)
		}
		if got := w.want(w.call("PATCH", slots+"/"+made.str("uuid"), map[string]any{"enabled": true, "name": "y"}), 200); got.str("name") != "y" || got.doc["next_run_at"] == nil {
			t.Errorf("%s", got.body)
		}
		w.want(w.call("DELETE", slots+"/"+made.str("uuid"), nil), 200)
		w.refused(w.call("POST", slots+"/"+made.str("uuid")+"/toggle", nil), 404, "not_found")
		runnerAcross(t, w, node)
		w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
		w.want(w.call("POST", "/v1/agent/delete/"+id, nil), 200)
		w.refused(w.call("GET", "/v1/agent/"+id, nil), 404, "not_found")
	}
	id := wb.agent(nil)
	for wb.call("GET", "/v1/agent/"+id+"/runtime", nil).str("node") != "a" {
		id = wb.agent(nil)
	}
	wb.want(wb.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!tool shell {\"command\":\"sleep 3\"}\n!say survived"}), 201)
	wb.until("the turn runs", func() bool { return wb.call("GET", "/v1/agent/"+id+"/runtime", nil).get("turn") != nil })
	killed := time.Now()
	a.kill()
	wb.until("the other member took over and the turn ended", func() bool {
		m := allMessages(wb, id)
		return len(m) == 2 && m[0]["outcome"] == "completed"
	})
	if took := time.Since(killed); took > 30*time.Second {
		t.Errorf("REC-1: takeover and end took %s", took)
	}
	if rt := wb.want(wb.call("GET", "/v1/agent/"+id+"/runtime", nil), 200); rt.str("node") != "b" {
		t.Errorf("%s", rt.body)
	}
	t.Logf("agents held: a %d, b %d; turn ended %s after the kill", len(held["a"]), len(held["b"]), time.Since(killed).Round(time.Millisecond))
}

// runnerAcross makes every call of a runner through w, for an agent that the other node holds.
func runnerAcross(t *testing.T, w *world, holder string) {
	t.Helper()
	id := w.agent(nil)
	for w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200).str("node") != holder {
		id = w.agent(nil)
	}
	r := w.as(w.runtimeKey(id))
	rt := w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200)
	turn, session, epoch := rt.str("turn.id"), rt.str("session_id"), fmt.Sprint(int(rt.num("runner.runner_epoch")))
	extra := w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "late"}), 201).str("id")
	do := func(method, path string, body map[string]any, status int) *answer {
		t.Helper()
		return w.want(r.call(method, "/v1/agent-runtime/self"+path, body, "X-Troupe-Runner-Epoch", epoch), status)
	}
	first := allMessages(w, id)[0]["id"].(string)
	do("GET", "", nil, 200)
	do("GET", "/entities", nil, 200)
	do("POST", "/heartbeat", map[string]any{"execution_status": "working"}, 200)
	do("PATCH", "/status", map[string]any{"execution_status": "working"}, 200)
	do("PATCH", "/disk-usage", map[string]any{"total_files": 1, "total_bytes": 2}, 200)
	do("PATCH", "/sdk-session", map[string]any{"session_id": session, "sdk_session_id": "s"}, 200)
	do("POST", "/turns/"+turn+"/progress", map[string]any{"events": []any{map[string]any{"seq": 1000, "kind": "step", "current_step": "x"}}}, 200)
	do("POST", "/messages", map[string]any{"content": "on its way", "reply_to_id": first, "turn_id": turn}, 201)
	if got := do("POST", "/messages/mark-delivered", map[string]any{"message_ids": []string{extra}, "turn_id": turn}, 200); got.num("updated") != 1 {
		t.Errorf("RUN-10: %s", got.body)
	}
	do("PATCH", "/messages/"+extra, map[string]any{"status": "read", "turn_id": turn}, 200)
	do("POST", "/messages/mark-read", map[string]any{"message_ids": []string{first}, "turn_id": turn}, 200)
	do("POST", "/usage", map[string]any{"usage_id": "01a207b3-f5ab-7572-81e3-44d0ed90da39", "model": "m", "input_tokens": 1, "output_tokens": 1}, 200)
	for i, duplicate := range []bool{false, true} {
		got := do("POST", "/turns/"+turn+"/end", map[string]any{"outcome": "completed", "replies": []any{map[string]any{"content": "the end"}}}, 200)
		if got.get("duplicate") != duplicate || len(got.get("reply_ids").([]any)) != 2 {
			t.Errorf("end %d: %s", i, got.body)
		}
	}
	if err := exec.Command("pkill", "-STOP", "-s", fmt.Sprint(w.runnerPID(id, "started"))).Run(); err != nil { // it would notice and end, and its key with it
		t.Fatal(err)
	}
	attached := do("POST", "/attach", map[string]any{"protocol_version": 1, "runner_version": "x", "metering": "gateway"}, 200)
	w.refused(r.call("POST", "/v1/agent-runtime/self/heartbeat", map[string]any{"execution_status": "idle"}, "X-Troupe-Runner-Epoch", epoch), 409, "stale_runner")
	epoch = fmt.Sprint(int(attached.num("runner_epoch")))
	do("POST", "/detach", map[string]any{"reason": "shutdown"}, 200)
	for _, m := range allMessages(w, id)[:2] {
		if m["outcome"] != "completed" {
			t.Errorf("%v", m)
		}
	}
}
