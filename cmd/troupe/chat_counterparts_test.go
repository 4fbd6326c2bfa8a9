//go:build counterparts

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// post sends JSON and returns the decoded answer, nil where there is none yet.
func post(t *testing.T, url string, body any, header ...string) map[string]any {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	var out map[string]any
	_ = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&out)
	return out
}

func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// TestThirdPartySlack is a conversation over somebody else's Slack: Socket Mode, the Web API, and the history for the gap of a restart.
func TestThirdPartySlack(t *testing.T) {
	port := strings.TrimPrefix(freePort(t), "127.0.0.1:")
	at := "http://127.0.0.1:" + port
	config := filepath.Join(t.TempDir(), "slack.yaml")
	if err := os.WriteFile(config, []byte(`
workspace: { name: Test, domain: test, teamId: T01TEST }
app: { appId: A01APP, botUserId: U0BOT, botName: bot, botToken: xoxb-test-token, appToken: xapp-test-token, signingSecret: secret, mode: socket, requestUrl: "http://127.0.0.1:9/none" }
users: [{ id: U01ALICE, name: alice, real_name: Alice Anderson, email: alice@example.com }]
channels: [{ id: C01GEN, name: general, members: [U01ALICE, U0BOT] }]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, exec.Command(filepath.Join(os.Getenv("TROUPE_COUNTERPARTS"), "node_modules/local-slack-linux-x64/bin/local-slack"), "--config", config, "--port", port, "--base-host", "127.0.0.1"))
	cfg := testConfig(t)
	cfg.SlackURL = at + "/api"
	p := startProcess(t, cfg, "TROUPE_SLACK_URL="+at+"/api", "TROUPE_SANDBOX=off")
	w := p.world(cfg)
	var chat string
	w.until("Slack is there", func() bool {
		got := post(t, at+"/api/conversations.open", map[string]any{"users": "U01ALICE"}, "Authorization", "Bearer xoxb-test-token")
		c, _ := got["channel"].(map[string]any)
		chat, _ = c["id"].(string)
		return chat != ""
	})
	say := func(text string) {
		post(t, at+"/_control/message", map[string]any{"channel": chat, "user": "U01ALICE", "text": text})
	}
	shown := func() string {
		res, err := http.Get(at + "/_control/messages/" + chat)
		if err != nil {
			return ""
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		return string(b)
	}
	id := w.agent(map[string]any{"name": "Scout", "slack_bot_token": map[string]any{"bot_token": "xoxb-test-token", "app_token": "xapp-test-token", "signing_secret": "secret"}})
	code := w.want(w.call("POST", "/v1/agent/"+id+"/slack/link", nil), 200).str("code")
	var said time.Time
	w.until("it is linked", func() bool { // Slack does not say whether the app is connected, and keeps nothing for one that is not
		if time.Since(said) > 10*time.Second {
			say("/link " + code)
			said = time.Now()
		}
		return w.call("GET", "/v1/agent/"+id+"/slack/status", nil).get("linked") == true
	})
	if name := w.call("GET", "/v1/agent/"+id+"/slack/status", nil).str("slack_username"); name != "alice" {
		t.Errorf("linked to %q", name)
	}
	say("!say **first**")
	w.until("it is answered", func() bool {
		return strings.Contains(shown(), "*first*") && strings.Contains(shown(), "You are talking to Scout now")
	})
	p.kill()
	say("!say second") // nobody hears it
	p.up()
	w = p.world(cfg)
	w.until("the gap is answered", func() bool { return strings.Contains(shown(), "[rehearsal model] second") })
	users := 0
	for _, m := range allMessages(w, id) {
		if m["role"] == "user" {
			users++
		}
	}
	if users != 2 {
		t.Errorf("%d messages are stored", users)
	}
}

// TestThirdPartyTelegram is a conversation over somebody else's Bot API. It ignores offsets and timeouts: what depends on those is tested
// against a server of ours.
func TestThirdPartyTelegram(t *testing.T) {
	dir := os.Getenv("TROUPE_COUNTERPARTS")
	port := strings.TrimPrefix(freePort(t), "127.0.0.1:")
	at := "http://127.0.0.1:" + port
	program := filepath.Join(t.TempDir(), "telegram.cjs")
	if err := os.WriteFile(program, fmt.Appendf(nil, `
const m = require(require.resolve('telegram-test-api', {paths: [%q]}));
const S = m.default || m;
new S({port: %s, host: '127.0.0.1', storage: 'RAM', storeTimeout: 300}).start();
`, dir, port), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, script(t, nil, program))
	w := startWorld(t, func(c *Config) { c.TelegramURL = at })
	w.until("Telegram is there", func() bool { return post(t, at+"/getUpdatesHistory", map[string]any{"token": telegramToken}) != nil })
	say := func(text string) {
		who := map[string]any{"id": ann, "first_name": "Ann", "username": "ann", "is_bot": false}
		chat := map[string]any{"id": ann, "type": "private", "first_name": "Ann", "username": "ann"}
		post(t, at+"/sendMessage", map[string]any{"botToken": telegramToken, "from": who, "chat": chat, "date": time.Now().Unix(), "text": text})
	}
	shown := func() string {
		return fmt.Sprint(post(t, at+"/getUpdatesHistory", map[string]any{"token": telegramToken}))
	}
	id := w.agent(map[string]any{"name": "Scout", "telegram_bot_token": telegramToken})
	code := w.want(w.call("POST", "/v1/agent/"+id+"/telegram/link", nil), 200).str("code")
	say("/link " + code)
	w.until("it is linked", func() bool { return w.call("GET", "/v1/agent/"+id+"/telegram/status", nil).get("linked") == true })
	say("!say **bold** & more")
	w.until("it is answered", func() bool { return strings.Contains(shown(), "[rehearsal model] <b>bold</b> &amp; more") })
	if all := allMessages(w, id); len(all) != 2 {
		t.Errorf("%d messages", len(all))
	}
}
