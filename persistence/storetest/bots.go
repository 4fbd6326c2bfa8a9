package storetest

import (
	"slices"
	"testing"

	"troupe/actors/agent"
)

func testBots(t *testing.T, k *kit) {
	bot := "bot-" + agent.NewUUID()
	one, two := k.agent(1), k.agent(1)
	if one > two {
		one, two = two, one
	}
	listed := func() bool {
		all, err := k.s.AllBots(k.ctx)
		k.must(err)
		return slices.Contains(all, bot)
	}
	if uses, err := k.s.Bot(k.ctx, bot); err != nil || len(uses) != 0 || listed() {
		t.Errorf("a bot nobody uses: %+v, %v", uses, err)
	}
	for _, id := range []agent.ID{two, one, one} { // a repeat changes nothing
		k.must(k.s.PutBot(k.ctx, bot, agent.BotUse{Agent: id, Channel: agent.ChannelSlack}))
	}
	uses, err := k.s.Bot(k.ctx, bot)
	k.must(err)
	if !slices.Equal(uses, []agent.BotUse{{Agent: one, Channel: agent.ChannelSlack}, {Agent: two, Channel: agent.ChannelSlack}}) || !listed() {
		t.Errorf("used by %+v", uses)
	}
	k.must(k.s.DropBot(k.ctx, bot, one))
	k.must(k.s.DropBot(k.ctx, bot, one))
	if uses, err := k.s.Bot(k.ctx, bot); err != nil || len(uses) != 1 || uses[0].Agent != two || !listed() {
		t.Errorf("after one has left: %+v, %v", uses, err)
	}
	k.must(k.s.DropBot(k.ctx, bot, two))
	if uses, err := k.s.Bot(k.ctx, bot); err != nil || len(uses) != 0 {
		t.Errorf("after both have left: %+v, %v", uses, err)
	}
}
