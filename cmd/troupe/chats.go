package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/botgrain"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/channels"
	"troupe/channels/telegram"
	"troupe/channels/whatsapp"
	"troupe/http/api"
)

// chats joins the adapters of the chat networks with the actors and routes of this node.
type chats struct {
	networks map[agent.Channel]channels.Network
	telegram *telegram.Adapter
	whatsapp *whatsapp.Adapter
	intake   *channels.Intake
	n        *node
	secret   func(bot string) string // that Telegram sends back
}

// networkTimeout bounds one call of a network; long polls have their own.
const networkTimeout = 60 * time.Second

func (n *node) openChats(set agent.Settings) *chats {
	client := &http.Client{Timeout: networkTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c := &chats{n: n, secret: func(bot string) string { return n.box.MAC("telegram webhook", bot) }}
	c.telegram = &telegram.Adapter{Base: strings.TrimSuffix(n.cfg.TelegramURL, "/"), Client: client, Public: strings.TrimSuffix(n.cfg.PublicURL, "/"), Secret: c.secret}
	c.whatsapp = &whatsapp.Adapter{Base: strings.TrimSuffix(n.cfg.WhatsAppURL, "/"), Client: client}
	c.networks = map[agent.Channel]channels.Network{agent.ChannelTelegram: c.telegram, agent.ChannelWhatsApp: c.whatsapp}
	c.intake = &channels.Intake{Store: n.st, Agents: links{n}, Limit: set.MaxPending, Log: n.log,
		Count: func(channel agent.Channel, result string) { n.metrics.ChatMessage(string(channel), "in", result) }}
	return c
}

// links reaches agents for an intake.
type links struct{ n *node }

func (l links) Link(ctx context.Context, id agent.ID, cmd protocol.LinkCommand) (protocol.LinkResult, error) {
	return agentclient.Ask[protocol.LinkResult](ctx, l.n.agents, id, protocol.Link, cmd)
}

func (l links) Hint(id agent.ID) { l.n.agents.Hint(id) }

// displace tells an agent that an account was linked to another one through the same bot.
func (l links) displace(id agent.ID, bot, user string) {
	go func() { // ends with its deadline; what is lost is found when the agent is asked for its bindings
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, _ = l.Link(ctx, id, protocol.LinkCommand{Do: protocol.LinkDisplace, Binding: agent.Binding{Bot: bot, User: user}})
	}()
}

// Parts implements agent.Chats.
func (c *chats) Parts(channel agent.Channel, markdown string) []string {
	if n := c.networks[channel]; n != nil {
		return n.Render(markdown)
	}
	return nil
}

// Repeatable implements agent.Chats.
func (c *chats) Repeatable(channel agent.Channel) bool {
	_, ok := c.networks[channel].(channels.Repeatable)
	return ok
}

// Send implements agent.Chats.
func (c *chats) Send(ctx context.Context, p agent.Part) (agent.RelayFate, time.Duration) {
	got, sent, err := agentclient.AskBot[protocol.SendResult](ctx, c.n.agents, p.Bot, protocol.Send, p)
	switch {
	case err == nil:
		return got.Fate, time.Duration(got.AfterMS) * time.Millisecond
	case sent:
		return agent.PartUncertain, 0
	}
	return agent.PartLater, 0
}

// line is one bot with its credentials.
type line struct {
	c     *chats
	bot   channels.Bot
	use   agent.BotUse
	cred  agent.Secret
	pace  *rate.Limiter
	mu    sync.Mutex
	chats map[string]*rate.Limiter
}

// Paces of the networks: messages a second of one bot, and to one person. Telegram: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits;
// WhatsApp: https://developers.facebook.com/docs/whatsapp/cloud-api/overview#throughput
var paces = map[agent.Channel][2]rate.Limit{agent.ChannelTelegram: {30, 1}, agent.ChannelWhatsApp: {80, 1}}

// maxPaced bounds the people whose pace is remembered.
const maxPaced = 4096

func (c *chats) open(bot string, u agent.BotUse, cred agent.Secret) botgrain.Line {
	p := paces[u.Channel]
	return &line{c: c, bot: channels.Bot{ID: bot, Agent: u.Agent}, use: u, cred: cred, pace: rate.NewLimiter(p[0], int(p[0])), chats: map[string]*rate.Limiter{}}
}

// Run implements botgrain.Line.
func (l *line) Run(ctx context.Context) error {
	n, ok := l.c.networks[l.use.Channel].(channels.Connector)
	if !ok {
		<-ctx.Done()
		return nil
	}
	return n.Connect(ctx, l.cred, l.bot, func(ctx context.Context, e channels.Event) (string, error) {
		return l.c.intake.Take(ctx, l.use.Channel, l.bot.ID, e)
	})
}

func (l *line) wait(ctx context.Context, user string) error {
	l.mu.Lock()
	if len(l.chats) >= maxPaced {
		clear(l.chats)
	}
	one := l.chats[user]
	if one == nil {
		one = rate.NewLimiter(paces[l.use.Channel][1], 3)
		l.chats[user] = one
	}
	l.mu.Unlock()
	if err := one.Wait(ctx); err != nil {
		return err
	}
	return l.pace.Wait(ctx)
}

// Send implements botgrain.Line.
func (l *line) Send(ctx context.Context, p agent.Part) protocol.SendResult {
	n := l.c.networks[l.use.Channel]
	if n == nil {
		return protocol.SendResult{Fate: agent.PartRefused}
	}
	if l.wait(ctx, p.Binding.User) != nil {
		return protocol.SendResult{Fate: agent.PartLater}
	}
	err := n.Send(ctx, l.cred, channels.Address{User: p.Binding.User, Team: p.Binding.Team, Chat: p.Binding.Chat}, p.Text, fmt.Sprintf("%s:%d", p.Message, p.Number))
	if err == nil {
		return protocol.SendResult{Fate: agent.PartSent}
	}
	fate, after := channels.FateOf(err)
	known := map[channels.Fate]agent.RelayFate{channels.Later: agent.PartLater, channels.Refused: agent.PartRefused, channels.Closed: agent.WindowClosed, channels.Unmarked: agent.PartRefused, 0: agent.PartUncertain}
	l.c.intake.Log.Warn("part of a reply was not sent", "channel", l.use.Channel, "bot", l.bot.ID, "err", err)
	return protocol.SendResult{Fate: known[fate], AfterMS: after.Milliseconds()}
}

func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b)) // SEC-4
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// Genuine implements rest.Networks.
func (c *chats) Genuine(channel agent.Channel, bot string, cred agent.Secret, header func(string) string, body []byte) bool {
	switch channel {
	case agent.ChannelTelegram:
		return same(header("X-Telegram-Bot-Api-Secret-Token"), c.secret(bot))
	case agent.ChannelWhatsApp:
		w, err := whatsapp.Read(cred)
		return err == nil && w.Signed(header("X-Hub-Signature-256"), body)
	}
	return false
}

// Receive implements rest.Networks.
func (c *chats) Receive(ctx context.Context, channel agent.Channel, bot string, id agent.ID, cred agent.Secret, body []byte) (any, error) {
	take := func(ctx context.Context, e channels.Event) (string, error) {
		return c.intake.Take(ctx, channel, bot, e)
	}
	var err error
	switch channel {
	case agent.ChannelTelegram:
		_, err = c.telegram.Update(ctx, cred, body, take)
	case agent.ChannelWhatsApp:
		err = c.whatsapp.Receive(ctx, cred, body, take, func(msg agent.MessageID) error {
			_, err := agentclient.Ask[protocol.MarkResult](ctx, c.n.agents, id, protocol.Read, protocol.ReadCommand{IDs: []agent.MessageID{msg}})
			return err
		})
	default:
		err = errors.New("no such network")
	}
	return api.Took{OK: true}, err
}

// Handshake implements rest.Networks.
func (c *chats) Handshake(_ agent.Channel, cred agent.Secret, token, challenge string) (string, error) {
	w, err := whatsapp.Read(cred)
	if err != nil || !same(w.VerifyToken, token) {
		return "", fault.New(fault.Forbidden, "forbidden", "hub.verify_token is wrong")
	}
	return challenge, nil
}
