package main

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"troupe/channels/channelstest"
)

const (
	telegramToken = "987654321:test-token"
	ann           = int64(5551234)
)

// linked makes an agent with a Telegram bot that is linked to ann.
func (w *world) linked(s *channelstest.Telegram, body map[string]any) string {
	w.t.Helper()
	if body == nil {
		body = map[string]any{}
	}
	body["telegram_bot_token"] = telegramToken
	id := w.agent(body)
	code := w.want(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 200).str("code")
	s.Say(ann, "ann", " /LINK "+strings.ToLower(code)+" ")
	w.until("the account is linked", func() bool {
		return w.call("GET", "/v1/agent/"+id+"/telegram/status", nil).get("linked") == true
	})
	return id
}

func (w *world) told(s *channelstest.Telegram, n int) []channelstest.Sent {
	w.t.Helper()
	w.until(fmt.Sprintf("%d messages were sent", n), func() bool { return len(s.Sent()) >= n })
	return s.Sent()
}

func toTelegram(change func(*Config), s *channelstest.Telegram) func(*Config) {
	return func(c *Config) {
		change(c)
		c.TelegramURL = s.URL
	}
}

// TestCHAN_3_LinkTalkUnlink is a conversation from the first code to the end of the binding, on both stores.
func TestCHAN_3_LinkTalkUnlink(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		s := channelstest.StartTelegram(t, telegramToken)
		w := startWorld(t, toTelegram(change, s))
		bare := w.agent(nil)
		w.refused(w.call("POST", "/v1/agent/"+bare+"/telegram/link", nil), 400, "channel_not_configured")
		if a := w.want(w.call("GET", "/v1/agent/"+bare+"/telegram/status", nil), 200); a.get("linked") != false {
			t.Errorf("CHAN-15: %s", a.body)
		}
		w.refused(w.call("DELETE", "/v1/agent/"+bare+"/telegram/unlink", nil), 404, "not_linked")
		id := w.linked(s, map[string]any{"name": "Scout"})
		if got := w.told(s, 1)[0]; got.Text != "Linked. You are talking to Scout now." || got.Chat != fmt.Sprint(ann) {
			t.Errorf("CHAN-3: %+v", got)
		}
		st := w.want(w.call("GET", "/v1/agent/"+id+"/telegram/status", nil), 200)
		if st.str("telegram_user_id") != fmt.Sprint(ann) || st.str("channel_binding.telegram_username") != "ann" || st.str("channel_binding.queue_mode") != "collect" {
			t.Errorf("%s", st.body)
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 409, "already_linked")
		s.Say(ann, "ann", "!say **bold** & `x<y`")
		if got := w.told(s, 2)[1]; got.Text != "[rehearsal model] <b>bold</b> &amp; <code>x&lt;y</code>" || got.Mark != "HTML" {
			t.Errorf("CHAN-8: %+v", got)
		}
		var user, reply map[string]any
		w.until("the reply is delivered", func() bool {
			all := allMessages(w, id)
			if len(all) != 2 {
				return false
			}
			user, reply = all[0], all[1]
			return reply["status"] == "delivered" && user["outcome"] == "completed"
		})
		party := st.str("channel_binding.uuid")
		if user["channel"] != "telegram" || user["counterparty_uuid"] != party || reply["channel"] != "telegram" || reply["counterparty_uuid"] != party || user["metadata"].(map[string]any)["_channel"] == nil {
			t.Errorf("CHAN-5, MSG-6: %v\n%v", user, reply)
		}
		b := w.want(w.call("GET", "/v1/agent/"+id+"/channels", nil), 200).get("bindings").([]any)
		if len(b) != 2 || b[0].(map[string]any)["channel"] != "api" || b[1].(map[string]any)["telegram_user_id"] != fmt.Sprint(ann) {
			t.Errorf("%v", b)
		}
		bind := b[1].(map[string]any)["id"].(string)
		if a := w.want(w.call("PATCH", "/v1/agent/"+id+"/channels/"+bind, map[string]any{"queue_mode": "interrupt"}), 200); a.str("queue_mode") != "interrupt" {
			t.Errorf("%s", a.body)
		}
		w.refused(w.call("PATCH", "/v1/agent/"+id+"/channels/"+bind, map[string]any{"queue_mode": "later"}), 400, "validation_failed")
		w.refused(w.call("PATCH", "/v1/agent/"+id+"/channels/bind_x", map[string]any{"queue_mode": "collect"}), 404, "not_found")
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say for the account", "channel": "telegram"}), 201)
		if got := w.told(s, 3)[2]; got.Text != "[rehearsal model] for the account" {
			t.Errorf("MSG-11: %+v", got)
		}
		if a := w.want(w.call("DELETE", "/v1/agent/"+id+"/telegram/unlink", nil), 200); a.get("success") != true {
			t.Errorf("%s", a.body)
		}
		w.refused(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x", "channel": "telegram"}), 400, "channel_not_linked")
		s.Say(ann, "ann", "hello?")
		if got := w.told(s, 4)[3]; !strings.Contains(got.Text, "/link CODE") {
			t.Errorf("CHAN-4: %+v", got)
		}
		s.Say(ann, "ann", "hello??")
		w.until("everything is confirmed", func() bool { return s.Waiting() == 0 })
		if n := len(s.Sent()); n != 4 || len(allMessages(w, id)) != 4 {
			t.Errorf("CHAN-4: %d messages were sent, %d are stored", n, len(allMessages(w, id)))
		}
	})
}

func TestCHAN_3_WrongCodesAndStrangers(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(*Config) {}, s))
	id := w.agent(map[string]any{"telegram_bot_token": telegramToken})
	first := w.want(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 200).str("code")
	second := w.want(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 200).str("code") // replaces the first (CHAN-2)
	for i, code := range []string{first, "ABCDEF", "nothin", "x", "zzzzzz", second} {
		s.Say(77, "eve", "link "+code)
		w.until("it is confirmed", func() bool { return s.Waiting() == 0 })
		if n := len(s.Sent()); n != min(i+1, 5) {
			t.Errorf("after %d codes %d answers", i+1, n)
		}
	}
	for _, m := range s.Sent() {
		if m.Text != "This code is not valid. Ask for a new one." {
			t.Errorf("%+v", m)
		}
	}
	s.Update(map[string]any{"message": map[string]any{"date": 1, "text": "link " + second, "from": map[string]any{"id": 1, "is_bot": false}, "chat": map[string]any{"id": -5, "type": "group"}}})
	s.Update(map[string]any{"edited_message": map[string]any{"text": "link " + second}})
	s.Update(map[string]any{"message": "nonsense"})
	s.Update(map[string]any{"message": map[string]any{"date": 1, "text": "link " + second, "from": map[string]any{"id": 2, "is_bot": true}, "chat": map[string]any{"id": 2, "type": "private"}}})
	w.until("they are ignored", func() bool { return s.Waiting() == 0 })
	s.Say(ann, "ann", "link "+second) // the code is still good: a stranger's failures are his own
	w.until("it is linked", func() bool { return w.call("GET", "/v1/agent/"+id+"/telegram/status", nil).get("linked") == true })
	s.Say(78, "bob", "link "+second) // used (CHAN-2)
	if got := w.told(s, 7)[6]; got.Text != "This code is not valid. Ask for a new one." {
		t.Errorf("%+v", got)
	}
}

// TestCHAN_6_AnUpdateIsConfirmedWhenItIsDurable: the store is away for a while; nothing is confirmed, and nothing comes twice.
func TestCHAN_6_AnUpdateIsConfirmedWhenItIsDurable(t *testing.T) {
	srv := startRedisFor(t)
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(c *Config) { c.RedisURL = srv.URL() }, s))
	id := w.linked(s, nil)
	w.told(s, 1)
	if err := syscall.Kill(srv.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.Say(ann, "ann", "!say one")
	s.Say(ann, "ann", "!say two")
	time.Sleep(3 * time.Second) // the store does not answer, and the update is asked for again
	if s.Waiting() != 2 {
		t.Errorf("%d updates wait", s.Waiting())
	}
	if err := syscall.Kill(srv.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.until("both are answered", func() bool { return s.Waiting() == 0 && len(allMessages(w, id)) >= 3 })
	users := 0
	for _, m := range allMessages(w, id) {
		if m["role"] == "user" {
			users++
		}
	}
	if users != 2 {
		t.Errorf("%d messages of two updates", users)
	}
}

func TestCHAN_7_AnAgentThatIsAway(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(*Config) {}, s))
	id := w.linked(s, nil)
	w.told(s, 1)
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	s.Say(ann, "ann", "one")
	s.Say(ann, "ann", "two")
	w.until("they are confirmed", func() bool { return s.Waiting() == 0 })
	if got := w.told(s, 2); len(got) != 2 || !strings.Contains(got[1].Text, "not available") || len(allMessages(w, id)) != 0 {
		t.Errorf("%+v, %d stored", got, len(allMessages(w, id)))
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/status", map[string]any{"status": "paused"}), 200)
	s.Say(ann, "ann", "!say three")
	w.until("it is stored silently", func() bool { return len(allMessages(w, id)) == 1 })
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	w.told(s, 3)
}

// TestCHAN_10_PartsInOrderAndTheirFate: a long reply is cut, a limit is waited for, and what is not known is said.
func TestCHAN_10_PartsInOrderAndTheirFate(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(*Config) {}, s))
	id := w.linked(s, nil)
	w.told(s, 1)
	s.FailNext(429, "Too Many Requests: retry after 1", 1)
	s.Say(ann, "ann", "!say start\n!tokens 3000") // 12,000 characters: three parts
	got := w.told(s, 4)
	whole := 0
	for _, p := range got[1:4] {
		whole += len(p.Text)
	}
	if whole < 11900 || len(got[1].Text) > 4096 || len(got[1].Text) < 4000 {
		t.Errorf("CHAN-9: parts of %d, %d and %d", len(got[1].Text), len(got[2].Text), len(got[3].Text))
	}
	last := func() map[string]any { all := allMessages(w, id); return all[len(all)-1] }
	w.until("it is delivered", func() bool { return last()["status"] == "delivered" })
	s.CutNext() // the first part arrives, and nobody learns that
	s.Say(ann, "ann", "!say start\n!tokens 1500")
	w.until("the second part arrives as well", func() bool { return len(s.Sent()) == 6 })
	w.until("it is delivered", func() bool { m := last(); return m["role"] == "assistant" && m["status"] == "delivered" })
	if meta := fmt.Sprint(last()["metadata"]); !strings.Contains(meta, "uncertain:[1]") {
		t.Errorf("CHAN-10: %s", meta)
	}
	if texts := s.Sent(); texts[4].Text == texts[5].Text {
		t.Error("CHAN-10: a part was sent again")
	}
	s.FailNext(400, "Bad Request: can't parse entities: x", 0)
	s.Say(ann, "ann", "!say **plain**")
	if got := w.told(s, 7)[6]; got.Text != "[rehearsal model] plain" || got.Mark != "" {
		t.Errorf("CHAN-8: %+v", got)
	}
	s.FailNext(403, "Forbidden: bot was blocked by the user", 0)
	s.Say(ann, "ann", "!say lost")
	w.until("the refusal is shown", func() bool {
		m := last()
		return m["role"] == "assistant" && m["failure_reason"] == "channel_unreachable"
	})
}

// TestCHAN_10_NoPartIsLostOnTheWay: a node that stops, and a store that is away for longer than a lease, while a long reply is being sent.
func TestCHAN_10_NoPartIsLostOnTheWay(t *testing.T) {
	srv := startRedisFor(t)
	s := channelstest.StartTelegram(t, telegramToken)
	cfg := testConfig(t)
	cfg.RedisURL = srv.URL()
	p := startProcess(t, cfg, "TROUPE_LEASE_TTL=2s", "TROUPE_SANDBOX=off", "TROUPE_TELEGRAM_URL="+s.URL)
	w := p.world(cfg)
	id := w.linked(s, nil)
	w.told(s, 1)
	whole := func(from int) {
		t.Helper()
		w.until("the reply is delivered", func() bool {
			all := allMessages(w, id)
			m := all[len(all)-1]
			return m["role"] == "assistant" && m["status"] == "delivered"
		})
		all := allMessages(w, id)
		length := 0
		for _, x := range s.Sent()[from:] {
			length += len(x.Text)
		}
		if text, _ := all[len(all)-1]["content"].(string); length < len(text)-100 || length > len(text) || all[len(all)-1]["metadata"] != nil {
			t.Errorf("%d of %d characters arrived, %v", length, len(text), all[len(all)-1]["metadata"])
		}
	}
	s.Say(ann, "ann", "!say start\n!tokens 6000") // 24,000 characters: more parts than may be sent at once
	w.told(s, 4)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
	p.up()
	w = p.world(cfg)
	whole(1)

	n := len(s.Sent())
	s.Say(ann, "ann", "!say again\n!tokens 6000")
	w.told(s, n+3)
	if err := syscall.Kill(srv.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // longer than the lease, and than a word of an activation to itself is kept
	if err := syscall.Kill(srv.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	whole(n)
}

// TestTypingIsShownWhileATurnRuns, every few seconds, and no longer.
func TestTypingIsShownWhileATurnRuns(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(*Config) {}, s))
	id := w.linked(s, nil)
	w.told(s, 1)
	s.Say(ann, "ann", "!slow 6s\n!say done")
	w.until("it is shown again", func() bool { return s.Calls("sendChatAction") >= 2 })
	w.told(s, 2)
	shown := s.Calls("sendChatAction")
	w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200)
	if n := s.Calls("sendChatAction"); n != shown || n > 6 {
		t.Errorf("shown %d times, %d of them after the reply", n, n-shown)
	}
}

// TestCHAN_12_CredentialsComeAndGo: clearing a token ends the connection and keeps the binding; setting one revives it (CFG-7).
func TestCHAN_12_CredentialsComeAndGo(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	w := startWorld(t, toTelegram(func(*Config) {}, s))
	id := w.linked(s, nil)
	w.told(s, 1)
	set := func(token any) {
		w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"telegram_bot_token": token}), 200)
	}
	set(nil)
	w.until("the connection has ended", func() bool { return !s.Polled() })
	w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say owed", "channel": "telegram"}), 201)
	w.until("the reply rests", func() bool {
		all := allMessages(w, id)
		return len(all) == 2 && all[0]["outcome"] == "completed" && all[1]["status"] == "pending"
	})
	began := time.Now()
	set(telegramToken)
	s.Say(ann, "ann", "!say back")
	got := w.told(s, 3)
	if took := time.Since(began); !strings.Contains(got[1].Text, "owed") || !strings.Contains(got[2].Text, "back") || took > 30*time.Second {
		t.Errorf("after %v: %+v", took, got[1:])
	}
	if a := w.want(w.call("GET", "/v1/agent/"+id+"/telegram/status", nil), 200); a.get("linked") != true {
		t.Errorf("%s", a.body)
	}
}

// TestCHAN_13_WithAPublicURLTelegramCalls: the webhook is registered, its secret proves the caller (CHAN-14).
func TestCHAN_13_WithAPublicURLTelegramCalls(t *testing.T) {
	s := channelstest.StartTelegram(t, telegramToken)
	port := freePort(t)
	w := startWorld(t, func(c *Config) { c.TelegramURL, c.Listen, c.PublicURL = s.URL, port, "http://"+port })
	id := w.agent(map[string]any{"telegram_bot_token": telegramToken})
	w.until("the webhook is registered", func() bool { hook, _ := s.Hook(); return hook == "http://"+port+"/v1/webhooks/telegram/"+id })
	code := w.want(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 200).str("code")
	s.Say(ann, "ann", "/link "+code)
	s.Say(ann, "ann", "!say by webhook")
	w.until("it is answered", func() bool { return len(s.Sent()) == 2 })
	hook, key := s.Hook()
	update := `{"update_id":5,"message":{"date":1,"text":"x","from":{"id":5551234},"chat":{"id":5551234,"type":"private"}}}`
	at := strings.TrimPrefix(hook, w.base)
	for name, c := range map[string]struct {
		path, body, key string
		status          int
	}{
		"no secret":      {at, update, "", 401},
		"a wrong secret": {at, update, key + "x", 401},
		"no JSON":        {at, "{", key, 400},
		"unknown agent":  {"/v1/webhooks/telegram/01a213f6-d4c4-76d4-b54a-3dd8b17e7b1d", update, key, 404},
		"good":           {at, update, key, 200},
		"again":          {at, update, key, 200},
	} {
		if a := w.call("POST", c.path, c.body, "Authorization", "", "X-Telegram-Bot-Api-Secret-Token", c.key); a.status != c.status {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	bare := w.agent(nil)
	if a := w.call("POST", "/v1/webhooks/telegram/"+bare, update, "Authorization", "", "X-Telegram-Bot-Api-Secret-Token", key); a.status != http.StatusNotFound {
		t.Errorf("CHAN-14: %d", a.status)
	}
	users := 0
	for _, m := range allMessages(w, id) {
		if m["content"] == "x" {
			users++
		}
	}
	if users != 1 {
		t.Errorf("CHAN-6: %d messages of one update", users)
	}
}

func TestCHAN_11_WhatsApp(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		const me = "491700000000"
		s := channelstest.StartWhatsApp(t, "1234567890", "EAAtoken", "app-secret")
		w := startWorld(t, func(c *Config) { change(c); c.WhatsAppURL = s.URL })
		id := w.agent(map[string]any{"whatsapp": map[string]any{"phone_number_id": s.Phone, "access_token": "EAAtoken", "app_secret": s.Secret, "verify_token": "verify-me"}})
		hook := w.base + "/v1/webhooks/whatsapp/" + id
		if a := w.call("GET", "/v1/webhooks/whatsapp/"+id+"?hub.mode=subscribe&hub.verify_token=verify-me&hub.challenge=1158201444", nil, "Authorization", ""); a.status != 200 || string(a.body) != "1158201444" {
			t.Errorf("%d %s", a.status, a.body)
		}
		w.refused(w.call("GET", "/v1/webhooks/whatsapp/"+id+"?hub.mode=subscribe&hub.verify_token=wrong-one&hub.challenge=1", nil, "Authorization", ""), 403, "forbidden")
		code := w.want(w.call("POST", "/v1/agent/"+id+"/whatsapp/link", nil), 200).str("code")
		at := time.Now().Unix()
		if got := s.Notify(hook, s.Message("wamid.1", me, "Ann", "link "+code, at)); got != 200 {
			t.Fatal(got)
		}
		w.until("it is linked", func() bool {
			return w.call("GET", "/v1/agent/"+id+"/whatsapp/status", nil).str("whatsapp_user_id") == me
		})
		for range 3 { // Meta repeats what was not acknowledged in time
			if got := s.Notify(hook, s.Message("wamid.2", me, "Ann", "!say *hi* **there** [docs](https://x.test)", at)); got != 200 {
				t.Fatal(got)
			}
		}
		w.until("it is answered", func() bool { return len(s.Sent()) == 2 })
		sent := s.Sent()[1]
		if sent.Text != "[rehearsal model] _hi_ *there* docs (https://x.test)" || sent.Chat != me {
			t.Errorf("CHAN-8: %+v", sent)
		}
		last := func() map[string]any { all := allMessages(w, id); return all[len(all)-1] }
		w.until("it is delivered", func() bool { return last()["status"] == "delivered" })
		if len(allMessages(w, id)) != 2 {
			t.Errorf("CHAN-6: %v", allMessages(w, id))
		}
		s.Notify(hook, map[string]any{"statuses": []any{map[string]any{"id": "wamid.out", "status": "read", "biz_opaque_callback_data": sent.Key}}})
		w.until("the receipt counts", func() bool { return last()["status"] == "read" })
		s.FailNext(400, 131047)
		s.Notify(hook, s.Message("wamid.3", me, "Ann", "!say too late", at))
		w.until("the closed window is shown", func() bool {
			m := last()
			return m["role"] == "assistant" && m["failure_reason"] == "channel_window_closed"
		})
		good := s.Secret
		s.Secret = "another"
		if got := s.Notify(hook, s.Message("wamid.4", me, "Ann", "forged", at)); got != 401 {
			t.Errorf("CHAN-14: %d", got)
		}
		s.Secret = good
	})
}
