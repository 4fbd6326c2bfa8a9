package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/actors/agent"
)

func TestGEN_1_InstantsNeverGoBack(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	for range 20 {
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"}), 201)
	}
	last := ""
	for _, m := range allMessages(w, id) {
		at := m["created_at"].(string)
		if at < last || len(at) != len("2026-03-09T10:00:00.000Z") {
			t.Fatalf("created_at %s after %s", at, last)
		}
		last = at
	}
}

func TestGEN_2_IdsInEveryForm(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	msg := w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"}), 201).str("id")
	bare := strings.TrimPrefix(msg, "msg_")
	for _, path := range []string{"/v1/agent/" + id, "/v1/agent/agt_" + id, "/v1/agent/" + strings.ToUpper(id), "/v1/agent/" + id + "/messages/" + msg,
		"/v1/agent/" + id + "/messages/" + bare, "/v1/agent/" + id + "/messages/" + strings.ToUpper(bare), "/v1/agent/" + id + "/messages?after=" + bare} {
		w.want(w.call("GET", path, nil), 200)
	}
	for _, path := range []string{"/v1/agent/nonsense", "/v1/agent/" + id + "x", "/v1/agent/" + agent.NewUUID(), "/v1/agent/agt_agt_" + id, "/v1/agent/" + id + "/messages/zzz"} {
		w.refused(w.call("GET", path, nil), 404, "not_found")
	}
	if !strings.HasPrefix(msg, "msg_") || bare[14] != '7' {
		t.Errorf("%s is no UUIDv7 message id", msg)
	}
}

func TestGEN_3_Routing(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.refused(w.call("POST", "/v1/agent/update/pause", map[string]any{}), 404, "not_found")
	w.want(w.call("GET", "/v1/agent/"+id+"/", nil), 200)
	w.want(w.call("GET", "/v1/agent/list/", nil), 200)
	w.refused(w.call("GET", "/v1/nowhere", nil), 404, "route_not_found")
}

func TestGEN_5_JSON(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(map[string]any{"name": "a <&> b", "output_token_balance": agent.MaxTokens})
	a := w.call("GET", "/v1/agent/"+id, nil)
	if !strings.Contains(string(a.body), "a <&> b") || !strings.Contains(string(a.body), "9007199254740991") {
		t.Errorf("%s", a.body)
	}
	twice := w.want(w.call("POST", "/v1/agent/update/"+id, `{"name":"first","name":"second"}`), 200)
	if twice.str("name") != "second" {
		t.Errorf("of duplicate keys the last counts: %s", twice.str("name"))
	}
}

func TestGEN_6_Methods(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	head := w.want(w.call("HEAD", "/v1/agent/"+id, nil), 200)
	if len(head.body) != 0 {
		t.Errorf("HEAD has a body: %s", head.body)
	}
	options := w.want(w.call("OPTIONS", "/v1/agent/"+id, nil), 204)
	if options.header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("Allow: %s", options.header.Get("Allow"))
	}
	bad := w.refused(w.call("PUT", "/v1/agent/"+id, map[string]any{}), 405, "method_not_allowed")
	if bad.header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
}

func TestERR_1_EveryErrorHasTheBody(t *testing.T) {
	w := startWorld(t, nil)
	for path, code := range map[string]string{"/nowhere": "route_not_found", "/v1/agent/x": "not_found"} {
		if a := w.refused(w.call("GET", path, nil), 404, code); a.str("request_id") == "" || a.header.Get("X-Request-Id") != a.str("request_id") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := w.call("POST", "/v1/llm/anthropic/v1/messages", "{}", "Authorization", ""); a.status != 401 || a.str("error.type") != "authentication_error" {
		t.Errorf("LLM-1: %d %s", a.status, a.body)
	}
}

func TestERR_2_CodesOfTheTable(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.refused(w.call("POST", "/v1/agent/"+id+"/resume", nil), 400, "invalid_state")
	w.refused(w.call("GET", "/v1/agent/"+id+"/messages?after="+agent.NewUUID(), nil), 400, "invalid_cursor")
	w.refused(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": -agent.MaxTokens, "type": "increment"}), 400, "balance_below_zero")
	w.refused(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x", "channel": "slack"}), 400, "channel_not_linked")
}

// TestERR_3_OrderOfChecks makes requests that are wrong in two ways; the earlier one in the order answers.
func TestERR_3_OrderOfChecks(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	big := `{"content":"` + strings.Repeat("x", 4<<20) + `"}`
	path := "/v1/agent/" + id + "/messages"
	w.refused(w.call("POST", "/v1/agent/"+id+"/nowhere", "{", "Authorization", ""), 404, "route_not_found")
	w.refused(w.call("POST", "/v1/agent/unknown/messages", "{", "Authorization", ""), 401, "missing_authorization")
	w.refused(w.call("POST", "/v1/agent/unknown/messages", big), 404, "not_found")
	w.refused(w.call("POST", path, big, "Content-Type", "text/plain"), 413, "payload_too_large")
	w.refused(w.call("POST", path, "{", "Content-Type", "text/plain"), 415, "unsupported_media_type")
	w.refused(w.call("POST", path, "{", "Idempotency-Key", "a b"), 400, "invalid_json")
	w.want(w.call("POST", path, `{"content":"x"}`, "Idempotency-Key", "k"), 201)
	w.refused(w.call("POST", path, `{"content":"y"}`, "Idempotency-Key", "k"), 422, "idempotency_key_reused")
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	w.refused(w.call("POST", path, `{"content":""}`), 400, "validation_failed")
	w.refused(w.call("POST", path, `{"content":"x"}`), 503, "agent_unavailable")
}

func TestERR_6_AStoreThatIsDown(t *testing.T) {
	srv := startRedisFor(t)
	w := startWorld(t, func(c *Config) { c.RedisURL = srv.URL() })
	id := w.agent(nil)
	srv.Kill()
	for _, c := range []struct{ method, path string }{{"GET", "/v1/agent/" + id}, {"POST", "/v1/agent/" + id + "/messages"}, {"POST", "/v1/agent/create"}} {
		a := w.call(c.method, c.path, map[string]any{"content": "x", "name": "n"})
		w.refused(a, 503, "store_unavailable")
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
	}
	if a := w.want(w.call("GET", "/health", nil), 503); a.str("database") != "unhealthy" {
		t.Errorf("OBS-1: %s", a.body)
	}
	srv.Up(t)
	w.until("the store is back", func() bool { return w.call("GET", "/v1/agent/"+id, nil).status == 200 })
}

// user registers an account and returns a world that calls as it.
func (w *world) user(email string) *world {
	w.t.Helper()
	other := *w
	other.key = ""
	other.want(other.call("POST", "/auth/create_user", map[string]any{"email": email, "password": "correct horse"}), 201)
	other.key = other.want(other.call("POST", "/auth/login", map[string]any{"email": email, "password": "correct horse"}), 200).str("token")
	return &other
}

func TestTEN_1_OtherAccountsSeeNothing(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	other := w.user("ann@acme.test")
	for _, c := range []struct {
		method, path string
		body         any
	}{{"GET", "", nil}, {"GET", "/summary", nil}, {"GET", "/ready", nil}, {"GET", "/runtime", nil}, {"GET", "/messages", nil}, {"GET", "/conversations", nil},
		{"POST", "/messages", map[string]any{"content": "x"}}, {"POST", "/pause", nil}, {"POST", "/balance", map[string]any{"amount": 1, "type": "set"}}} {
		a := other.refused(other.call(c.method, "/v1/agent/"+id+c.path, c.body), 404, "not_found")
		b := other.refused(other.call(c.method, "/v1/agent/"+agent.NewUUID()+c.path, c.body), 404, "not_found")
		if a.str("error") != b.str("error") {
			t.Errorf("%s %s tells a foreign agent from none: %q, %q", c.method, c.path, a.str("error"), b.str("error"))
		}
	}
	if n := len(other.call("GET", "/v1/agent/list", nil).doc["agents"].([]any)); n != 0 {
		t.Errorf("the list of another account has %d agents", n)
	}
}

func TestTEN_2_TheFeatureFlag(t *testing.T) {
	w := startWorld(t, nil)
	other := w.user("ann@acme.test")
	id := other.agent(nil)
	a, err := w.n.st.AccountByEmail(t.Context(), "ann@acme.test")
	if err != nil {
		t.Fatal(err)
	}
	a.NoAgents = true
	if err := w.n.st.PutAccount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	other.until("the flag is seen", func() bool { return other.call("GET", "/v1/agent/list", nil).status == 403 })
	other.refused(other.call("GET", "/v1/agent/unknown", nil), 403, "feature_disabled")
	other.refused(other.call("POST", "/agent/create", map[string]any{}), 403, "feature_disabled")
	other.want(other.call("GET", "/auth/fetch_user", nil), 200)
	if sn, err := w.n.st.Load(t.Context(), agent.ID(id)); err != nil || sn.Figures.Status != agent.Active {
		t.Errorf("agents that exist go on working: %v %v", sn.Figures.Status, err)
	}
}

func TestTEN_3_TheAgentLimit(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.AgentLimit = 3 })
		var wg sync.WaitGroup
		var mu sync.Mutex
		codes := map[int]int{}
		for i := range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a, err := w.try("POST", "/v1/agent/create", map[string]any{"name": fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				codes[a.status]++
				mu.Unlock()
			}()
		}
		wg.Wait()
		if codes[201] != 3 || codes[403] != 5 {
			t.Fatalf("answers %v", codes)
		}
		list := w.call("GET", "/v1/agent/list", nil)
		first := list.doc["agents"].([]any)[0].(map[string]any)["id"].(string)
		w.want(w.call("POST", "/v1/agent/delete/"+first, nil), 200)
		w.until("the place is free again", func() bool { return w.call("POST", "/v1/agent/create", map[string]any{"name": "n"}).status == 201 })
	})
}

func TestTEN_4_AgentsOfOtherAccountsCannotBeMessaged(t *testing.T) {
	w := startWorld(t, nil)
	other := w.user("ann@acme.test")
	foreign := other.agent(nil)
	id := w.agent(nil)
	a := w.ask(id, `!tool send_message {"type":"agent","uuid":"`+foreign+`","content":"hi"}`+"\n!say tried")
	if a.str("outcome") != "completed" {
		t.Fatalf("%s", a.body)
	}
	if n := len(allMessages(other, foreign)); n != 0 {
		t.Errorf("%d messages crossed the account", n)
	}
}

func TestAUTH_1_OrderOfCredentials(t *testing.T) {
	w := startWorld(t, nil)
	jwt := w.user("ann@acme.test").key
	for _, c := range []struct {
		shinzo, api, bearer string
		status              int
	}{
		{testKey, "", "", 200}, {"", testKey, "", 200}, {"", "", testKey, 200}, {"", "", jwt, 200},
		{"sk_shinzo_wrong", testKey, testKey, 401}, {"not a key", testKey, "", 200}, {"", "other", testKey, 200}, {"", "", "trk_x", 401}, {"", "", "", 401},
	} {
		auth := ""
		if c.bearer != "" {
			auth = "Bearer " + c.bearer
		}
		if a := w.call("GET", "/v1/agent/list", nil, "Authorization", auth, "x-shinzo-api-key", c.shinzo, "x-api-key", c.api); a.status != c.status {
			t.Errorf("%+v: got %d", c, a.status)
		}
	}
	w.refused(w.call("GET", "/v1/agent/list", nil, "Authorization", ""), 401, "missing_authorization")
	w.refused(w.call("GET", "/v1/agent/list", nil, "Authorization", "Bearer x"), 401, "invalid_token")
}

func TestAUTH_2_WhichCredentialWhere(t *testing.T) {
	w := startWorld(t, nil)
	w.refused(w.call("GET", "/auth/fetch_user", nil), 401, "invalid_token")
	w.refused(w.call("GET", "/auth/fetch_user", nil, "Authorization", "", "x-api-key", testKey), 401, "invalid_token")
	w.refused(w.call("GET", "/v1/agent-runtime/self", nil), 401, "invalid_token")
	id := w.agent(nil)
	key := w.n.box.RuntimeKey(agent.ID(id), 1).Reveal()
	w.refused(w.call("GET", "/v1/agent/"+id, nil, "Authorization", "Bearer "+key), 401, "invalid_token")
	w.until("the pod is asked for", func() bool {
		return w.call("GET", "/v1/agent-runtime/self", nil, "Authorization", "Bearer "+key).status == 200
	})
}

func TestAUTH_3_DeletedKeysDieWithinASecond(t *testing.T) {
	w := startWorld(t, nil)
	u := w.user("ann@acme.test")
	made := u.want(u.call("POST", "/auth/platform_keys", map[string]any{"name": "ci"}), 201)
	key := "Bearer " + made.str("key")
	w.want(w.call("GET", "/v1/agent/list", nil, "Authorization", key), 200)
	u.want(u.call("DELETE", "/auth/platform_keys/"+made.str("uuid"), nil), 200)
	deleted, last := time.Now(), time.Now()
	w.until("the key is dead", func() bool {
		at := time.Now()
		if w.call("GET", "/v1/agent/list", nil, "Authorization", key).status == 401 {
			return true
		}
		last = at
		return false
	})
	if took := last.Sub(deleted); took > time.Second {
		t.Errorf("it was taken %v after it was deleted", took)
	}
	u.refused(u.call("DELETE", "/auth/platform_keys/"+made.str("uuid"), nil), 404, "not_found")
}

func TestAUTH_4_PlatformKeys(t *testing.T) {
	w := startWorld(t, nil)
	u := w.user("ann@acme.test")
	made := u.want(u.call("POST", "/auth/platform_keys", map[string]any{"name": "ci"}), 201)
	list := u.want(u.call("GET", "/auth/platform_keys", nil), 200)
	if strings.Contains(string(list.body), made.str("key")) || !strings.Contains(string(list.body), made.str("key")[:20]+"...") {
		t.Errorf("%s", list.body)
	}
	legacy := u.want(u.call("POST", "/agent/create", map[string]any{"name": "old", "anthropic_api_key": "sk-ant-x"}), 201)
	key := "Bearer " + legacy.str("platform_api_key")
	w.refused(w.call("GET", "/v1/agent/list", nil, "Authorization", key), 403, "key_scope")
	id := strings.TrimPrefix(legacy.str("uuid"), "agt_")
	u.want(u.call("POST", "/v1/agent/delete/"+id, nil), 200)
	w.until("LEG-2: the key dies with the agent", func() bool { return w.call("GET", "/v1/agent/list", nil, "Authorization", key).status == 401 })
}

func TestAUTH_5_Logins(t *testing.T) {
	w := startWorld(t, nil)
	w.user("ann@acme.test")
	w.refused(w.call("POST", "/auth/create_user", map[string]any{"email": "Ann@acme.test", "password": "correct horse"}), 409, "email_taken")
	bad := map[string]any{"email": "ann@acme.test", "password": "wrong"}
	for range 10 {
		w.refused(w.call("POST", "/auth/login", bad), 401, "invalid_credentials")
	}
	w.refused(w.call("POST", "/auth/login", bad), 429, "too_many_attempts")
	w.refused(w.call("POST", "/auth/login", map[string]any{"email": "nobody@acme.test", "password": "wrong"}), 401, "invalid_credentials")
}

func TestAUTH_5_Verification(t *testing.T) {
	w := startWorld(t, nil)
	w.refused(w.call("POST", "/auth/verify_user", map[string]any{"email": "nobody@acme.test", "verification_token": "x"}), 404, "not_found")
	w.user("ann@acme.test")
	w.refused(w.call("POST", "/auth/verify_user", map[string]any{"email": "ann@acme.test", "verification_token": "x"}), 409, "already_verified")
	w.want(w.call("POST", "/auth/resend_verification", map[string]any{"email": "ann@acme.test"}), 200)
}

func TestSEC_1_SecretsAreSealedAtRest(t *testing.T) {
	w := startWorld(t, nil)
	w.agent(map[string]any{"anthropic_api_key": "sk-ant-topsecret", "telegram_bot_token": "tg-topsecret", "configuration": map[string]any{"custom_env": map[string]any{"A": "env-topsecret"},
		"webhooks": map[string]any{"agent_error": "https://a.example/x"}}})
	u := w.user("ann@acme.test")
	u.want(u.call("POST", "/auth/provider_keys", map[string]any{"provider": "anthropic", "provider_api_key": "sk-ant-topsecret2"}), 201)
	files, _ := filepath.Glob(filepath.Join(w.dir, "store", "*"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"topsecret", "correct horse", testKey, "whsec_"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%q is in clear in %s", secret, filepath.Base(f))
			}
		}
	}
}

func TestSEC_2_ShownOnceAlsoByReplay(t *testing.T) {
	w := startWorld(t, nil)
	body := map[string]any{"name": "a", "configuration": map[string]any{"webhooks": map[string]any{"agent_error": "https://a.example/x"}}}
	first := w.want(w.call("POST", "/v1/agent/create", body, "Idempotency-Key", "k"), 201)
	again := w.want(w.call("POST", "/v1/agent/create", body, "Idempotency-Key", "k"), 201)
	if first.str("webhook_secret") == "" || string(again.body) != string(first.body) || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("IDEM-4: %s\n%s", first.body, again.body)
	}
	if w.call("GET", "/v1/agent/"+first.str("id"), nil).str("webhook_secret") != "" {
		t.Error("a later call returns the secret")
	}
}

func TestSEC_5_TheRunnerHoldsOnlyItsRuntimeKey(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(map[string]any{"anthropic_api_key": "sk-ant-topsecret"})
	a := w.ask(id, `!tool shell {"command":"env | sort > env.txt; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' >> env.txt"}`+"\n!say ok")
	if a.str("outcome") != "completed" {
		t.Fatalf("%s", a.body)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "agents", id, "workspace", "env.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"topsecret", testKey, "DATABASE_URL"} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the agent's environment holds %q", secret)
		}
	}
	if !strings.Contains(string(b), "AGENT_UUID="+id) {
		t.Errorf("POD-3: AGENT_UUID is missing")
	}
}

func TestSEC_3_NothingSecretInTheLog(t *testing.T) {
	cfg := testConfig(t)
	p := startProcess(t, cfg, "TROUPE_LOG=debug", "TROUPE_ANTHROPIC_API_KEY=sk-ant-topsecret")
	w := p.world(cfg)
	id := w.agent(map[string]any{"anthropic_api_key": "sk-ant-topsecret", "system_prompt": "prompt-topsecret"})
	w.ask(id, "body-topsecret\n!fail 529")
	p.kill()
	for _, secret := range []string{"topsecret", testKey} {
		if strings.Contains(p.out.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

func TestRATE_1_AccountWindow(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.RateLimit = 5 })
		for i := range 5 {
			a := w.want(w.call("GET", "/v1/agent/list", nil), 200)
			if a.header.Get("X-RateLimit-Limit") != "5" || a.header.Get("X-RateLimit-Remaining") != fmt.Sprint(4-i) || a.header.Get("X-RateLimit-Reset") == "" {
				t.Fatalf("headers %v", a.header)
			}
		}
		a := w.refused(w.call("GET", "/v1/agent/unknown", nil), 429, "rate_limited")
		if a.header.Get("Retry-After") == "" || a.header.Get("X-RateLimit-Remaining") != "0" {
			t.Errorf("headers %v", a.header)
		}
		w.want(w.call("GET", "/health", nil), 200) // RATE-2
	})
}

func TestRATE_2_GuestsPerAddress(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.GuestLimit = 2 })
	bad := map[string]any{"email": "a@acme.test", "password": "x"}
	w.refused(w.call("POST", "/auth/login", bad), 401, "invalid_credentials")
	w.refused(w.call("POST", "/auth/login", bad), 401, "invalid_credentials")
	w.refused(w.call("POST", "/auth/login", bad), 429, "rate_limited")
}

func TestIDEM_1_WhereTheKeyCounts(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	for range 2 { // ignored elsewhere
		w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 5, "type": "increment"}, "Idempotency-Key", "k"), 200)
	}
	if b := w.call("GET", "/v1/agent/"+id+"/summary", nil).num("output_token_balance"); b != 1000010 {
		t.Errorf("balance %v", b)
	}
}

func TestIDEM_2_ScopeOfAKey(t *testing.T) {
	w := startWorld(t, nil)
	a, b := w.agent(nil), w.agent(nil)
	first := w.want(w.call("POST", "/v1/agent/"+a+"/messages", map[string]any{"content": "x"}, "Idempotency-Key", "k"), 201)
	other := w.want(w.call("POST", "/v1/agent/"+b+"/messages", map[string]any{"content": "x"}, "Idempotency-Key", "k"), 201)
	if first.str("id") == other.str("id") {
		t.Error("the key of one agent counted for another")
	}
}

func TestIDEM_4_RepeatsOfAMessage(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		path := "/v1/agent/" + id + "/messages"
		body := map[string]any{"content": "!say once"}
		first := w.want(w.call("POST", path+"?wait=30", body, "Idempotency-Key", "k"), 201)
		again := w.want(w.call("POST", path+"?wait=5", body, "Idempotency-Key", "k"), 201)
		if again.header.Get("Idempotent-Replayed") != "true" || again.str("id") != first.str("id") || again.str("reply.id") == "" || again.str("reply.id") != first.str("reply.id") {
			t.Errorf("with wait the replay shows the message as it is now: %s", again.body)
		}
		plain := w.want(w.call("POST", path, body, "Idempotency-Key", "k"), 201)
		if plain.str("status") != "pending" || plain.get("outcome") != nil || plain.str("created_at") != first.str("created_at") {
			t.Errorf("without wait the first answer is replayed: %s", plain.body)
		}
		w.refused(w.call("POST", path, map[string]any{"content": "other"}, "Idempotency-Key", "k"), 422, "idempotency_key_reused")
		if n := len(allMessages(w, id)); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
}

func TestIDEM_5_FailuresFreeTheKey(t *testing.T) {
	w := startWorld(t, nil)
	w.refused(w.call("POST", "/v1/agent/create", map[string]any{"name": ""}, "Idempotency-Key", "k"), 400, "validation_failed")
	w.want(w.call("POST", "/v1/agent/create", map[string]any{"name": "a"}, "Idempotency-Key", "k"), 201)
	w.refused(w.call("POST", "/v1/agent/create", map[string]any{"name": "b"}, "Idempotency-Key", "k"), 422, "idempotency_key_reused")
}

func TestIDEM_3_ConcurrentCreatesMakeOneAgent(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids := map[string]bool{}
		for range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					a, err := w.try("POST", "/v1/agent/create", map[string]any{"name": "one"}, "Idempotency-Key", "k")
					if err != nil {
						t.Error(err)
						return
					}
					if a.status == 409 {
						continue
					}
					mu.Lock()
					ids[a.str("id")] = true
					mu.Unlock()
					return
				}
			}()
		}
		wg.Wait()
		if len(ids) != 1 || w.call("GET", "/v1/agent/list", nil).num("pagination.total") != 1 {
			t.Errorf("agents %v", ids)
		}
	})
}

func TestCFG_9_AModelCredentialIsNeeded(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.AnthropicURL = "https://upstream.example" })
	w.refused(w.call("POST", "/v1/agent/create", map[string]any{"name": "a"}), 400, "provider_key_required")
	id := w.agent(map[string]any{"anthropic_api_key": "sk-ant-x"})
	w.refused(w.call("POST", "/v1/agent/update/"+id, map[string]any{"anthropic_api_key": nil}), 400, "provider_key_required")
}

func TestCFG_11_Memory(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(map[string]any{"configuration": map[string]any{"memory_config": map[string]any{"max_size_mb": 1, "persistence": "ephemeral"}}})
	w.ask(id, `!tool memory_write {"path":"people/ann.md","content":"likes tea"}`+"\n!say ok")
	home := filepath.Join(w.dir, "agents", id, "home", ".memory", "people", "ann.md")
	if b, err := os.ReadFile(home); err != nil || string(b) != "likes tea" {
		t.Fatalf("%q %v", b, err)
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	w.ask(id, "!say again")
	if _, err := os.Stat(home); !os.IsNotExist(err) {
		t.Errorf("ephemeral memory survived a pod start: %v", err)
	}
}

func TestLIFE_5_PendingMessagesSurviveAStop(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say later"}), 201)
		w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
		w.refused(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"}), 503, "agent_unavailable")
		w.until("the pod is gone", func() bool { return w.call("GET", "/v1/agent/"+id+"/ready", nil).str("pod_status") == "not_running" })
		w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
		w.until("the message is answered", func() bool { m := allMessages(w, id); return len(m) == 2 && m[0]["outcome"] == "completed" })
	})
}

func TestLIFE_6_DeletedAgentsAreGone(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": `!tool shell {"command":"sleep 20"}`}), 201)
		w.until("the turn runs", func() bool { return w.call("GET", "/v1/agent/"+id+"/runtime", nil).get("turn") != nil })
		w.refused(w.call("POST", "/v1/agent/delete/"+id, nil), 409, "turn_running")
		w.want(w.call("POST", "/v1/agent/delete/"+id, map[string]any{"force": true}), 200)
		w.refused(w.call("GET", "/v1/agent/"+id, nil), 404, "not_found")
		w.refused(w.call("POST", "/v1/agent/delete/"+id, nil), 404, "not_found")
		w.until("its directory is removed", func() bool { _, err := os.Stat(filepath.Join(w.dir, "agents", id)); return os.IsNotExist(err) })
		w.until("its rows are removed", func() bool { _, err := w.n.st.Load(t.Context(), agent.ID(id)); return err != nil })
	})
}

func TestOBS_2_TheRuntimeView(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.until("the runner is attached", func() bool { return w.call("GET", "/v1/agent/"+id+"/ready", nil).get("ready") == true })
	a := w.want(w.call("GET", "/v1/agent/"+id+"/runtime", nil), 200)
	if a.num("epoch") < 1 || a.str("pod.status") != "running" || a.str("runner.execution_status") == "" {
		t.Errorf("%s", a.body)
	}
}

func TestOBS_1_Health(t *testing.T) {
	w := startWorld(t, nil)
	if a := w.want(w.call("GET", "/health/deep", nil, "Authorization", ""), 200); a.str("database.status") != "healthy" {
		t.Errorf("%s", a.body)
	}
}

func TestOBS_5_Metrics(t *testing.T) {
	// A subtest, because two nodes of one process share the RPC library's logger.
	t.Run("hidden unless asked for", func(t *testing.T) {
		plain := startWorld(t, nil)
		plain.refused(plain.call("GET", "/metrics", nil), 404, "not_found")
	})
	w := startWorld(t, func(c *Config) { c.PublicMetrics = true })
	id := w.agent(nil)
	w.ask(id, "!say x")
	a := w.want(w.call("GET", "/metrics", nil, "Authorization", ""), 200)
	page := string(a.body)
	for _, name := range []string{"troupe_http_requests_total", "troupe_http_request_seconds", "troupe_send_ack_seconds", "troupe_activations", "troupe_turn_seconds",
		"troupe_wake_seconds", "troupe_llm_tokens_total", "troupe_llm_requests_total"} {
		if !strings.Contains(page, name) {
			t.Errorf("%s is missing", name)
		}
	}
	if strings.Contains(page, id) {
		t.Error("a label holds an agent's id")
	}
}

func TestOBS_6_RequestIds(t *testing.T) {
	w := startWorld(t, nil)
	if a := w.call("GET", "/health", nil, "X-Request-Id", "mine-1"); a.header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("got %q", a.header.Get("X-Request-Id"))
	}
	if a := w.call("GET", "/health", nil, "X-Request-Id", strings.Repeat("x", 129)); a.header.Get("X-Request-Id") == "" || len(a.header.Get("X-Request-Id")) > 128 {
		t.Errorf("got %q", a.header.Get("X-Request-Id"))
	}
}

// TestGEN_4_ResponsesReportOnlyWhatIsDurable kills the node right after each response and reads back what it reported.
func TestGEN_4_ResponsesReportOnlyWhatIsDurable(t *testing.T) {
	cfg := testConfig(t)
	p := startProcess(t, cfg)
	w := p.world(cfg)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	for i, step := range []func() func(a *answer) bool{
		func() func(*answer) bool {
			w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"name": "renamed"}), 200)
			return func(a *answer) bool { return a.str("name") == "renamed" }
		},
		func() func(*answer) bool {
			w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 5, "type": "increment"}), 200)
			return func(a *answer) bool { return a.num("output_token_balance") == 1000005 }
		},
		func() func(*answer) bool {
			w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
			return func(a *answer) bool { return a.str("status") == "stopped" }
		},
	} {
		holds := step()
		p.kill()
		p.up()
		w = p.world(cfg)
		if a := w.call("GET", "/v1/agent/"+id, nil); !holds(a) {
			t.Errorf("step %d was reported but is not there: %s", i, a.body)
		}
	}
}

func TestRATE_4_AWaitIsOneRequest(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.RateLimit = 3 })
	id := w.agent(nil)
	a := w.ask(id, "!say x")
	if a.header.Get("X-RateLimit-Remaining") != "1" {
		t.Errorf("remaining %q", a.header.Get("X-RateLimit-Remaining"))
	}
}

// TestCOMP_3_ALongSessionIsCondensed fills a persistent session beyond its threshold, between turns and inside one.
func TestCOMP_3_ALongSessionIsCondensed(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.Sandbox = "off" })
		id := w.agent(map[string]any{"session_mode": "persistent", "output_token_balance": 1 << 30,
			"configuration": map[string]any{"compaction": map[string]any{"threshold_trigger": 50000, "instructions": "Keep the numbers."}}})
		f := w.follow(t, id, "?types=session.*", "")
		long := strings.Repeat("words and words ", 6000) // 24,000 tokens
		for i := range 3 {
			if m := w.ask(id, "!say one of them\n"+long); m.str("outcome") != "completed" {
				t.Fatalf("message %d: %s", i, m.body)
			}
		}
		for {
			if e := f.until("session.compaction_ended"); e[len(e)-1].Data["status"] == "completed" {
				break
			}
		}
		sessions := w.want(w.call("GET", "/v1/agent/"+id+"/sessions", nil), 200).doc["sessions"].([]any)
		session := sessions[0].(map[string]any)
		detail := w.want(w.call("GET", "/v1/agent/"+id+"/sessions/"+session["id"].(string), nil), 200)
		list := detail.doc["compactions"].([]any)
		if len(sessions) != 1 || session["compaction_count"] != 1.0 || len(list) != 1 {
			t.Fatalf("COMP-2: %s", detail.body)
		}
		if c := list[0].(map[string]any); c["status"] != "completed" || c["input_tokens_before"].(float64) < 50000 || c["input_tokens_after"].(float64) > 5000 || c["model"] != agent.DefaultCompactWith {
			t.Errorf("COMP-1: %v", c)
		}
		spent := w.want(w.call("GET", "/v1/agent/"+id, nil), 200).num("output_token_balance")
		if m := w.ask(id, "!say and on it goes"); m.str("outcome") != "completed" || m.str("reply.content") != "[rehearsal model] and on it goes" {
			t.Errorf("the condensed session does not go on: %s", m.body)
		}
		if usage := detail.num("usage.output_tokens"); usage < 1<<30-spent {
			t.Errorf("COMP-7: the session's tokens %v leave out its compaction, %v were charged", usage, 1<<30-spent)
		}
		// Inside a turn: it goes on from the summary, and its tools are not run again.
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		first := w.say(id, "!tool shell {\"command\":\"echo x >> log; sleep 1\"}\n"+long)
		for range 2 {
			w.say(id, long)
		}
		w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
		w.until("the turn ended", func() bool { return w.call("GET", "/v1/agent/"+id+"/messages/"+first, nil).get("outcome") != nil })
		detail = w.want(w.call("GET", "/v1/agent/"+id+"/sessions/"+session["id"].(string), nil), 200)
		list = detail.doc["compactions"].([]any)
		if last := list[len(list)-1].(map[string]any); len(list) < 2 || last["status"] != "completed" || w.call("GET", "/v1/agent/"+id+"/messages/"+first, nil).str("outcome") != "completed" {
			t.Errorf("COMP-3: %s", detail.body)
		}
		if log, err := os.ReadFile(filepath.Join(w.dir, "agents", id, "workspace", "log")); err != nil || string(log) != "x\n" {
			t.Errorf("the tool ran again: %q, %v", log, err)
		}
	})
}
