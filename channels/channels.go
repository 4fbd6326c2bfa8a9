// Package channels connects agents with chat networks (§20).
//
//	network ── adapter ── Intake ── inbox of the agent         inbound: durable before it is acknowledged
//	agent ── outbox ── bot grain ── adapter ── network          outbound: in order, part by part
//
// An adapter knows one network and nothing of agents. What it must be able to do is Network; what only some networks have are small
// interfaces beside it. Whoever links, routes, retries and paces is here or in actors.
package channels

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"

	"troupe/actors/agent"
)

// Event is a direct message of a person, as a network delivers it.
type Event struct {
	ID   string    // of the delivery at the network; the same for redeliveries
	At   time.Time // when it was sent; the same for redeliveries
	User string    // who sent it
	Name string    // as the network shows the sender; "" if it does not
	Team string    // Slack's workspace
	Chat string    // where to answer
	Text string    // with a line for everything that is no text
}

// Attachment is the line that stands for content which is no text (CHAN-5).
func Attachment(kind, name string) string {
	if name == "" {
		return "[attachment: " + kind + "]"
	}
	return "[attachment: " + kind + " " + name + "]"
}

// Credentials are the secrets of one bot, as the agent's configuration holds them: a token, or a JSON object.
type Credentials = agent.Secret

// Address is the far end of a binding.
type Address struct{ User, Team, Chat string }

// Network is one chat network.
type Network interface {
	// Render turns a reply, which is Markdown, into the texts to be sent (CHAN-8, CHAN-9).
	Render(markdown string) []string
	// Send sends one of them. Key is the same in every attempt. Errors: *Error; any other means that nobody knows whether it arrived.
	Send(ctx context.Context, c Credentials, to Address, text, key string) error
}

// Repeatable is a network that recognises a text which is sent again by its key.
type Repeatable interface{ Repeatable() }

// Typer is a network that shows for some seconds that somebody is writing.
type Typer interface {
	Typing(ctx context.Context, c Credentials, to Address) error
}

// Connector is a network on which a bot keeps a connection, or asks for what is new.
type Connector interface {
	// Connect takes events until ctx ends or the connection is lost. An event is acknowledged when take has returned nil.
	Connect(ctx context.Context, c Credentials, b Bot, take Take) error
}

// Take makes an event durable. What it returns is to be sent to the sender at once; an error means that the event must come again.
type Take func(ctx context.Context, e Event) (answer string, err error)

// Bot is who a connection is for.
type Bot struct {
	ID    string   // of its token, see agent.BotID
	Agent agent.ID // whose configuration it is from
}

// Fate is what an error of Send means.
type Fate int

// The fates.
const (
	Later    Fate = iota + 1 // it did not arrive: the network is limiting or failing, try again
	Closed                   // WhatsApp takes no free text now (CHAN-11)
	Refused                  // it will not arrive, and no repetition helps
	Unmarked                 // the network refused the markup, nothing arrived
)

// Error is a failure whose meaning is known.
type Error struct {
	Fate  Fate
	After time.Duration // what the network asked for, with Later
	Why   string        // safe to show and to log
}

func (e *Error) Error() string { return e.Why }

// Failed makes an Error.
func Failed(f Fate, after time.Duration, format string, args ...any) error {
	return &Error{f, after, fmt.Sprintf(format, args...)}
}

// hopeless is an error of Connect that comes again until somebody changes something at the network.
type hopeless struct{ error }

// Hopeless makes one.
func Hopeless(format string, args ...any) error { return hopeless{fmt.Errorf(format, args...)} }

// IsHopeless says whether an error of Connect is one.
func IsHopeless(err error) bool { return errors.As(err, new(hopeless)) }

// FateOf returns what an error of Send means; 0: nobody knows.
func FateOf(err error) (f Fate, after time.Duration) {
	var e *Error
	if errors.As(err, &e) {
		return e.Fate, e.After
	}
	return 0, 0
}

// Units is the length of a text as networks count it: in UTF-16 units (CHAN-8).
func Units(s string) (n int) {
	for _, r := range s {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}
