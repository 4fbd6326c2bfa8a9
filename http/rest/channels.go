package rest

import (
	"context"
	"crypto/rand"
	"math/big"
	"strings"

	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/route"
)

// Networks takes calls of chat networks. Credentials are those of the agent that the call names.
type Networks interface {
	// Genuine says whether a call is from the network (CHAN-14).
	Genuine(channel agent.Channel, bot string, credentials agent.Secret, header func(name string) string, body []byte) bool
	// Receive makes everything durable that a call brings, and returns what to answer. An error means that the network must call again.
	Receive(ctx context.Context, channel agent.Channel, bot string, id agent.ID, credentials agent.Secret, body []byte) (answer any, err error)
	// Handshake returns the challenge of a subscription, or fault.Forbidden.
	Handshake(channel agent.Channel, credentials agent.Secret, token, challenge string) (string, error)
}

func (r *rest) channelRoutes() []route.Route {
	const at = "/v1/agent/{id}/"
	a := feature
	out := []route.Route{
		a("GET", at+"channels", "listChannels", route.None, r.bindings),
		a("PATCH", at+"channels/{bindingId}", "updateChannelBinding", route.Required, r.updateBinding),
		a("POST", at+"telegram/unlink", "unlinkTelegramPost", route.None, r.unlink(agent.ChannelTelegram)),
	}
	for channel, op := range map[agent.Channel]string{agent.ChannelDiscord: "Discord", agent.ChannelSlack: "Slack", agent.ChannelTelegram: "Telegram", agent.ChannelWhatsApp: "WhatsApp"} {
		out = append(out,
			a("POST", at+string(channel)+"/link", "create"+op+"LinkCode", route.None, r.linkCode(channel)),
			a("GET", at+string(channel)+"/status", "get"+op+"Status", route.None, r.linkStatus(channel)),
			a("DELETE", at+string(channel)+"/unlink", "unlink"+op, route.None, r.unlink(channel)))
	}
	if r.Networks == nil {
		return out
	}
	for channel, op := range map[agent.Channel]string{agent.ChannelSlack: "receiveSlackWebhook", agent.ChannelTelegram: "receiveTelegramWebhook", agent.ChannelWhatsApp: "receiveWhatsappWebhook"} {
		out = append(out, route.Route{Method: "POST", Path: "/v1/webhooks/" + string(channel) + "/{agentId}", Op: op, Access: route.Open, Body: route.Required, Handle: r.receive(channel)})
	}
	return append(out, route.Route{Method: "GET", Path: "/v1/webhooks/whatsapp/{agentId}", Op: "verifyWhatsappWebhook", Access: route.Open, Handle: r.handshake})
}

// bound is the active binding of a channel, nil for none. The route decides: one whose account was linked elsewhere is over (CHAN-1).
func (r *rest) bound(c *route.Call, v *view, channel agent.Channel) (*agent.Binding, error) {
	b := v.State.Binding(channel)
	if b == nil || b.Routed == "" { // its route is being made
		return b, nil
	}
	holder, err := r.Store.Route(c.Ctx, agent.RouteChat, agent.ChatRoute(b.Routed, b.User))
	if err != nil || holder == v.Spec.ID {
		return b, err
	}
	_, err = r.link(c.Ctx, v.Spec.ID, protocol.LinkCommand{Do: protocol.LinkDisplace, Binding: *b})
	return nil, err
}

func (r *rest) link(ctx context.Context, id agent.ID, cmd protocol.LinkCommand) (protocol.LinkResult, error) {
	return agentclient.Ask[protocol.LinkResult](ctx, r.Agents, id, protocol.Link, cmd)
}

func (r *rest) bindings(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	out := api.ChannelBindingList{Bindings: []api.ChannelBinding{{ID: agent.BindingID(string(v.Spec.ID)), Channel: string(agent.ChannelAPI), Status: "active",
		CreatedAt: agent.Stamp(v.Spec.CreatedMS), QueueMode: "collect"}}}
	for _, channel := range agent.ChatChannels {
		b, err := r.bound(c, v, channel)
		if err != nil {
			return route.Response{}, err
		}
		if b != nil {
			out.Bindings = append(out.Bindings, bindingBody(b))
		}
	}
	return route.OK(out), nil
}

func bindingBody(b *agent.Binding) api.ChannelBinding {
	out := api.ChannelBinding{ID: agent.BindingID(b.ID), Channel: string(b.Channel), Status: "active", CreatedAt: agent.Stamp(b.CreatedMS), QueueMode: b.Mode}
	name := text(b.Name)
	switch b.Channel {
	case agent.ChannelDiscord:
		out.DiscordUser, out.DiscordName = b.User, b.Name
	case agent.ChannelSlack:
		out.SlackUser, out.SlackName, out.SlackTeam = b.User, b.Name, b.Team
	case agent.ChannelTelegram:
		out.TelegramUser, out.TelegramName = b.User, name
	case agent.ChannelWhatsApp:
		out.WhatsAppUser, out.WhatsAppName = b.User, name
	}
	return out
}

func (r *rest) updateBinding(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	id, ok := agent.ParseUUID(c.Param("bindingId"), agent.BindingID(""))
	if !ok {
		return route.Response{}, agent.NoBinding()
	}
	doc, err := c.Doc()
	if err != nil {
		return route.Response{}, err
	}
	mode, err := agent.ReadBindingUpdate(doc)
	if err != nil {
		return route.Response{}, err
	}
	if id == string(v.Spec.ID) {
		return route.Response{}, fault.New(fault.Invalid, "validation_failed", "The api binding has no queue mode: every message names its own")
	}
	got, err := r.link(c.Ctx, v.Spec.ID, protocol.LinkCommand{Do: protocol.LinkMode, Binding: agent.Binding{ID: id, Mode: mode}})
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(bindingBody(&got.Binding)), nil
}

// linkCode opens a code (CHAN-2).
func (r *rest) linkCode(channel agent.Channel) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		v, err := r.load(c)
		if err != nil {
			return route.Response{}, err
		}
		if _, err := r.bound(c, v, channel); err != nil {
			return route.Response{}, err
		}
		code := newCode()
		got, err := r.link(c.Ctx, v.Spec.ID, protocol.LinkCommand{Do: protocol.LinkCode, Channel: channel, Shared: r.SharedBot, Hash: agent.LinkHash(v.Spec.BotOf(channel, r.SharedBot), code)})
		if err != nil {
			return route.Response{}, err
		}
		return route.OK(api.LinkCode{Code: code, ExpiresAt: agent.Stamp(got.UntilMS), Instructions: "Send /link " + code + " to the bot in a direct message."}), nil
	}
}

func newCode() string {
	b := make([]byte, agent.CodeLength)
	for i := range b {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(agent.CodeLetters))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		b[i] = agent.CodeLetters[n.Int64()]
	}
	return string(b)
}

// linkStatus answers in the shape of each network; without a binding it says so (CHAN-15).
func (r *rest) linkStatus(channel agent.Channel) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		v, err := r.load(c)
		if err != nil {
			return route.Response{}, err
		}
		b, err := r.bound(c, v, channel)
		if err != nil {
			return route.Response{}, err
		}
		if b == nil {
			b = &agent.Binding{}
		}
		return route.OK(statusBody(channel, b)), nil
	}
}

func statusBody(channel agent.Channel, b *agent.Binding) any {
	linked := b.ID != ""
	at, id, name := "", "", text(b.Name)
	if linked {
		at, id = agent.Stamp(b.CreatedMS), agent.BindingID(b.ID)
	}
	switch channel {
	case agent.ChannelDiscord:
		out := api.DiscordStatus{Linked: linked, User: b.User, Name: b.Name, Mode: b.Mode, CreatedAt: at}
		if linked {
			out.Binding = &api.DiscordBinding{ID: id, User: b.User, Name: b.Name, Mode: b.Mode, CreatedAt: at}
		}
		return out
	case agent.ChannelSlack:
		return api.SlackStatus{Linked: linked, User: b.User, Team: b.Team, Name: b.Name, LinkedAt: at, Binding: id, Mode: b.Mode}
	case agent.ChannelTelegram:
		if !linked {
			return api.NotLinked{}
		}
		return api.TelegramStatus{Linked: true, Binding: api.TelegramBinding{UUID: b.ID, User: b.User, Name: name, CreatedAt: at, Active: true, Mode: b.Mode}, User: b.User, Name: name, LinkedAt: at}
	}
	if !linked {
		return api.NotLinked{}
	}
	return api.WhatsAppStatus{Linked: true, Binding: id, User: b.User, Name: name, Mode: b.Mode, LinkedAt: at}
}

func (r *rest) unlink(channel agent.Channel) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		v, err := r.load(c)
		if err != nil {
			return route.Response{}, err
		}
		if _, err := r.bound(c, v, channel); err != nil {
			return route.Response{}, err
		}
		if _, err := r.link(c.Ctx, v.Spec.ID, protocol.LinkCommand{Do: protocol.LinkUnlink, Channel: channel}); err != nil {
			return route.Response{}, err
		}
		out := api.Unlinked{Message: channel.Title() + " account unlinked successfully"}
		if channel == agent.ChannelTelegram || channel == agent.ChannelWhatsApp {
			yes := true
			out.Success = &yes
		}
		return route.OK(out), nil
	}
}

// hooked is an agent as found for a call of a network, with its bot and credentials; 404 where there are none.
func (r *rest) hooked(c *route.Call, channel agent.Channel) (id agent.ID, bot string, cred agent.Secret, err error) {
	id, ok := agent.ParseID(c.Param("agentId"))
	if !ok {
		return "", "", cred, gone()
	}
	sn, err := r.Store.Load(c.Ctx, id)
	if err == nil && sn.Figures.Deleted {
		err = gone()
	}
	if err != nil {
		return "", "", cred, err
	}
	v, err := viewOf(sn)
	if err != nil {
		return "", "", cred, err
	}
	slot := agent.ChatSlot(channel)
	if bot = v.Spec.Bots[channel]; bot == "" || v.Spec.Sealed[slot] == "" {
		return "", "", cred, gone()
	}
	clear, err := r.Box.Open(string(id), slot, v.Spec.Sealed[slot])
	if err != nil {
		return "", "", cred, fault.New(fault.Internal, "internal", "").Because(err)
	}
	return id, bot, agent.NewSecret(clear), nil
}

// receive takes a call of a network. It is answered with 200 only after everything in it is durable (CHAN-6).
func (r *rest) receive(channel agent.Channel) func(*route.Call) (route.Response, error) {
	return func(c *route.Call) (route.Response, error) {
		id, bot, cred, err := r.hooked(c, channel)
		if err != nil {
			return route.Response{}, err
		}
		body, err := c.Bytes()
		if err != nil {
			return route.Response{}, err
		}
		if !r.Networks.Genuine(channel, bot, cred, c.Header, body) {
			return route.Response{}, fault.New(fault.Unauthenticated, "invalid_signature", "The signature or secret token is missing or wrong")
		}
		if _, err := c.Doc(); err != nil {
			return route.Response{}, err
		}
		answer, err := r.Networks.Receive(c.Ctx, channel, bot, id, cred, body)
		return route.OK(answer), err
	}
}

// handshake confirms a subscription of WhatsApp's.
func (r *rest) handshake(c *route.Call) (route.Response, error) {
	_, _, cred, err := r.hooked(c, agent.ChannelWhatsApp)
	if err != nil {
		return route.Response{}, err
	}
	args := c.QueryArgs()
	mode, token, challenge := string(args.Peek("hub.mode")), string(args.Peek("hub.verify_token")), string(args.Peek("hub.challenge"))
	if mode != "subscribe" || challenge == "" || len(challenge) > 1000 {
		return route.Response{}, fault.New(fault.Invalid, "validation_failed", "hub.mode must be subscribe, hub.challenge 1 to 1000 characters").At("hub.mode", "must be subscribe")
	}
	out, err := r.Networks.Handshake(agent.ChannelWhatsApp, cred, token, challenge)
	return route.Response{Status: 200, Body: []byte(out), Type: "text/plain"}, err
}

// party makes a message of the owner count as coming from the linked account (MSG-11).
func (r *rest) party(c *route.Call, id agent.ID, msg *agent.Message) error {
	v, err := r.view(c.Ctx, id, c.Caller.Account.ID)
	if err != nil {
		return err
	}
	b, err := r.bound(c, v, msg.Channel)
	if err != nil {
		return err
	}
	if b == nil {
		return fault.Newf(fault.Invalid, "channel_not_linked", "No %s account is linked to this agent", msg.Channel.Title()).At("channel", "has no active binding")
	}
	msg.Counterparty, msg.PartyName, msg.PartyType = b.ID, b.Name, "user"
	return nil
}

// withUncertain adds to a reply's metadata which of its parts nobody knows of (CHAN-10).
func withUncertain(meta []byte, parts []int) []byte {
	extra := `"_channel":` + string(agent.Encode(map[string]any{"uncertain": parts}))
	if trimmed := strings.TrimSpace(string(meta)); len(trimmed) > 2 {
		return []byte(strings.TrimSuffix(trimmed, "}") + "," + extra + "}")
	}
	return []byte("{" + extra + "}")
}
