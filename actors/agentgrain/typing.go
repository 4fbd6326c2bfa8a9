package agentgrain

import (
	"time"

	"troupe/actors/agent"
)

// typingEvery is how often people are shown that their agent is at work: networks show it for five seconds (Telegram) or ten (Discord).
const typingEvery = 4 * time.Second

// showTyping shows those whose messages the running turn has not answered yet that it is at work, where their network can. It returns when to
// show it again; 0: not.
func (g *Grain) showTyping(m *agent.Machine) time.Duration {
	t := m.S.Turn
	if t == nil || t.Cancel != nil {
		return 0
	}
	rest := typingEvery - time.Since(g.typed)
	wait, shown := time.Duration(0), map[string]bool{}
	for i := range t.Batch {
		e := &t.Batch[i]
		if !e.Channel.Chat() || e.Reply != "" || shown[e.Party] || !g.d.Chats.Types(e.Channel) {
			continue
		}
		b := m.RelayTo(e.Party)
		if b == nil {
			continue
		}
		if rest > 0 {
			return rest
		}
		shown[e.Party], wait = true, typingEvery
		g.d.Chats.Type(agent.Part{Agent: g.id, Bot: b.Bot, Binding: *b})
	}
	if wait > 0 {
		g.typed = time.Now()
	}
	return wait
}
