package main

import (
	"strings"
	"testing"

	"troupe/channels/channelstest"
)

const discordToken = "discord-token"

// TestCHAN_1_OneAccountOneAgentOnTheSharedBot: a new link replaces the former one; the agent that lost it says so.
func TestCHAN_1_OneAccountOneAgentOnTheSharedBot(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		s := channelstest.StartDiscord(t, discordToken)
		w := startWorld(t, func(c *Config) { change(c); c.DiscordURL, c.DiscordToken = s.URL, discordToken })
		link := func(id string) {
			code := w.want(w.call("POST", "/v1/agent/"+id+"/discord/link", nil), 200).str("code")
			w.until("the bot is there", s.Connected)
			s.Say("7", "ann", "/link "+code)
			w.until("it is linked", func() bool { return w.call("GET", "/v1/agent/"+id+"/discord/status", nil).get("linked") == true })
		}
		first, second := w.agent(map[string]any{"name": "First"}), w.agent(map[string]any{"name": "Second"})
		link(first)
		s.Say("7", "ann", "!say **one**")
		w.until("it is answered", func() bool { return len(s.Sent()) == 2 })
		if got := s.Sent()[1]; got.Text != "[rehearsal model] **one**" {
			t.Errorf("CHAN-8: %+v", got)
		}
		st := w.want(w.call("GET", "/v1/agent/"+first+"/discord/status", nil), 200)
		if st.str("binding.discord_username") != "ann" || st.str("discord_user_id") != "7" {
			t.Errorf("%s", st.body)
		}
		link(second)
		w.until("the first one lost it", func() bool {
			a := w.call("GET", "/v1/agent/"+first+"/discord/status", nil)
			return a.get("linked") == false && a.get("binding") == nil
		})
		s.Say("7", "ann", "!say two")
		w.until("the second answers", func() bool { return strings.HasSuffix(s.Sent()[len(s.Sent())-1].Text, "two") })
		if n := len(allMessages(w, first)); n != 2 {
			t.Errorf("the first has %d messages", n)
		}
		s.Again("97") // Discord may dispatch an event twice
		s.Say("7", "ann", "!say three")
		w.until("it is answered once", func() bool { return strings.HasSuffix(s.Sent()[len(s.Sent())-1].Text, "three") })
		users := 0
		for _, m := range allMessages(w, second) {
			if m["role"] == "user" {
				users++
			}
		}
		if users != 2 {
			t.Errorf("CHAN-6: %d messages of two events", users)
		}
		w.want(w.call("DELETE", "/v1/agent/"+second+"/discord/unlink", nil), 200)
		w.refused(w.call("DELETE", "/v1/agent/"+first+"/discord/unlink", nil), 404, "not_linked")
		if n, _ := s.Sessions(); n != 1 {
			t.Errorf("CHAN-13: %d sessions", n)
		}
	})
}

// onDiscord makes an agent with a bot of its own that is linked to ann.
func onDiscord(t *testing.T) (*world, *channelstest.Discord, string) {
	t.Helper()
	s := channelstest.StartDiscord(t, discordToken)
	w := startWorld(t, func(c *Config) { c.DiscordURL = s.URL })
	id := w.agent(map[string]any{"discord_bot_token": discordToken})
	code := w.want(w.call("POST", "/v1/agent/"+id+"/discord/link", nil), 200).str("code")
	w.until("the bot is there", s.Connected)
	s.Say("7", "ann", "link "+code)
	w.until("it is linked", func() bool { return len(s.Sent()) == 1 })
	return w, s, id
}

// TestCHAN_10_DiscordRepeatsAPart: a part of unknown fate is sent again, and shown once.
func TestCHAN_10_DiscordRepeatsAPart(t *testing.T) {
	w, s, id := onDiscord(t)
	s.CutNext()
	s.Say("7", "ann", "!say start\n!tokens 1000") // two parts
	last := func() map[string]any { all := allMessages(w, id); return all[len(all)-1] }
	w.until("the reply is delivered", func() bool { all := allMessages(w, id); return len(all) == 2 && last()["status"] == "delivered" })
	got := s.Sent()
	if len(got) != 3 || got[1].Text == got[2].Text || last()["metadata"] != nil {
		t.Errorf("%d parts were shown, metadata %v", len(got)-1, last()["metadata"])
	}
}

// TestCHAN_7_WhatWasRefusedIsNotDeliveredLater: its sender was told; a new session must not find it in the gap.
func TestCHAN_7_WhatWasRefusedIsNotDeliveredLater(t *testing.T) {
	w, s, id := onDiscord(t)
	again := func() {
		s.Down(true)
		s.Drop()
		s.Forget()
		s.Down(false)
		w.until("there is a new session", s.Connected)
	}
	again()
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	s.Say("7", "ann", "delete everything")
	w.until("the sender is told", func() bool { return len(s.Sent()) == 2 })
	w.want(w.call("POST", "/v1/agent/"+id+"/resume", nil), 200)
	again()
	s.Say("7", "ann", "!say hello")
	w.until("it is answered", func() bool { sent := s.Sent(); return strings.HasSuffix(sent[len(sent)-1].Text, "hello") })
	if all := allMessages(w, id); len(all) != 2 || len(s.Sent()) != 3 {
		t.Errorf("%d messages are stored, %d were sent: %+v", len(all), len(s.Sent()), s.Sent())
	}
}
