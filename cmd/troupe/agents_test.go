package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestMSG_14_AgentsWriteToEachOther(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		ann, ben := w.agent(map[string]any{"name": "ann"}), w.agent(map[string]any{"name": "ben"})
		a := w.ask(ann, fmt.Sprintf(`!tool send_message {"type":"agent","uuid":%q,"content":"!say pong"}`, ben)+"\n!say told")
		if !strings.Contains(a.str("reply.content"), "told") {
			t.Errorf("%s", a.body)
		}
		// Each answers the other until the hop limit ends it.
		var last map[string]any
		w.until("the conversation has come to its end", func() bool {
			for _, id := range []string{ann, ben} {
				for _, m := range allMessages(w, id) {
					if m["failure_reason"] == "hop_limit" {
						last = m
					}
				}
			}
			return last != nil
		})
		if last["role"] != "assistant" || last["channel"] != "agent" || last["status"] != "pending" {
			t.Errorf("the reply too many: %v", last)
		}
		sent, got := map[string]map[string]any{}, 0
		for _, m := range allMessages(w, ann) {
			if m["channel"] == "agent" && m["role"] == "assistant" && m["failure_reason"] == nil {
				sent[m["id"].(string)] = m
			}
		}
		for _, m := range allMessages(w, ben) {
			if m["channel"] != "agent" || m["role"] != "user" {
				continue
			}
			got++
			own := sent[m["id"].(string)] // one record, seen by both sides
			if own == nil || own["content"] != m["content"] || own["counterparty_uuid"] != ben || m["counterparty_uuid"] != ann || m["source"] != "agent" || m["source_uuid"] != ann || own["status"] != "delivered" {
				t.Errorf("ben got %v, ann has %v", m, own)
			}
		}
		if got != len(sent) || got != 8 { // sixteen hops, every other one from ann
			t.Errorf("ben got %d messages, ann sent %d", got, len(sent))
		}
		conv := w.want(w.call("GET", "/v1/agent/"+ben+"/conversations", nil), 200).doc["conversations"].([]any)[0].(map[string]any)["counterparty"].(map[string]any)
		if conv["uuid"] != ann || conv["type"] != "agent" || conv["name"] != "ann" || conv["channel"] != "agent" {
			t.Errorf("%v", conv)
		}
	})
}

func TestMSG_14_RecipientsThatCannotBeReached(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	ann, ben := w.agent(map[string]any{"name": "ann"}), w.agent(map[string]any{"name": "ben"})
	w.ask(ann, "!say warm")
	runtime := w.as(w.runtimeKey(ann))
	turn := w.want(w.call("GET", "/v1/agent/"+ann+"/runtime", nil), 200).str("turn.id")
	send := func(to, key string) *answer {
		return runtime.call("POST", "/v1/agent-runtime/self/messages", map[string]any{"content": "hello", "turn_id": turn, "recipient": map[string]any{"type": "agent", "uuid": to}},
			"X-Troupe-Runner-Epoch", "1", "Idempotency-Key", key)
	}
	w.want(w.call("POST", "/v1/agent/"+ben+"/stop", nil), 200)
	w.refused(send(ben, "k1"), 400, "recipient_unavailable")
	if all := allMessages(w, ann); len(all) != 3 {
		t.Errorf("something was stored: %v", all)
	}
	w.want(w.call("POST", "/v1/agent/"+ben+"/status", map[string]any{"status": "paused"}), 200)
	first := w.want(send(ben, "k1"), 201) // IDEM-5: after a refusal the key is free
	again := w.want(send(ben, "k1"), 201)
	if first.str("id") != again.str("id") || again.header.Get("Idempotent-Replayed") != "true" || first.num("hop_count") != 1 || first.str("recipient_uuid") != ben || first.str("recipient_type") != "agent" {
		t.Errorf("%s then %s", first.body, again.body)
	}
	if all := allMessages(w, ben); len(all) != 1 || all[0]["id"] != first.str("id") || all[0]["status"] != "pending" {
		t.Errorf("%v", all)
	}
	for _, to := range []string{ann, "01a207b3-f5ab-7572-81e3-44d0ed90da39"} { // oneself, nobody
		w.refused(send(to, "k2"), 404, "not_found")
	}
	other := w.want(w.call("POST", "/auth/create_user", map[string]any{"email": "x@example.com", "password": "correct-horse-battery"}, "Authorization", ""), 201)
	_ = other
	login := w.want(w.call("POST", "/auth/login", map[string]any{"email": "x@example.com", "password": "correct-horse-battery"}, "Authorization", ""), 200)
	foreign := w.want(w.call("POST", "/v1/agent/create", map[string]any{"name": "foreign"}, "Authorization", "Bearer "+login.str("token")), 201)
	w.refused(send(foreign.str("id"), "k3"), 404, "not_found") // TEN-4
}

func TestMSG_14_AMessageOnItsWaySurvivesTheNode(t *testing.T) {
	cfg := testConfig(t)
	cfg.RedisURL = startRedisFor(t).URL()
	n := startProcess(t, cfg)
	w := n.world(cfg)
	ann, ben := w.agent(map[string]any{"name": "ann"}), w.agent(map[string]any{"name": "ben"})
	w.want(w.call("POST", "/v1/agent/"+ben+"/pause", nil), 200)
	for i := range 12 {
		w.want(w.call("POST", "/v1/agent/"+ann+"/messages", map[string]any{"content": fmt.Sprintf(`!tool send_message {"type":"agent","uuid":%q,"content":"number %d"}`, ben, i)}), 201)
	}
	w.until("some of them arrived", func() bool { return len(allMessages(w, ben)) > 2 })
	n.kill()
	n.up()
	n.world(cfg)
	w.until("every message was answered", func() bool {
		a, err := w.try("GET", "/v1/agent/"+ann+"/messages?role=user&limit=100", nil)
		if err != nil || a.status != 200 {
			return false
		}
		for _, m := range a.doc["messages"].([]any) {
			if m.(map[string]any)["outcome"] == nil {
				return false
			}
		}
		return true
	})
	sent, got := map[string]string{}, map[string]string{}
	for _, m := range allMessages(w, ann) {
		if m["channel"] == "agent" {
			sent[m["id"].(string)] = m["content"].(string)
		}
	}
	for _, m := range allMessages(w, ben) {
		got[m["id"].(string)] = m["content"].(string)
	}
	if fmt.Sprint(sent) != fmt.Sprint(got) {
		t.Errorf("ann sent %v, ben got %v", sent, got)
	}
}

func TestMSG_8_ProactiveMessages(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	ann := w.agent(map[string]any{"name": "ann"})
	w.ask(ann, "!say hello")
	owner := allMessages(w, ann)[0]["counterparty_uuid"].(string)
	a := w.ask(ann, fmt.Sprintf(`!tool send_message {"type":"user","uuid":%q,"content":"by the way"}`, owner)+"\n!say done")
	var told map[string]any
	for _, m := range allMessages(w, ann) {
		if m["content"] == "by the way" {
			told = m
		}
	}
	if told == nil || told["role"] != "assistant" || told["reply_to_id"] != nil || told["channel"] != "api" || told["counterparty_uuid"] != owner || told["status"] != "delivered" {
		t.Errorf("%v after %s", told, a.body)
	}
	r := w.as(w.runtimeKey(ann))
	list := r.want(r.call("GET", "/v1/agent-runtime/self/entities", nil), 200).doc["entities"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["uuid"] != owner || list[0].(map[string]any)["channel"] != "api" {
		t.Errorf("%v", list)
	}
}

func TestQUE_5_WhoChoosesTheQueueMode(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	ann, ben := w.agent(map[string]any{"name": "ann"}), w.agent(map[string]any{"name": "ben"})
	w.say(ben, blocked)
	w.begun(ben)
	w.ask(ann, fmt.Sprintf(`!tool send_message {"type":"agent","uuid":%q,"content":"!say later"}`, ben)+"\n!say sent")
	_, at := w.trigger(ben, map[string]any{"name": "hook", "message_template": "!say hooked"})
	w.want(w.fire(at, `{}`), 202)
	w.until("both wait", func() bool { return len(allMessages(w, ben)) == 3 })
	for _, m := range allMessages(w, ben)[1:] {
		if m["queue_mode"] != "collect" || m["status"] != "pending" {
			t.Errorf("%v", m)
		}
	}
	w.ask(ann, fmt.Sprintf(`!tool send_message {"type":"agent","uuid":%q,"content":"!say now","interrupt":true}`, ben)+"\n!say sent")
	w.until("the turn was interrupted", func() bool { return allMessages(w, ben)[0]["failure_reason"] == "interrupted" })
	if m := allMessages(w, ben)[3]; m["queue_mode"] != "interrupt" || m["source"] != "agent" {
		t.Errorf("%v", m)
	}
}

func TestHOOK_1_CustomisedHooksAreShown(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(map[string]any{"configuration": map[string]any{"hook_messages": map[string]any{"interrupt": "Stop. {{channel_sections}}", "session_restart": "Again."}}})
	shown := func() map[string]any {
		t.Helper()
		m, _ := w.want(w.call("GET", "/v1/agent/"+id, nil), 200).get("configuration.hook_messages").(map[string]any)
		return m
	}
	if m := shown(); len(m) != 2 || m["interrupt"] != "Stop. {{channel_sections}}" || m["session_restart"] != "Again." {
		t.Errorf("%v", m)
	}
	w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"hook_messages": map[string]any{"interrupt": nil, "session_restart": ""}}}), 200)
	if m := shown(); len(m) != 0 {
		t.Errorf("defaults are shown: %v", m)
	}
	w.refused(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"hook_messages": map[string]any{"interrupt": "{{summary}}"}}}), 400, "invalid_template")
}
