package agent

import "testing"

func TestCHAN_12_NewCredentialsEndTheRestOfReplies(t *testing.T) {
	m := &Machine{Now: 1000}
	m.Spec.Bots = map[Channel]string{ChannelSlack: "slack/1"}
	m.S.Bindings = []Binding{{ID: "t", Channel: ChannelTelegram, Bot: "telegram/1"}, {ID: "s", Channel: ChannelSlack, Bot: "slack/1"}}
	m.S.Relays = []RelayHead{{Binding: "t", Owed: 1, NextMS: 61_000}, {Binding: "s", Owed: 1, NextMS: 61_000}}
	next := func() [2]int64 { return [2]int64{m.S.Relays[0].NextMS, m.S.Relays[1].NextMS} }
	m.Update(m.Spec.Clone(), []string{SlotTelegram, "name"}, Opt[int64]{})
	if got := next(); got != [2]int64{61_000, 61_000} {
		t.Errorf("cleared: %v", got)
	}
	set := m.Spec.Clone()
	set.Bots[ChannelTelegram] = "telegram/2"
	m.Update(set, []string{SlotTelegram}, Opt[int64]{})
	if got := next(); got != [2]int64{1000, 61_000} {
		t.Errorf("set: %v", got)
	}
}
