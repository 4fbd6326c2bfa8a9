package agentgrain

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/protocol"
)

// link makes and uses link codes, and ends and changes bindings. What the cluster must know (routes, bots) is brought in line with the
// committed state afterwards, by this activation or the next.
func (g *Grain) link(c actor.Context, cmd *protocol.Command, b protocol.LinkCommand) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if x, err := g.d.Store.Replay(ctx, g.id, onceKey(cmd), cmd.Kind); err != nil || x != nil { // this very command took effect before
		return json.RawMessage(x.Bytes()), err
	}
	if b.Do == protocol.LinkCode { // before the commit: a route without its code leads nowhere
		if err := g.d.Store.PutRoute(ctx, agent.RouteLink, b.Hash, g.id); err != nil {
			return nil, err
		}
	}
	if b.Do == protocol.LinkDisplace { // word that comes late may be about a binding that was made since
		holder, err := g.d.Store.Route(ctx, agent.RouteChat, agent.ChatRoute(b.Binding.Bot, b.Binding.User))
		if err != nil || holder == g.id {
			return protocol.LinkResult{}, err
		}
	}
	var former string
	res, err := g.step(c, cmd, func(m *agent.Machine) (any, error) {
		var out protocol.LinkResult
		var err error
		switch b.Do {
		case protocol.LinkCode:
			out.UntilMS, former, err = m.OpenCode(b.Channel, b.Hash, b.Shared)
		case protocol.LinkRedeem:
			out.Binding, err = m.Redeem(b.Binding, b.Hash)
			out.Name = m.Spec.Name
		case protocol.LinkUnlink:
			out.Binding, err = m.Unlink(b.Channel)
		case protocol.LinkMode:
			out.Binding, err = m.SetMode(b.Binding.ID, b.Binding.Mode)
		case protocol.LinkFailed:
			err = m.Undelivered(b.Message, b.Reason)
		case protocol.LinkDisplace:
			m.Displace(b.Binding.Bot, b.Binding.User)
		default:
			err = fmt.Errorf("unknown link verb %q", b.Do)
		}
		return out, err
	})
	if err != nil {
		if b.Do == protocol.LinkCode {
			_ = g.d.Store.DropRoute(ctx, agent.RouteLink, b.Hash, g.id) // else it leads to an agent that does not know the code
		}
		return nil, err
	}
	switch {
	case b.Do == protocol.LinkCode && former != "":
		_ = g.d.Store.DropRoute(ctx, agent.RouteLink, former, g.id)
	case b.Do == protocol.LinkUnlink:
		if out, ok := res.(protocol.LinkResult); ok {
			_ = g.d.Store.DropRoute(ctx, agent.RouteChat, agent.ChatRoute(out.Binding.Bot, out.Binding.User), g.id) // else it leads to an agent without that binding
			if out.Binding.Bot == g.d.SharedBot {
				_ = g.d.Store.DropBot(ctx, out.Binding.Bot, g.id)
			}
		}
	case b.Do == protocol.LinkRedeem:
		_ = g.d.Store.DropRoute(ctx, agent.RouteLink, b.Hash, g.id)
	}
	return res, nil
}

// settleBots brings the bots and routes that the cluster knows in line with the state. It is repeatable.
func (g *Grain) settleBots(c actor.Context, m *agent.Machine) {
	if g.settling || m.S.Deleting || !m.BotsDue() && !m.RoutesDue() {
		return
	}
	g.settling = true
	defer func() { g.settling = false }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*commitTimeout)
	defer cancel()
	bots, had := m.Spec.Bots, m.S.Bots
	for channel, bot := range bots {
		if had[channel] != bot {
			if err := g.d.Store.PutBot(ctx, bot, agent.BotUse{Agent: g.id, Channel: channel}); err != nil {
				return // the next look goes on
			}
			g.d.LookBot(bot)
		}
	}
	for channel, bot := range had {
		if bots[channel] != bot {
			if err := g.d.Store.DropBot(ctx, bot, g.id); err != nil {
				return
			}
			g.d.LookBot(bot)
		}
	}
	moved := m.Moved()
	for _, b := range moved {
		route := agent.ChatRoute(b.Bot, b.User)
		holder, err := g.d.Store.Route(ctx, agent.RouteChat, route)
		if b.Bot == g.d.SharedBot && err == nil { // who is linked through it, for the gaps of its connection
			err = g.d.Store.PutBot(ctx, b.Bot, agent.BotUse{Agent: g.id, Channel: b.Channel})
		}
		if err == nil && holder != g.id {
			if err = g.d.Store.PutRoute(ctx, agent.RouteChat, route, g.id); err == nil && holder != "" { // switched last (CHAN-1)
				g.d.Displace(holder, b.Bot, b.User) // else it finds out when it is asked, or is about to send
			}
		}
		if err != nil {
			return
		}
	}
	_, _ = g.step(c, nil, func(m *agent.Machine) (any, error) { // what is not stored is settled again by the next look
		m.BotsKnown(bots)
		m.RoutesKnown(moved)
		return nil, nil
	})
}

// leaveBots takes a deleted agent out of what the cluster knows of bots and accounts.
func (g *Grain) leaveBots(ctx context.Context) error {
	var s agent.State
	if err := json.Unmarshal(g.state, &s); err != nil {
		return err
	}
	for _, known := range []map[agent.Channel]string{s.Bots, g.spec.Bots} {
		for _, bot := range known {
			if err := g.d.Store.DropBot(ctx, bot, g.id); err != nil {
				return err
			}
			g.d.LookBot(bot)
		}
	}
	for _, b := range s.Bindings {
		if b.Bot == g.d.SharedBot {
			if err := g.d.Store.DropBot(ctx, b.Bot, g.id); err != nil {
				return err
			}
		}
		if err := g.d.Store.DropRoute(ctx, agent.RouteChat, agent.ChatRoute(b.Bot, b.User), g.id); err != nil {
			return err
		}
	}
	for _, code := range s.Codes {
		if err := g.d.Store.DropRoute(ctx, agent.RouteLink, code.Hash, g.id); err != nil {
			return err
		}
	}
	return nil
}
