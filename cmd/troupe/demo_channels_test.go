package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"troupe/channels/channelstest"
)

// TestDemoOfEveryChannel is `make demo-channels`: one agent with a bot on every network, one person, a message there and back on each.
func TestDemoOfEveryChannel(t *testing.T) {
	d := channelstest.StartDiscord(t, discordToken)
	s := channelstest.StartSlack(t, "xoxb-test", "xapp-test", "signing-secret")
	tg := channelstest.StartTelegram(t, telegramToken)
	wa := channelstest.StartWhatsApp(t, "1234567890", "EAAtoken", "app-secret")
	w := startWorld(t, func(c *Config) { c.DiscordURL, c.SlackURL, c.TelegramURL, c.WhatsAppURL = d.URL, s.URL, tg.URL, wa.URL })
	id := w.agent(map[string]any{"name": "Scout", "discord_bot_token": discordToken, "telegram_bot_token": telegramToken,
		"slack_bot_token": map[string]any{"bot_token": "xoxb-test", "app_token": "xapp-test", "signing_secret": s.Secret},
		"whatsapp":        map[string]any{"phone_number_id": wa.Phone, "access_token": "EAAtoken", "app_secret": wa.Secret, "verify_token": "verify-me"}})
	hook, events := w.base+"/v1/webhooks/whatsapp/"+id, 0
	for _, n := range []struct {
		name string
		say  func(text string)
		sent func() []channelstest.Sent
	}{
		{"discord", func(text string) { d.Say("7", "ann", text) }, d.Sent},
		{"slack", func(text string) { s.Say("U7", text) }, s.Sent},
		{"telegram", func(text string) { tg.Say(ann, "ann", text) }, tg.Sent},
		{"whatsapp", func(text string) {
			events++
			if got := wa.Notify(hook, wa.Message(fmt.Sprint("wamid.", events), "491700000000", "Ann", text, time.Now().Unix())); got != 200 {
				t.Errorf("whatsapp: %d", got)
			}
		}, wa.Sent},
	} {
		code := w.want(w.call("POST", "/v1/agent/"+id+"/"+n.name+"/link", nil), 200).str("code")
		for i, text := range []string{"/link " + code, "!say **hello** from " + n.name} {
			if n.name == "discord" {
				w.until("the bot is there", d.Connected)
			}
			began := time.Now()
			n.say(text)
			w.until("it is answered", func() bool { return len(n.sent()) == i+1 })
			got := n.sent()[i].Text
			t.Logf("%-8s  ann: %s", n.name, text)
			t.Logf("%-8s  bot: %s   (%s)", n.name, got, time.Since(began).Round(time.Millisecond))
			if i == 1 && (!strings.Contains(got, "hello") || !strings.HasSuffix(got, "from "+n.name)) {
				t.Errorf("%s answered %q", n.name, got)
			}
		}
	}
	if b := w.want(w.call("GET", "/v1/agent/"+id+"/channels", nil), 200).get("bindings").([]any); len(b) != 5 {
		t.Errorf("%d bindings", len(b))
	}
}
