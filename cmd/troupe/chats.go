package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	"troupe/channels/discord"
	"troupe/channels/slack"
	"troupe/channels/telegram"
	"troupe/channels/whatsapp"
	"troupe/http/api"
)

// chats joins the adapters of the chat networks with the actors and routes of this node.
type chats struct {
	networks map[agent.Channel]channels.Network
	discord  *discord.Adapter
	slack    *slack.Adapter
	telegram *telegram.Adapter
	whatsapp *whatsapp.Adapter
	intake   *channels.Intake
	n        *node
	secret   func(bot string) string // that Telegram sends back
	shared   string                  // the platform's Discord bot, "" for none
	token    agent.Secret            // and its token
}

// networkTimeout bounds one call of a network; long polls have their own.
const networkTimeout = 60 * time.Second

func (n *node) openChats(set agent.Settings) *chats {
	client := &http.Client{Transport: channels.NewTransport(), Timeout: networkTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c := &chats{n: n, secret: func(bot string) string { return n.box.MAC("telegram webhook", bot) }}
	c.telegram = &telegram.Adapter{Base: strings.TrimSuffix(n.cfg.TelegramURL, "/"), Client: client, Public: strings.TrimSuffix(n.cfg.PublicURL, "/"), Secret: c.secret}
	c.whatsapp = &whatsapp.Adapter{Base: strings.TrimSuffix(n.cfg.WhatsAppURL, "/"), Client: client}
	discord.Quiet()
	c.discord = &discord.Adapter{Client: client, Conversations: c.conversations, Log: n.log}
	if n.cfg.DiscordURL != "" {
		c.discord.Base = strings.TrimSuffix(n.cfg.DiscordURL, "/") + "/"
	}
	if c.token = agent.NewSecret(n.cfg.DiscordToken); n.cfg.DiscordToken != "" {
		c.shared = agent.BotID(agent.ChannelDiscord, c.token)
	}
	c.slack = &slack.Adapter{Client: client, Conversations: c.conversations, Log: n.log}
	if n.cfg.SlackURL != "" {
		c.slack.Base = strings.TrimSuffix(n.cfg.SlackURL, "/") + "/"
	}
	c.networks = map[agent.Channel]channels.Network{agent.ChannelDiscord: c.discord, agent.ChannelSlack: c.slack, agent.ChannelTelegram: c.telegram, agent.ChannelWhatsApp: c.whatsapp}
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

// Types implements agent.Chats.
func (c *chats) Types(channel agent.Channel) bool {
	_, can := c.networks[channel].(channels.Typer)
	return can
}

// Type implements agent.Chats.
func (c *chats) Type(p agent.Part) {
	c.n.agents.TellBot(p.Bot, protocol.NewCommand(protocol.Typing, p))
}

// all lists the bots of agents, and the platform's.
func (c *chats) all(ctx context.Context) ([]string, error) {
	ids, err := c.n.st.AllBots(ctx)
	if c.shared != "" && !slices.Contains(ids, c.shared) {
		ids = append(ids, c.shared)
	}
	return ids, err
}

// conversations are those of a bot with linked accounts, each with the newest message that was taken.
func (c *chats) conversations(ctx context.Context, bot string) (out []channels.Conversation, err error) {
	uses, err := c.n.st.Bot(ctx, bot)
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		sn, err := c.n.st.Load(ctx, u.Agent)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var s agent.State
		if err := json.Unmarshal(sn.State, &s); err != nil {
			return nil, err
		}
		b := s.Binding(u.Channel)
		if b == nil || b.Bot != bot {
			continue
		}
		conv := channels.Conversation{User: b.User, Team: b.Team, Chat: b.Chat, Since: time.UnixMilli(b.CreatedMS)}
		msgs, _, err := c.n.st.List(ctx, u.Agent, agent.Page{Desc: true, Limit: 10, Party: b.ID, Role: agent.RoleUser})
		if err != nil {
			return nil, err
		}
		for i := range msgs {
			var meta struct {
				Channel struct {
					Message string `json:"message_id"`
				} `json:"_channel"`
			}
			if json.Unmarshal(msgs[i].Metadata, &meta) == nil && meta.Channel.Message != "" {
				conv.Taken = append(conv.Taken, meta.Channel.Message)
				break
			}
		}
		settled, err := c.n.st.Route(ctx, agent.RouteSettled, agent.ChatRoute(bot, b.User))
		if err != nil {
			return nil, err
		}
		if settled != "" {
			conv.Taken = append(conv.Taken, string(settled))
		}
		out = append(out, conv)
	}
	return out, nil
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
	held  time.Time // the network wants nothing of this bot before
}

// Paces of the networks: messages a second of one bot, and to one person. Discord: https://discord.com/developers/docs/topics/rate-limits; Slack: https://docs.slack.dev/apis/web-api/rate-limits;
// Telegram: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits;
// WhatsApp: https://developers.facebook.com/docs/whatsapp/cloud-api/overview#throughput
var paces = map[agent.Channel][2]rate.Limit{agent.ChannelDiscord: {40, 1}, agent.ChannelSlack: {20, 1}, agent.ChannelTelegram: {30, 1}, agent.ChannelWhatsApp: {80, 1}}

// maxHeld is how long a limit of one call holds the whole bot at most; the reply itself waits as long as it is told.
const maxHeld = 10 * time.Second

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
	held := time.Until(l.held)
	one := l.chats[user]
	if one == nil {
		one = rate.NewLimiter(paces[l.use.Channel][1], 3)
		l.chats[user] = one
	}
	l.mu.Unlock()
	if held > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(held):
		}
	}
	if err := one.Wait(ctx); err != nil {
		return err
	}
	return l.pace.Wait(ctx)
}

// Send implements botgrain.Line.
func (l *line) Send(ctx, pace context.Context, p agent.Part) protocol.SendResult {
	n := l.c.networks[l.use.Channel]
	if n == nil {
		return protocol.SendResult{Fate: agent.PartRefused}
	}
	wait, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(pace, cancel)()
	defer cancel()
	if l.wait(wait, p.Binding.User) != nil {
		return protocol.SendResult{Fate: agent.PartLater}
	}
	err := n.Send(ctx, l.cred, channels.Address{User: p.Binding.User, Team: p.Binding.Team, Chat: p.Binding.Chat}, p.Text, fmt.Sprintf("%s:%d", p.Message, p.Number))
	if err == nil {
		return protocol.SendResult{Fate: agent.PartSent}
	}
	fate, after := channels.FateOf(err)
	if fate == channels.Later && after > 0 && l.use.Channel != agent.ChannelDiscord { // Discord limits each conversation by itself
		l.mu.Lock()
		if until := time.Now().Add(min(after, maxHeld)); until.After(l.held) {
			l.held = until
		}
		l.mu.Unlock()
	}
	known := map[channels.Fate]agent.RelayFate{channels.Later: agent.PartLater, channels.Refused: agent.PartRefused, channels.Closed: agent.WindowClosed, channels.Unmarked: agent.PartRefused, 0: agent.PartUncertain}
	l.c.intake.Log.Warn("part of a reply was not sent", "channel", l.use.Channel, "bot", l.bot.ID, "err", err)
	return protocol.SendResult{Fate: known[fate], AfterMS: after.Milliseconds()}
}

// Type implements botgrain.Line.
func (l *line) Type(ctx context.Context, p agent.Part) {
	n, ok := l.c.networks[l.use.Channel].(channels.Typer)
	if !ok || !l.pace.Allow() {
		return
	}
	if err := n.Typing(ctx, l.cred, channels.Address{User: p.Binding.User, Team: p.Binding.Team, Chat: p.Binding.Chat}); err != nil {
		l.c.intake.Log.Debug("typing was not shown", "channel", l.use.Channel, "bot", l.bot.ID, "err", err)
	}
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
	case agent.ChannelSlack:
		return slack.Genuine(cred, header, body)
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
	case agent.ChannelSlack:
		if challenge := slack.Challenge(body); challenge != "" {
			return api.SlackChallenge{Challenge: challenge}, nil
		}
		err = c.slack.Receive(ctx, cred, body, take)
	case agent.ChannelTelegram:
		_, err = c.telegram.Update(ctx, cred, body, take)
	case agent.ChannelWhatsApp:
		err = c.whatsapp.Receive(ctx, cred, body, take, func(msg agent.MessageID) error {
			_, err := agentclient.Ask[protocol.MarkResult](ctx, c.n.agents, id, protocol.Read, protocol.ReadCommand{IDs: []agent.MessageID{msg}})
			return err
		}, func(msg agent.MessageID, reason string) error {
			_, err := links{c.n}.Link(ctx, id, protocol.LinkCommand{Do: protocol.LinkFailed, Message: msg, Reason: reason})
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
