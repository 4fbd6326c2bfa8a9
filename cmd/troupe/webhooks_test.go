package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver takes webhooks on loopback and answers as it is told.
type receiver struct {
	t      testing.TB
	url    string
	mu     sync.Mutex
	status int
	secret string // verifies every delivery, unless empty
	got    []hookEvent
}

type hookEvent struct {
	id     string
	path   string
	header http.Header
	body   string
	doc    map[string]any
	at     time.Time
}

func startReceiver(t testing.TB) *receiver {
	r := &receiver{t: t, status: 204}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		e := hookEvent{id: req.Header.Get("webhook-id"), path: req.URL.Path, header: req.Header.Clone(), body: string(body), at: time.Now()}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := json.Unmarshal(body, &e.doc); err != nil {
			t.Errorf("OUT-3: %v in %s", err, body)
		}
		if r.secret != "" {
			wh, err := standardwebhooks.NewWebhook(r.secret)
			if err != nil {
				t.Error(err)
			} else if err := wh.Verify(body, req.Header); err != nil {
				t.Errorf("OUT-4: %v", err)
			}
		}
		r.got = append(r.got, e)
		w.WriteHeader(r.status)
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

func (r *receiver) answer(status int) { r.mu.Lock(); defer r.mu.Unlock(); r.status = status }

func (r *receiver) verify(secret string) { r.mu.Lock(); defer r.mu.Unlock(); r.secret = secret }

func (r *receiver) events() []hookEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]hookEvent(nil), r.got...)
}

// of returns what arrived about a message.
func (r *receiver) of(message string) (out []hookEvent) {
	for _, e := range r.events() {
		if e.doc["message_id"] == message {
			out = append(out, e)
		}
	}
	return out
}

func toLoopback(change func(*Config)) func(*Config) {
	return func(c *Config) {
		change(c)
		c.AllowHTTP, c.AllowHosts = true, []string{"127.0.0.1"}
	}
}

func (w *world) arrives(r *receiver, message string) hookEvent {
	w.t.Helper()
	w.until("the event of "+message+" arrives", func() bool { return len(r.of(message)) > 0 })
	return r.of(message)[0]
}

func TestOUT_1_EventsOfMessages(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, toLoopback(change)), startReceiver(t)
		made := w.want(w.call("POST", "/v1/agent/create", map[string]any{"name": "a", "configuration": map[string]any{"webhooks": map[string]any{
			"message_complete": r.url + "/complete", "task_failed": r.url + "/failed", "task_awaiting_input": r.url + "/asks", "agent_error": r.url + "/error"}}}), 201)
		id, secret := made.str("id"), made.str("webhook_secret")
		if !strings.HasPrefix(secret, "whsec_") || made.str("configuration.webhooks.message_failed") != r.url+"/failed" || made.get("configuration.webhooks.task_failed") != nil {
			t.Errorf("OUT-2, OUT-5: %s", made.body)
		}
		r.verify(secret)

		m := w.want(w.call("POST", "/v1/agent/"+id+"/messages?wait=30", map[string]any{"content": "!say <done> & \"so\"", "metadata": map[string]any{"order": 17}}), 201)
		e := w.arrives(r, m.str("id"))
		full := w.want(w.call("GET", "/v1/agent/"+id+"/messages/"+m.str("id"), nil), 200)
		for k, want := range map[string]any{"event": "message_complete", "delivery_id": e.id, "agent_id": id, "content": "[rehearsal model] <done> & \"so\"", "error": nil, "reason": nil,
			"session_id": full.doc["session_id"], "turn_id": full.doc["turn_id"]} {
			if got, there := e.doc[k]; !there || got != want {
				t.Errorf("OUT-3: %s is %v, not %v", k, got, want)
			}
		}
		if e.path != "/complete" || fmt.Sprint(e.doc["metadata"]) != "map[order:17]" || !strings.HasPrefix(fmt.Sprint(e.doc["reply_id"]), "msg_") || strings.Contains(e.body, `\u003c`) {
			t.Errorf("OUT-3: %s at %s", e.body, e.path)
		}
		if !strings.HasPrefix(e.header.Get("User-Agent"), "troupe/") || e.header.Get("Content-Type") != "application/json" {
			t.Errorf("OUT-4: %v", e.header)
		}

		bad := w.want(w.call("POST", "/v1/agent/"+id+"/messages?wait=30", map[string]any{"content": "!fail 400"}), 201)
		if e := w.arrives(r, bad.str("id")); e.path != "/failed" || e.doc["event"] != "message_failed" || e.doc["error"] == nil || e.doc["reason"] != "model_error" || e.doc["reply_id"] != nil {
			t.Errorf("%s", e.body)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": blocked}), 201)
		w.begun(id)
		cut := w.call("GET", "/v1/agent/"+id+"/messages?order=desc&limit=1", nil).get("messages").([]any)[0].(map[string]any)["id"].(string)
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say instead", "queue_mode": "interrupt"}), 201)
		if e := w.arrives(r, cut); e.doc["reason"] != "interrupted" || e.doc["event"] != "message_failed" || e.doc["error"] == nil {
			t.Errorf("%s", e.body)
		}
		seen := map[string]bool{}
		w.until("the log is settled", func() bool {
			return len(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries?status=pending", nil).get("deliveries").([]any)) == 0
		})
		for _, e := range r.events() {
			if key := e.doc["message_id"].(string); seen[key] {
				t.Errorf("OUT-1: a second event for %s", key)
			} else {
				seen[key] = true
			}
		}
	})
}

func TestOUT_8_RetriesAndTheLog(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, toLoopback(change)), startReceiver(t)
		r.answer(503)
		id := w.agent(map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": r.url + "/x?token=secret&k", "message_failed": r.url}}})
		m := w.ask(id, "!say a")
		first := w.arrives(r, m.str("id"))
		var row map[string]any
		one := func(query string) map[string]any {
			all := w.want(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries"+query, nil), 200).get("deliveries").([]any)
			if len(all) != 1 {
				return nil
			}
			return all[0].(map[string]any)
		}
		w.until("the failure is stored", func() bool {
			row = one("?status=pending&event=message_complete")
			return row != nil && row["attempts"] == 1.0
		})
		if row["url"] != r.url+"/x?token=***&k" || row["last_status_code"] != 503.0 || row["last_error"] != "Receiver answered 503" || row["delivered_at"] != nil || row["message_id"] != m.str("id") || row["id"] != first.id {
			t.Errorf("%v", row)
		}
		next, _ := time.Parse(time.RFC3339, row["next_attempt_at"].(string))
		if d := next.Sub(first.at); d < 3900*time.Millisecond || d > 10*time.Second { // instants have milliseconds
			t.Errorf("OUT-8: the second attempt is %v after the first", d)
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-deliveries/"+first.id+"/redeliver", nil), 409, "delivery_pending")
		r.answer(200)
		w.until("it is delivered", func() bool { row = one(""); return row["status"] == "delivered" })
		got := r.of(m.str("id"))
		if len(got) != 2 || got[0].body != got[1].body || got[0].id != got[1].id || row["attempts"] != 2.0 || row["delivered_at"] == nil || row["next_attempt_at"] != nil || row["last_error"] != nil {
			t.Errorf("OUT-3: %v and %v: %v", got[0], got[1], row)
		}
		if a := w.want(w.call("POST", "/v1/agent/"+id+"/webhook-deliveries/"+first.id+"/redeliver", nil), 202); a.str("status") != "pending" {
			t.Errorf("%s", a.body)
		}
		w.until("it comes again", func() bool { return len(r.of(m.str("id"))) == 3 && one("?status=delivered") != nil })
		r.answer(410)
		gone := w.ask(id, "!say b")
		w.arrives(r, gone.str("id"))
		w.until("410 gives it up", func() bool { return one("?status=dead") != nil })
		w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": nil}}}), 200)
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-deliveries/"+one("?status=dead")["id"].(string)+"/redeliver", nil), 409, "webhook_not_configured")
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-deliveries/whd_01a213f6-d4c4-76d4-b54a-3dd8b17e7b1d/redeliver", nil), 404, "not_found")
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-deliveries/x/redeliver", nil), 404, "not_found")
		w.refused(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries?status=lost", nil), 400, "validation_failed")
		w.refused(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries?event=message_complete&limit=101", nil), 400, "validation_failed")
		if page := string(w.n.metrics.page()); !strings.Contains(page, `troupe_webhook_deliveries_total{event="message_complete",result="delivered"} 2`) || !strings.Contains(page, `result="dead"} 1`) || !strings.Contains(page, `result="retried"} 1`) {
			t.Errorf("OBS-5: %s", page)
		}
	})
}

func TestOUT_5_TheSecretAndItsRotation(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, toLoopback(change)), startReceiver(t)
		id := w.agent(nil)
		put := func(url any) *answer {
			return w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": url}}}), 200)
		}
		first := put(r.url).str("webhook_secret")
		if again := put(r.url + "/2"); first == "" || again.get("webhook_secret") != nil || again.get("webhook_secret_configured") != true {
			t.Errorf("the secret is shown with the first URL alone: %q, then %s", first, again.body)
		}
		r.verify(first)
		w.arrives(r, w.ask(id, "!say a").str("id"))
		rotate := func(body any) *answer {
			return w.want(w.call("POST", "/v1/agent/"+id+"/webhook-secret/rotate", body), 200)
		}
		a := rotate(nil)
		second := a.str("webhook_secret")
		until, err := time.Parse(time.RFC3339, a.str("previous_secret_expires_at"))
		if rest := time.Until(until); err != nil || second == first || rest < 23*time.Hour || rest > 25*time.Hour {
			t.Errorf("%s", a.body)
		}
		for _, s := range []string{first, second} { // both sign
			r.verify(s)
			e := w.arrives(r, w.ask(id, "!say b").str("id"))
			if n := len(strings.Fields(e.header.Get("webhook-signature"))); n != 2 {
				t.Errorf("%d signatures", n)
			}
		}
		third := rotate(map[string]any{"grace_seconds": 3600}).str("webhook_secret") // drops the first at once
		r.verify("")
		e := w.arrives(r, w.ask(id, "!say c").str("id"))
		for secret, holds := range map[string]bool{first: false, second: true, third: true} {
			wh, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := wh.Verify([]byte(e.body), e.header); (err == nil) != holds {
				t.Errorf("%v, expected to hold: %v", err, holds)
			}
		}
		if a := rotate(map[string]any{"grace_seconds": 0}); a.get("previous_secret_expires_at") != nil {
			t.Errorf("%s", a.body)
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-secret/rotate", map[string]any{"grace_seconds": 604801}), 400, "validation_failed")
		w.refused(w.call("POST", "/v1/agent/"+id+"/webhook-secret/rotate", map[string]any{"grace_seconds": "1"}), 400, "validation_failed")
		if got := w.want(w.call("GET", "/v1/agent/"+id, nil), 200); strings.Contains(string(got.body), "whsec_") {
			t.Errorf("SEC-2: %s", got.body)
		}
	})
}

func TestOUT_10_RemovedURLsAndDeletedAgents(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, toLoopback(change)), startReceiver(t)
		r.answer(500)
		id := w.agent(map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": r.url}}})
		for range 3 {
			w.arrives(r, w.ask(id, "!say a").str("id"))
		}
		put := func(url any) {
			w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": url}}}), 200)
		}
		put(nil)
		put(r.url + "/new")
		count := func(status string) float64 {
			return w.want(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries?status="+status, nil), 200).num("pagination.total")
		}
		w.until("what was pending is given up", func() bool { return count("dead") == 3 && count("pending") == 0 })
		before := len(r.events())
		m := w.ask(id, "!say b")
		w.arrives(r, m.str("id"))
		w.want(w.call("POST", "/v1/agent/delete/"+id, nil), 200)
		r.answer(200)
		time.Sleep(100 * time.Millisecond) // an attempt that was under way may still end
		if n := len(r.events()) - before; n > 2 {
			t.Errorf("%d attempts for an agent that is deleted", n)
		}
	})
}

func TestLEG_7_CallbacksOfTasks(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, toLoopback(change)), startReceiver(t)
		id := w.agent(nil)
		task := w.submit(id, map[string]any{"message": `!tool ask_for_input {"question":"Which one?"}`, "callback_mode": "webhook", "webhook_url": r.url + "/cb"})
		w.taskIs(id, task, "awaiting_input")
		msg := "msg_" + strings.TrimPrefix(task, "tsk_")
		e := w.arrives(r, msg)
		if e.doc["event"] != "task_awaiting_input" || e.doc["legacy_event"] != "task_awaiting_input" || e.path != "/cb" || e.doc["content"] != "Which one?" || e.header.Get("webhook-signature") != "" {
			t.Errorf("%s %v", e.body, e.header)
		}
		secret := w.want(w.call("POST", "/v1/agent/"+id+"/webhook-secret/rotate", nil), 200).str("webhook_secret")
		r.verify(secret)
		w.want(w.call("POST", "/agent/"+id+"/task/"+task+"/message", map[string]any{"message": "!say that one"}), 200)
		w.taskIs(id, task, "completed")
		w.until("the final event arrives", func() bool { return len(r.of(msg)) == 2 })
		if e := r.of(msg)[1]; e.doc["event"] != "message_complete" || e.doc["legacy_event"] != "task_complete" || e.doc["content"] != "[rehearsal model] that one" {
			t.Errorf("%s", e.body)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": blocked}), 201)
		w.begun(id)
		queued := w.submit(id, map[string]any{"message": "!say never", "callback_mode": "webhook", "webhook_url": r.url + "/cb"})
		w.want(w.call("POST", "/agent/"+id+"/task/"+queued+"/cancel", nil), 200)
		e = w.arrives(r, "msg_"+strings.TrimPrefix(queued, "tsk_"))
		if e.doc["event"] != "message_failed" || e.doc["legacy_event"] != "task_failed" || e.doc["reason"] != "cancelled" {
			t.Errorf("%s", e.body)
		}
		w.goOn(id)
		if n := w.want(w.call("GET", "/v1/agent/"+id+"/webhook-deliveries", nil), 200).num("pagination.total"); n != 3 {
			t.Errorf("%v deliveries", n)
		}
	})
}

// TestOUT_1_AReplyPostedInTheTurn is the content of the event, whatever becomes of the turn (TURN-10): it is read again for it.
func TestOUT_1_AReplyPostedInTheTurn(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w, r := startWorld(t, func(c *Config) { toLoopback(change)(c); c.Sandbox = "off" }), startReceiver(t)
		id := w.agent(map[string]any{"configuration": map[string]any{"webhooks": map[string]any{"message_complete": r.url}}})
		run := w.as(w.runtimeKey(id))
		rt := w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200)
		first := allMessages(w, id)[0]["id"].(string)
		w.want(run.call("POST", "/v1/agent-runtime/self/messages", map[string]any{"content": "posted in the turn", "reply_to_id": first, "turn_id": rt.str("turn.id")},
			"X-Troupe-Runner-Epoch", fmt.Sprint(int(rt.num("runner.runner_epoch")))), 201)
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say instead", "queue_mode": "interrupt", "metadata": map[string]any{"a": []int{1}}}), 201)
		if e := w.arrives(r, first); e.doc["event"] != "message_complete" || e.doc["content"] != "posted in the turn" || e.doc["error"] != nil {
			t.Errorf("%s", e.body)
		}
	})
}
