package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMSG_15_TheQueueIsBounded(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.PendingLimit = 3 })
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		send := func() *answer {
			return w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"})
		}
		for range 3 {
			w.want(send(), 201)
		}
		if a := w.refused(send(), 429, "queue_full"); a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if n := len(allMessages(w, id)); n != 3 {
			t.Errorf("%d messages are stored", n)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
		w.until("the queue is empty", func() bool { return allMessages(w, id)[2]["outcome"] == "completed" })
		w.want(send(), 201)
	})
}

func TestMSG_3_AcceptedWithoutAPod(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.ProcessLimit = 1 })
	busy, waiting := w.agent(nil), w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+busy+"/messages", map[string]any{"content": `!tool shell {"command":"touch begun; while [ ! -e go ]; do sleep 0.05; done"}`}), 201)
	w.until("the only place is taken", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "agents", busy, "workspace", "begun"))
		return err == nil
	})
	a := w.want(w.call("POST", "/v1/agent/"+waiting+"/messages?wait=1", map[string]any{"content": "!say late"}), 201)
	if a.str("status") != "pending" || a.get("outcome") != nil || a.get("reply") != nil {
		t.Errorf("MSG-12: a wait that is over shows the message as it is: %s", a.body)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "agents", busy, "workspace", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.until("the waiting agent got the place of the idle one", func() bool { return allMessages(w, waiting)[0]["outcome"] == "completed" })
}

func TestMSG_4_StatusesAndTheReply(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	a := w.ask(id, "!say fine")
	m := allMessages(w, id)[0]
	created, delivered, read := m["created_at"].(string), m["delivered_at"].(string), m["read_at"].(string)
	if a.str("status") != "read" || a.str("outcome") != "completed" || created > delivered || delivered > read {
		t.Errorf("%v", m)
	}
	r, _ := a.get("reply").(map[string]any)
	if r["role"] != "assistant" || r["reply_to_id"] != a.str("id") || r["queue_mode"] != nil || r["channel"] != "api" || r["status"] != "delivered" || r["delivered_at"] != r["created_at"] {
		t.Errorf("MSG-6: %v", r)
	}
	for range 2 {
		if m := allMessages(w, id)[1]; m["status"] != "delivered" {
			t.Errorf("MSG-6: a GET changed the reply to %v", m["status"])
		}
	}
}

func TestMSG_7_TheLastOfABatchIsAnswered(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	var last string
	for range 3 {
		last = w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say all of it"}), 201).str("id")
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	w.until("the batch is done", func() bool { return len(allMessages(w, id)) == 4 })
	list := allMessages(w, id)
	for _, m := range list[:3] {
		if m["outcome"] != "completed" || m["delivered_at"] != list[0]["delivered_at"] {
			t.Errorf("QUE-2: %v", m)
		}
	}
	if list[3]["reply_to_id"] != last {
		t.Errorf("the reply is to %v", list[3]["reply_to_id"])
	}
}

func TestMSG_11_Channels(t *testing.T) {
	w := startWorld(t, nil)
	path := "/v1/agent/" + w.agent(nil) + "/messages"
	w.refused(w.call("POST", path, map[string]any{"content": "x", "channel": "discord"}), 400, "channel_not_linked")
	if a := w.call("POST", path, map[string]any{"content": "x", "channel": "agent"}); a.status != 400 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestMSG_12_ClosingTheConnectionEndsTheWaitOnly(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", w.base+"/v1/agent/"+id+"/messages?wait=60", strings.NewReader(`{"content":"!slow 3s\n!say done"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.key)
	req.Header.Set("Content-Type", "application/json")
	cut := make(chan error, 1)
	go func() {
		_, err := http.DefaultClient.Do(req)
		cut <- err
	}()
	w.until("the message is accepted", func() bool { return len(allMessages(w, id)) > 0 })
	cancel()
	if <-cut == nil {
		t.Fatal("the wait was not cut")
	}
	w.until("the message is answered", func() bool {
		l := allMessages(w, id)
		return len(l) == 2 && l[0]["outcome"] == "completed"
	})
}

func TestMSG_13_Metadata(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	path := "/v1/agent/" + id + "/messages"
	for _, bad := range []map[string]any{{"_x": 1}, {"x": strings.Repeat("x", 16384)}} {
		w.refused(w.call("POST", path, map[string]any{"content": "x", "metadata": bad}), 400, "validation_failed")
	}
	w.want(w.call("POST", path, `{"content":"x","metadata":{"b":[1,{"c":"<&>"}],"a":1.5}}`), 201)
	m, _ := allMessages(w, id)[0]["metadata"].(map[string]any)
	if m["a"] != 1.5 || len(m) != 2 {
		t.Errorf("%v", m)
	}
}

func TestQUE_3_AnInterruptCancelsTheTurn(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	path := "/v1/agent/" + id + "/messages"
	w.want(w.call("POST", path, map[string]any{"content": `!tool shell {"command":"touch here; sleep 100"}`}), 201)
	w.until("the turn runs", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "agents", id, "workspace", "here"))
		return err == nil
	})
	second := w.want(w.call("POST", path+"?wait=30", map[string]any{"content": "!say at once", "queue_mode": "interrupt"}), 201)
	if second.str("outcome") != "completed" || !strings.Contains(second.str("reply.content"), "at once") {
		t.Errorf("%s", second.body)
	}
	if first := allMessages(w, id)[0]; first["outcome"] != "cancelled" || first["failure_reason"] != "interrupted" || first["status"] != "read" {
		t.Errorf("TURN-10: %v", first)
	}
}

func TestTURN_9_AskingForInput(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	if a := w.ask(id, `!tool ask_for_input {"question":"Which one?"}`); a.str("outcome") != "awaiting_input" || a.str("reply.content") != "Which one?" {
		t.Errorf("%s", a.body)
	}
}

func TestRUN_7_ACancelledTurnIsInTheTranscript(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(map[string]any{"session_mode": "persistent"})
	w.say(id, "!tool shell {\"command\":\"touch started; sleep 60\"}")
	w.runnerPID(id, "started")
	w.say(id, "!say instead", "interrupt")
	w.until("the second is answered", func() bool { m := allMessages(w, id); return len(m) == 3 && m[1]["outcome"] == "completed" })
	files, err := filepath.Glob(filepath.Join(w.dir, "agents", id, "home", ".sessions", "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil || !strings.Contains(string(b), `"outcome":"cancelled"`) || !strings.Contains(string(b), "Interrupted") {
		t.Errorf("%v\n%s", err, b)
	}
}

// Whatever hangs, the turn ends within its bound, and the agent goes on.
func TestTURN_7_WhateverHangs(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	for name, text := range map[string]string{"a tool": `!tool shell {"command":"trap '' TERM; sleep 300"}`, "the model": "!slow 300s"} {
		id := w.agent(map[string]any{"configuration": map[string]any{"timeout_seconds": 1}})
		began := time.Now()
		m := w.say(id, text)
		w.until("the turn of "+name+" ended", func() bool { return w.call("GET", "/v1/agent/"+id+"/messages/"+m, nil).get("outcome") != nil })
		a := w.call("GET", "/v1/agent/"+id+"/messages/"+m, nil)
		if a.str("outcome") != "failed" || a.str("failure_reason") != "timeout" || time.Since(began) > 45*time.Second {
			t.Errorf("%s: %s after %s", name, a.body, time.Since(began))
		}
		if a := w.ask(id, "!say alive"); a.str("outcome") != "completed" {
			t.Errorf("after %s hung: %s", name, a.body)
		}
	}
}
