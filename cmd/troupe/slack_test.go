package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/channels/channelstest"
)

// TestCHAN_13_SlackBySocketAndByCall is a conversation over both ways in.
func TestCHAN_13_SlackBySocketAndByCall(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		s := channelstest.StartSlack(t, "xoxb-test", "xapp-test", "signing-secret")
		w := startWorld(t, func(c *Config) { change(c); c.SlackURL = s.URL })
		id := w.agent(map[string]any{"slack_bot_token": map[string]any{"bot_token": "xoxb-test", "app_token": "xapp-test", "signing_secret": s.Secret}})
		w.explain(id, func() string {
			return fmt.Sprintf("sent %+v, %d envelopes open, connected %v", s.Sent(), s.Unacknowledged(), s.Connected())
		})
		code := w.want(w.call("POST", "/v1/agent/"+id+"/slack/link", nil), 200).str("code")
		w.until("the app is there", s.Connected)
		s.Say("U7", "link "+code)
		w.until("it is linked", func() bool { return w.call("GET", "/v1/agent/"+id+"/slack/status", nil).get("linked") == true })
		st := w.want(w.call("GET", "/v1/agent/"+id+"/slack/status", nil), 200)
		if st.str("slack_user_id") != "U7" || st.str("slack_team_id") != "T1" || st.str("slack_username") != "Ann" {
			t.Errorf("%s", st.body)
		}
		s.Say("U7", "!say **bold** &lt;b&gt; [docs](https://x.test/?a=1)")
		answered := func(end string) (found channelstest.Sent) { // what Slack sends again may be answered again
			w.until("it is answered", func() bool {
				i := slices.IndexFunc(s.Sent(), func(x channelstest.Sent) bool { return strings.HasSuffix(x.Text, end) })
				if i >= 0 {
					found = s.Sent()[i]
				}
				return i >= 0
			})
			return found
		}
		if got := answered("docs>"); got.Text != "[rehearsal model] *bold* &lt;b&gt; <https://x.test/?a=1|docs>" || got.Chat != "DU7" || got.Mark == "false" {
			t.Errorf("CHAN-8: %+v", got)
		}
		w.until("everything is acknowledged", func() bool { return s.Unacknowledged() == 0 })
		s.Drop()
		w.until("the app is back", s.Connected)
		s.Refresh()
		s.FailNext(429, 1, "ratelimited")
		s.Say("U7", "!say after the break")
		answered("after the break")

		hook, now := w.base+"/v1/webhooks/slack/"+id, time.Now()
		if status, body := s.Post(hook, map[string]any{"type": "url_verification", "challenge": "abc"}, now); status != 200 || !strings.Contains(body, "abc") {
			t.Errorf("%d %s", status, body)
		}
		event := s.Event("EvCall", "U7", "!say by call")
		for range 2 { // Slack repeats what was not answered in time
			if status, _ := s.Post(hook, event, now); status != 200 {
				t.Errorf("%d", status)
			}
		}
		s.Dispatch(event) // and the same event may come by the socket as well
		answered("by call")
		if status, _ := s.Post(hook, event, now.Add(-6*time.Minute)); status != 401 {
			t.Errorf("CHAN-14: an old signature: %d", status)
		}
		good := s.Secret
		s.Secret = "wrong"
		if status, _ := s.Post(hook, event, now); status != 401 {
			t.Errorf("CHAN-14: a wrong signature: %d", status)
		}
		s.Secret = good
		s.Dispatch(map[string]any{"type": "event_callback", "event_id": "EvChan", "event_time": 1, "event": map[string]any{"type": "message", "channel_type": "channel", "channel": "C1", "user": "U7", "text": "in a channel"}})
		s.Dispatch(map[string]any{"type": "event_callback", "event_id": "EvEdit", "event_time": 1, "event": map[string]any{"type": "message", "subtype": "message_changed", "channel_type": "im", "channel": "DU7", "user": "U7", "text": "edited"}})
		w.until("they are acknowledged", func() bool { return s.Unacknowledged() == 0 })
		users := 0
		for _, m := range allMessages(w, id) {
			if m["role"] == "user" {
				users++
			}
		}
		if users != 3 {
			t.Errorf("CHAN-4, CHAN-6: %d messages are stored", users)
		}
	})
}
