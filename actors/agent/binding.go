package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// The chat channels.
const (
	ChannelDiscord  Channel = "discord"
	ChannelSlack    Channel = "slack"
	ChannelTelegram Channel = "telegram"
	ChannelWhatsApp Channel = "whatsapp"
)

// ChatChannels lists them.
var ChatChannels = []Channel{ChannelDiscord, ChannelSlack, ChannelTelegram, ChannelWhatsApp}

// chatSlots are where their credentials lie.
var chatSlots = map[Channel]string{ChannelDiscord: SlotDiscord, ChannelSlack: SlotSlack, ChannelTelegram: SlotTelegram, ChannelWhatsApp: SlotWhatsApp}

// ChatSlot is the slot of a channel's credentials.
func ChatSlot(c Channel) string { return chatSlots[c] }

// Chat says whether a channel leads to a chat network.
func (c Channel) Chat() bool { return chatSlots[c] != "" }

// Title is the channel's name for people.
func (c Channel) Title() string {
	return map[Channel]string{ChannelDiscord: "Discord", ChannelSlack: "Slack", ChannelTelegram: "Telegram", ChannelWhatsApp: "WhatsApp"}[c]
}

// Limits of linking (CHAN-2, CHAN-3, CHAN-4).
const (
	CodeLetters  = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
	CodeLength   = 6
	CodeLife     = 10 * time.Minute
	LinkFailures = 5 // of a sender, in LinkWindow; then there is no answer
	LinkWindow   = 10 * time.Minute
)

// Binding is one linked chat account (§20).
type Binding struct {
	ID        string  `json:"id"`
	Channel   Channel `json:"channel"`
	Bot       string  `json:"bot"`  // through which it speaks
	User      string  `json:"user"` // of the network
	Name      string  `json:"name,omitempty"`
	Team      string  `json:"team,omitempty"`
	Chat      string  `json:"chat,omitempty"` // where to send
	Mode      string  `json:"mode"`
	CreatedMS int64   `json:"created_ms"`
	Routed    string  `json:"routed,omitempty"` // the bot whose route leads here
}

// LinkCode is the open code of a channel. Only its hash is kept.
type LinkCode struct {
	Hash    string `json:"hash"`
	Bot     string `json:"bot"`
	UntilMS int64  `json:"until_ms"`
}

// BindingID is the id as the outside knows it.
func BindingID(id string) string { return "bind_" + id }

// BotID names a bot by what only its owner knows of its credentials. "" for none.
func BotID(c Channel, credentials Secret) string {
	token := credentials.Reveal()
	var doc struct {
		Bot    string `json:"bot_token"`
		Phone  string `json:"phone_number_id"`
		Secret string `json:"app_secret"` // the number is no secret: without this, anybody could name somebody else's bot
	}
	switch {
	case token == "":
		return ""
	case c == ChannelSlack, c == ChannelWhatsApp:
		if json.Unmarshal([]byte(token), &doc) != nil {
			return ""
		}
		token = doc.Bot + doc.Phone + "\x00" + doc.Secret
	}
	sum := sha256.Sum256([]byte("troupe bot\x00" + string(c) + "\x00" + token))
	return hex.EncodeToString(sum[:16])
}

// LinkHash is what is kept of a code.
func LinkHash(bot, code string) string {
	sum := sha256.Sum256([]byte("troupe link\x00" + bot + "\x00" + strings.ToUpper(code)))
	return hex.EncodeToString(sum[:])
}

// Routes of chat networks: from (bot, account) to the agent that it is linked to, and from (bot, code) to the one that made it (CHAN-1).
const (
	RouteChat = "chat"
	RouteLink = "link"
	// RouteSettled leads, by ChatRoute, to the network's id of the newest event of an account that was dealt with and not stored.
	RouteSettled = "settled"
)

// ChatRoute is the id of a route from an account.
func ChatRoute(bot, user string) string { return bot + "/" + user }

// DerivedID is the id of a message that a network delivers: the same for every delivery of the same event (CHAN-6). It has the form of
// the others: its first bits are the instant.
func DerivedID(at time.Time, bot, event string) MessageID {
	sum := sha256.Sum256([]byte("troupe event\x00" + bot + "\x00" + event))
	var u uuid.UUID
	copy(u[:], sum[:16])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(at.UnixMilli(), 0)))
	copy(u[:6], ms[2:])
	u[6], u[8] = u[6]&0x0f|0x70, u[8]&0x3f|0x80
	return MessageID(u.String())
}

// Binding returns the active binding of a channel, nil for none.
func (s *State) Binding(c Channel) *Binding {
	for i := range s.Bindings {
		if s.Bindings[i].Channel == c {
			return &s.Bindings[i]
		}
	}
	return nil
}

// Bound returns the binding of an account, nil for none.
func (s *State) Bound(bot, user string) *Binding {
	for i := range s.Bindings {
		if b := &s.Bindings[i]; b.Bot == bot && b.User == user {
			return b
		}
	}
	return nil
}

// BotOf is the bot through which an agent is linked on a channel; shared is the platform's Discord bot, "" for none.
func (s *Spec) BotOf(c Channel, shared string) string {
	if bot := s.Bots[c]; bot != "" || c != ChannelDiscord {
		return bot
	}
	return shared
}

func notLinked(c Channel) error {
	return fault.Newf(fault.NotFound, "not_linked", "No %s account is linked", c.Title())
}

// OpenCode makes the hash of a code the channel's open one (CHAN-2). It returns when it ends, and the former one, "" for none.
func (m *Machine) OpenCode(c Channel, hash, shared string) (untilMS int64, former string, err error) {
	bot := m.Spec.BotOf(c, shared)
	switch {
	case m.S.Deleting:
		return 0, "", Gone()
	case bot == "":
		return 0, "", fault.Newf(fault.Invalid, "channel_not_configured", "The agent has no %s credentials", c.Title())
	case m.S.Binding(c) != nil:
		return 0, "", fault.Newf(fault.Conflict, "already_linked", "A %s account is already linked", c.Title())
	}
	if m.S.Codes == nil {
		m.S.Codes = map[Channel]LinkCode{}
	}
	former = m.S.Codes[c].Hash
	m.S.Codes[c] = LinkCode{Hash: hash, Bot: bot, UntilMS: m.Now + CodeLife.Milliseconds()}
	return m.S.Codes[c].UntilMS, former, nil
}

// WrongCode is the one answer for codes that are wrong, expired or used.
func WrongCode() error {
	return fault.New(fault.Invalid, "validation_failed", "This code is not valid. Ask for a new one.")
}

// Redeem uses a code: the binding is made in the same step (CHAN-3).
func (m *Machine) Redeem(b Binding, hash string) (Binding, error) {
	code, ok := m.S.Codes[b.Channel]
	if m.S.Deleting || !ok || code.Hash != hash || code.Bot != b.Bot || m.Now >= code.UntilMS || m.S.Binding(b.Channel) != nil {
		return b, WrongCode()
	}
	delete(m.S.Codes, b.Channel)
	b.ID, b.Mode, b.CreatedMS = m.NewID(), "collect", m.Now
	m.S.Bindings = append(m.S.Bindings, b)
	return b, nil
}

// Unlink ends the binding of a channel (CHAN-12). Replies that were not sent yet are dropped when their turn comes.
func (m *Machine) Unlink(c Channel) (Binding, error) {
	b := m.S.Binding(c)
	if m.S.Deleting {
		return Binding{}, Gone()
	}
	if b == nil {
		return Binding{}, notLinked(c)
	}
	gone := *b
	m.dropBinding(gone.ID)
	return gone, nil
}

func (m *Machine) dropBinding(id string) {
	m.S.Bindings = slices.DeleteFunc(m.S.Bindings, func(b Binding) bool { return b.ID == id })
	for i := range m.S.Relays {
		if m.S.Relays[i].Binding == id {
			m.S.Relays[i].NextMS = m.Now
		}
	}
}

// Undelivered notes that a network could not deliver a reply which it had taken. Errors: fault.Unavailable while other parts of it are
// under way; the network says it again.
func (m *Machine) Undelivered(id MessageID, reason string) error {
	x := m.loaded(id)
	switch {
	case x.Role != RoleAssistant || x.Reason != "":
		return nil
	case x.Status == Pending && m.RelayTo(x.Counterparty) != nil:
		return fault.New(fault.Unavailable, "dependency_unavailable", "The reply is still being sent").After(time.Second)
	case x.Status != Delivered:
		return nil
	}
	x.Reason = reason
	m.C.Marks = append(m.C.Marks, MarkPut{ID: id, Mark: x.Mark, Party: x.Counterparty})
	m.event("message.failed", map[string]any{"message_id": id.String(), "role": RoleAssistant, "reason": reason})
	return nil
}

// Displace ends a binding whose account was linked to another agent through the same bot (CHAN-1).
func (m *Machine) Displace(bot, user string) {
	if b := m.S.Bound(bot, user); b != nil {
		m.dropBinding(b.ID)
	}
}

// SetMode changes the queue mode that a binding gives to its messages.
func (m *Machine) SetMode(id, mode string) (Binding, error) {
	if m.S.Deleting {
		return Binding{}, Gone()
	}
	for i := range m.S.Bindings {
		if m.S.Bindings[i].ID == id {
			m.S.Bindings[i].Mode = mode
			return m.S.Bindings[i], nil
		}
	}
	return Binding{}, NoBinding()
}

// NoBinding is the answer for an id that is no active binding of the agent.
func NoBinding() error { return fault.New(fault.NotFound, "not_found", "Channel binding not found") }

// ReadBindingUpdate reads the body of "update a binding".
func ReadBindingUpdate(doc *field.Value) (mode string, err error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	r.Require("queue_mode")
	mode, _ = r.String("queue_mode", field.Text{Enum: []string{"collect", "interrupt"}})
	return mode, errs.Err()
}

// BotsDue says whether the bots of the configuration are not those that the cluster knows the agent by.
func (m *Machine) BotsDue() bool {
	return !m.S.Deleting && !maps.Equal(m.Spec.Bots, m.S.Bots)
}

// BotsKnown notes that they are.
func (m *Machine) BotsKnown(bots map[Channel]string) { m.S.Bots = maps.Clone(bots) }

// RoutesDue says whether the route of a binding does not lead here yet: it is new, or its channel has another bot now (CHAN-15).
func (m *Machine) RoutesDue() bool { return len(m.Moved()) > 0 }

// Moved are those bindings, with the bot that they belong to now. A channel without credentials keeps its binding as it is (CHAN-12).
func (m *Machine) Moved() (out []Binding) {
	for _, b := range m.S.Bindings {
		if bot := m.Spec.Bots[b.Channel]; bot != "" && bot != b.Bot {
			b.Bot = bot
			if b.Channel != ChannelTelegram && b.Channel != ChannelWhatsApp {
				b.Chat = "" // a conversation is with a bot; the new one opens its own
			}
		}
		if b.Routed != b.Bot {
			b.Routed = b.Bot
			out = append(out, b)
		}
	}
	return out
}

// RoutesKnown notes that the routes of bindings lead here.
func (m *Machine) RoutesKnown(moved []Binding) {
	for _, b := range moved {
		for i := range m.S.Bindings {
			if m.S.Bindings[i].ID == b.ID {
				m.S.Bindings[i] = b
			}
		}
	}
}

// setBots names the bots of credentials that are being set, and forgets those of credentials that are cleared.
func (p *Patch) setBots(s *Spec) error {
	for _, c := range ChatChannels {
		v, given := p.Secrets[chatSlots[c]]
		switch {
		case !given:
			continue
		case v == nil:
			delete(s.Bots, c)
			continue
		}
		if s.Bots == nil {
			s.Bots = map[Channel]string{}
		}
		if s.Bots[c] = BotID(c, *v); s.Bots[c] == "" {
			return fmt.Errorf("credentials of %s name no bot", c)
		}
	}
	if len(s.Bots) == 0 {
		s.Bots = nil
	}
	return nil
}
