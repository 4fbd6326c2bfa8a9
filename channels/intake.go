package channels

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// Store is what an intake reads and writes.
type Store interface {
	agent.Routes
	agent.Inbox
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
	Count(ctx context.Context, key string, limit, windowMS int64) (account.Window, error)
	Counted(ctx context.Context, key string) (int64, error)
}

// Agents reaches agents.
type Agents interface {
	Link(ctx context.Context, id agent.ID, cmd protocol.LinkCommand) (protocol.LinkResult, error)
	Hint(id agent.ID)
}

// Intake takes what people write to bots: it links accounts and puts messages into inboxes (CHAN-3 to CHAN-7).
type Intake struct {
	Store  Store
	Agents Agents
	Limit  int                                        // messages that may wait per agent
	Count  func(channel agent.Channel, result string) // metric
	Log    *slog.Logger
}

// What senders are told.
const (
	textLinked   = "Linked. You are talking to %s now."
	textAlready  = "Linked."
	textWrong    = "This code is not valid. Ask for a new one."
	textLater    = "The code could not be checked at the moment. Please send it again."
	textHint     = "This account is not linked to an agent. Ask for a link code and send: /link CODE"
	textAway     = "The agent is not available at the moment. Your message was not delivered."
	textCrowded  = "The agent has too many messages waiting. Your message was not delivered."
	onceEvery    = 10 * time.Minute
	maxNameRunes = 200
)

var linkCommand = regexp.MustCompile(`(?i)^(/?)link\s+([A-Z0-9]{1,32})$`)

// linkTimeout is how long a sender waits for the agent of a link code; nobody behind waits longer.
const linkTimeout = 5 * time.Second

// Skew is how far the clocks of networks and of the store may be apart.
const Skew = 5 * time.Second

// Take makes one event durable. What it returns is for the sender; an error means that the event must come again (CHAN-6).
func (in *Intake) Take(ctx context.Context, channel agent.Channel, bot string, e Event) (answer string, err error) {
	e.Name = clean(e.Name)
	if m := linkCommand.FindStringSubmatch(strings.TrimFunc(e.Text, unicode.IsSpace)); m != nil {
		to, err := in.Store.Route(ctx, agent.RouteLink, agent.LinkHash(bot, m[2]))
		if err != nil {
			return "", err
		}
		_, b, err := in.find(ctx, bot, e.User)
		if err != nil {
			return "", err
		}
		if to != "" || b == nil || m[1] != "" || time.UnixMilli(b.CreatedMS).After(e.At.Add(-Skew)) { // else it is something that a linked person says
			return in.redeem(ctx, channel, bot, e, m[2], to, b)
		}
	}
	result := "error"
	defer func() { in.Count(channel, result) }()
	to, b, err := in.find(ctx, bot, e.User)
	if err != nil {
		return "", err
	}
	if b == nil {
		result = "unlinked"
		return in.rarely(ctx, "hint/"+bot+"/"+e.User, textHint)
	}
	text := strings.ReplaceAll(e.Text, "\x00", "")
	if r := []rune(text); len(r) > agent.MaxContent {
		text = string(r[:agent.MaxContent])
	}
	if strings.TrimFunc(text, unicode.IsSpace) == "" {
		result = "ignored"
		return "", nil
	}
	meta := map[string]any{"message_id": e.ID, "user_id": e.User}
	if e.Chat != "" {
		meta["chat_id"] = e.Chat
	}
	raw, err := json.Marshal(map[string]any{"_channel": meta})
	if err != nil {
		return "", err
	}
	got, err := in.Store.Accept(ctx, &agent.Acceptance{Agent: to, ID: agent.DerivedID(e.At, bot, e.ID), Limit: in.Limit, Body: agent.Body{Role: agent.RoleUser, Content: text,
		Channel: b.Channel, QueueMode: b.Mode, Metadata: raw, Source: "user", Counterparty: b.ID, PartyName: b.Name, PartyType: "user"}})
	switch {
	case err == nil && got.Replayed:
		result = "repeated"
	case err == nil:
		result = "accepted"
		if got.Status == agent.Active {
			in.Agents.Hint(to)
		}
	case fault.Is(err, fault.NotFound):
		result = "unlinked"
		return in.rarely(ctx, "hint/"+bot+"/"+e.User, textHint)
	case fault.Is(err, fault.Limited): // to let it come again would hold up everybody else
		result = "refused"
		in.passed(ctx, channel, bot, e)
		return in.rarely(ctx, "crowded/"+bot+"/"+e.User, textCrowded)
	case fault.Of(err).Code == "agent_unavailable": // CHAN-7
		result = "refused"
		in.passed(ctx, channel, bot, e)
		return in.rarely(ctx, "away/"+bot+"/"+e.User, textAway)
	default:
		return "", err
	}
	return "", nil
}

// find leads from an account to its binding, nil for none. The route is the truth (CHAN-1).
func (in *Intake) find(ctx context.Context, bot, user string) (agent.ID, *agent.Binding, error) {
	to, err := in.Store.Route(ctx, agent.RouteChat, agent.ChatRoute(bot, user))
	if err != nil || to == "" {
		return "", nil, err
	}
	sn, err := in.Store.Load(ctx, to)
	if fault.Is(err, fault.NotFound) || err == nil && sn.Figures.Deleted {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	var s agent.State
	if err := json.Unmarshal(sn.State, &s); err != nil {
		return "", nil, err
	}
	return to, s.Bound(bot, user), nil
}

// redeem uses a link code of the agent to, "" for none (CHAN-3); b is the sender's binding so far. After too many failures of a sender there
// is no answer. The event may come again after it took effect: then the binding is younger than it.
func (in *Intake) redeem(ctx context.Context, channel agent.Channel, bot string, e Event, code string, to agent.ID, b *agent.Binding) (answer string, err error) {
	if b != nil {
		defer func() {
			if err == nil {
				in.passed(ctx, channel, bot, e)
			}
		}()
	}
	if to == "" && b != nil && time.UnixMilli(b.CreatedMS).After(e.At.Add(-Skew)) {
		return textAlready, nil
	}
	failures := "link/" + bot + "/" + e.User
	if n, err := in.Store.Counted(ctx, failures); err != nil || n >= agent.LinkFailures {
		in.Count(channel, "ignored")
		return "", err
	}
	hash, err := agent.LinkHash(bot, code), agent.WrongCode()
	var got protocol.LinkResult
	if to != "" {
		call, cancel := context.WithTimeout(ctx, linkTimeout)
		defer cancel()
		got, err = in.Agents.Link(call, to, protocol.LinkCommand{Do: protocol.LinkRedeem, Hash: hash,
			Binding: agent.Binding{Channel: channel, Bot: bot, User: e.User, Name: e.Name, Team: e.Team, Chat: e.Chat}})
	}
	switch {
	case err == nil:
		in.Count(channel, "linked")
		if b == nil {
			in.passed(ctx, channel, bot, e) // a gap begins behind it
		}
		return strings.Replace(textLinked, "%s", got.Name, 1), nil
	case fault.Is(err, fault.Invalid), fault.Is(err, fault.NotFound):
		in.Count(channel, "refused")
		if _, err := in.Store.Count(ctx, failures, agent.LinkFailures, agent.LinkWindow.Milliseconds()); err != nil {
			return "", err
		}
		return textWrong, nil
	}
	if ctx.Err() != nil { // the connection ends: the event comes again
		return "", err
	}
	in.passed(ctx, channel, bot, e) // a gap must not use it unasked
	in.Log.Warn("a link code could not be used", "agent_id", to, "channel", channel, "err", err)
	in.Count(channel, "error")
	return textLater, nil // whoever waits behind must not wait for this agent; if it was used after all, the code sent again says so
}

// passed notes an event that is dealt with and not stored, for a network whose gaps are read: a link command, or one that was refused and
// whose sender was told. No later gap may deliver it.
func (in *Intake) passed(ctx context.Context, channel agent.Channel, bot string, e Event) {
	if channel != agent.ChannelDiscord && channel != agent.ChannelSlack {
		return
	}
	if err := in.Store.PutRoute(ctx, agent.RouteSettled, agent.ChatRoute(bot, e.User), agent.ID(e.ID)); err != nil {
		in.Log.Warn("a message that was dealt with was not noted", "bot", bot, "err", err)
	}
}

// rarely gives a text at most once in ten minutes; where that cannot be counted, not at all.
func (in *Intake) rarely(ctx context.Context, key, text string) (string, error) {
	if w, err := in.Store.Count(ctx, key, 1, onceEvery.Milliseconds()); err != nil || w.Refused {
		return "", nil
	}
	return text, nil
}

// clean keeps a name that a stranger chose on one line.
func clean(name string) string {
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, name))
	if r := []rune(name); len(r) > maxNameRunes {
		name = string(r[:maxNameRunes])
	}
	return name
}
