package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// address is a trigger as its caller knows it.
type address struct{ path, secret string }

func (w *world) trigger(id string, body map[string]any) (string, address) {
	w.t.Helper()
	a := w.want(w.call("POST", "/v1/agent/"+id+"/triggers", body), 201)
	return a.str("uuid"), address{strings.TrimPrefix(a.str("webhook_url"), w.base), a.str("webhook_secret")}
}

// fire calls a trigger from outside.
func (w *world) fire(at address, body string, header ...string) *answer {
	w.t.Helper()
	return w.call("POST", at.path, body, append([]string{"Authorization", "", "X-Webhook-Secret", at.secret}, header...)...)
}

func signed(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestTRIG_4_ACallBecomesAMessage(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		uuid, at := w.trigger(id, map[string]any{"name": "deploys", "message_template": "!say {{payload.repo.name}} by {{trigger.name}}"})
		a := w.want(w.fire(at, `{"repo":{"name":"api"}}`), 202)
		w.until("the call was answered", func() bool {
			m := w.call("GET", "/v1/agent/"+id+"/messages/"+a.str("message_id"), nil)
			return m.str("outcome") == "completed" && m.str("source") == "trigger" && m.str("source_uuid") == uuid && m.str("channel") == "api" && m.str("queue_mode") == "collect"
		})
		if all := allMessages(w, id); !strings.Contains(fmt.Sprint(all[1]["content"]), "api by deploys") { // MSG-16: the owner is the counterparty
			t.Errorf("%v", all)
		}
		if s := w.call("GET", "/v1/agent/"+id+"/sessions", nil).doc["sessions"].([]any)[0].(map[string]any)["trigger"].(map[string]any); s["type"] != "trigger" || s["uuid"] != uuid {
			t.Errorf("the session says it was started by %v", s)
		}
		list := w.want(w.call("GET", "/v1/agent/"+id+"/triggers", nil), 200).doc["triggers"].([]any)[0].(map[string]any)
		if list["trigger_count"] != 1.0 || list["last_triggered_at"] == nil || list["webhook_secret"] != nil {
			t.Errorf("TRIG-8: %v", list)
		}
	})
}

func TestTRIG_3_EveryProofMustHold(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	_, at := w.trigger(id, map[string]any{"name": "x", "message_template": "{{payload}}"})
	body := `{"a":1}`
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"secret":                        {nil, 202},
		"signature":                     {[]string{"X-Webhook-Secret", "", "X-Hub-Signature-256", signed(at.secret, body)}, 202},
		"both":                          {[]string{"X-Hub-Signature-256", signed(at.secret, body)}, 202},
		"none":                          {[]string{"X-Webhook-Secret", ""}, 401},
		"a wrong secret":                {[]string{"X-Webhook-Secret", at.secret + "x"}, 401},
		"a wrong signature":             {[]string{"X-Webhook-Secret", "", "X-Hub-Signature-256", signed(at.secret, body+" ")}, 401},
		"no signature":                  {[]string{"X-Webhook-Secret", "", "X-Hub-Signature-256", "sha256="}, 401},
		"no prefix":                     {[]string{"X-Webhook-Secret", "", "X-Hub-Signature-256", signed(at.secret, body)[7:]}, 401},
		"a right secret, a wrong sum":   {[]string{"X-Hub-Signature-256", signed("y", body)}, 401},
		"a wrong secret, the right sum": {[]string{"X-Webhook-Secret", "y", "X-Hub-Signature-256", signed(at.secret, body)}, 401},
	} {
		if a := w.fire(at, body, c.header...); a.status != c.status || c.status == 401 && a.str("code") != "invalid_signature" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	w.refused(w.call("POST", at.path+"?secret="+at.secret, map[string]any{"secret": at.secret}, "Authorization", ""), 401, "invalid_signature")
}

func TestTRIG_2_TheOrderOfChecks(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	uuid, at := w.trigger(id, map[string]any{"name": "x", "message_template": "{{payload.text}}"})
	huge := `{"text":"` + strings.Repeat("x", 1<<20) + `"}`
	w.refused(w.fire(at, huge, "X-Webhook-Secret", "wrong"), 413, "payload_too_large")
	w.refused(w.fire(at, "{", "X-Webhook-Secret", "wrong"), 401, "invalid_signature")
	w.refused(w.fire(at, `{"text":"x"}`, "Content-Type", "text/plain"), 415, "unsupported_media_type")
	w.refused(w.fire(at, "{"), 400, "invalid_json")
	w.refused(w.fire(at, `"text"`), 400, "validation_failed")
	w.refused(w.fire(at, `{"text":" "}`), 400, "validation_failed")
	w.want(w.fire(at, `[{"text":1}]`, "Idempotency-Key", "k"), 400) // nothing at payload.text: blank
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	w.refused(w.fire(at, `{"text":"x"}`), 503, "agent_unavailable")
	w.want(w.call("PATCH", "/v1/agent/"+id+"/triggers/"+uuid, map[string]any{"enabled": false}), 200)
	off := w.refused(w.fire(at, huge), 404, "not_found")
	w.want(w.call("PATCH", "/v1/agent/"+id+"/triggers/"+uuid, map[string]any{"enabled": true, "name": " renamed "}), 200)
	w.want(w.call("DELETE", "/v1/agent/"+id+"/triggers/"+uuid, nil), 200)
	for _, path := range []string{at.path, "/v1/webhooks/triggers/x"} {
		if a := w.refused(w.call("POST", path, map[string]any{}, "Authorization", "", "X-Webhook-Secret", at.secret), 404, "not_found"); a.str("error") != off.str("error") {
			t.Errorf("unknown, deleted and disabled differ: %q, %q", a.str("error"), off.str("error"))
		}
	}
	w.refused(w.call("DELETE", "/v1/agent/"+id+"/triggers/"+uuid, nil), 404, "not_found")
	w.refused(w.call("PATCH", "/v1/agent/"+id+"/triggers/"+uuid, map[string]any{}), 404, "not_found")
	if n := w.call("GET", "/v1/agent/"+id+"/triggers", nil).num("pagination.total"); n != 0 {
		t.Errorf("%v triggers are left", n)
	}
}

func TestTRIG_7_RepeatedDeliveries(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		_, at := w.trigger(id, map[string]any{"name": "x", "message_template": "{{payload.text}}"})
		first := w.want(w.fire(at, `{"text":"a"}`, "Idempotency-Key", "k1", "webhook-id", "other"), 202)
		again := w.want(w.fire(at, `{"text":"a"}`, "Idempotency-Key", "k1"), 202)
		if again.str("message_id") != first.str("message_id") || again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s %v", again.body, again.header)
		}
		w.refused(w.fire(at, `{"text":"b"}`, "Idempotency-Key", "k1"), 422, "idempotency_key_reused")
		for _, h := range []string{"webhook-id", "X-GitHub-Delivery"} {
			a := w.want(w.fire(at, `{"text":"c"}`, h, "d1"), 202)
			for _, body := range []string{`{"text":"c"}`, `{"text":"another body"}`, `{"text":""}`} {
				if b := w.want(w.fire(at, body, h, "d1"), 202); b.str("message_id") != a.str("message_id") || b.header.Get("Idempotent-Replayed") != "true" {
					t.Errorf("%s: %s, first %s", h, b.body, a.body)
				}
			}
		}
		if n := len(allMessages(w, id)); n != 2 { // one per delivery id, whatever header it came in
			t.Errorf("%d messages", n)
		}
	})
}

func TestTRIG_1_SecretsAndLimits(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		body := map[string]any{"name": "x", "message_template": "hello"}
		first := w.want(w.call("POST", "/v1/agent/"+id+"/triggers", body, "Idempotency-Key", "t1"), 201)
		again := w.want(w.call("POST", "/v1/agent/"+id+"/triggers", body, "Idempotency-Key", "t1"), 201)
		if string(first.body) != string(again.body) || again.header.Get("Idempotent-Replayed") != "true" || len(first.str("webhook_secret")) < 24 {
			t.Errorf("SEC-2, IDEM-4: %s then %s", first.body, again.body)
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/triggers", map[string]any{"name": "y", "message_template": "hello"}, "Idempotency-Key", "t1"), 422, "idempotency_key_reused")
		var made, refused int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 30 { // concurrent creates cannot exceed it
			wg.Add(1)
			go func() {
				defer wg.Done()
				a, err := w.try("POST", "/v1/agent/"+id+"/triggers", body)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case a.status == 201:
					made++
				case a.str("code") == "limit_reached":
					refused++
				default:
					t.Errorf("%s", a.body)
				}
			}()
		}
		wg.Wait()
		if made != 24 || refused != 6 {
			t.Errorf("%d were made, %d refused", made, refused)
		}
		page := w.want(w.call("GET", "/v1/agent/"+id+"/triggers?page=2&limit=20", nil), 200)
		if page.num("pagination.total") != 25 || len(page.doc["triggers"].([]any)) != 5 {
			t.Errorf("%s", page.body)
		}
		for _, bad := range []map[string]any{{}, {"name": "x"}, {"name": " ", "message_template": "x"}, {"name": "x", "message_template": ""}, {"name": "x", "message_template": "x", "enabled": "yes"}} {
			w.refused(w.call("POST", "/v1/agent/"+id+"/triggers", bad), 400, "validation_failed")
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/triggers", map[string]any{"name": "x", "message_template": "{{nothing}}"}), 400, "invalid_template")
	})
}

func TestRATE_3_CallsOfATriggerAreBounded(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.RateLimit = 10 })
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	_, at := w.trigger(id, map[string]any{"name": "x", "message_template": "{{payload.n}}"})
	w.refused(w.fire(at, `{"n":1}`, "X-Webhook-Secret", "wrong"), 401, "invalid_signature")
	for i := range 100 {
		a := w.want(w.fire(at, fmt.Sprintf(`{"n":%d}`, i)), 202)
		if a.header.Get("X-RateLimit-Limit") != "100" || a.header.Get("X-RateLimit-Remaining") != fmt.Sprint(99-i) {
			t.Fatalf("call %d: %v", i, a.header)
		}
	}
	if a := w.refused(w.fire(at, `{"n":1}`), 429, "rate_limited"); a.header.Get("Retry-After") == "" {
		t.Errorf("%v", a.header)
	}
	for i := range 299 { // strangers use up a budget of their own
		w.refused(w.fire(at, "{", "X-Webhook-Secret", fmt.Sprint("wrong", i)), 401, "invalid_signature")
	}
	w.refused(w.fire(at, "{", "X-Webhook-Secret", "wrong"), 429, "rate_limited")
	_, other := w.trigger(id, map[string]any{"name": "y", "message_template": "{{payload.n}}"})
	w.want(w.fire(other, `{"n":1}`), 202) // and neither is counted for the account, which has made four calls
	for range 299 {
		w.fire(other, "{", "X-Webhook-Secret", "wrong")
	}
	w.fire(other, "{", "X-Webhook-Secret", "wrong")
	w.want(w.fire(other, `{"n":2}`), 202) // whoever has the proof is not kept out by strangers
}
