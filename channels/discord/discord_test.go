package discord

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/channels"
	"troupe/channels/channelstest"
)

const token = "bot-token"

// bot is a connection of the adapter to a server, and what it took.
type bot struct {
	mu    sync.Mutex
	got   []string
	taken map[string]channels.Conversation // by person
	moved bool                             // the conversations are of another bot, so their chats are not known
	fail  int                              // takes that fail
}

func (b *bot) take(_ context.Context, e channels.Event) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail > 0 {
		b.fail--
		return "", errors.New("the store is away")
	}
	if !slices.Contains(b.got, e.Text) { // as an inbox, which knows the ids
		b.got = append(b.got, e.Text)
		conv := b.taken[e.User]
		b.taken[e.User] = channels.Conversation{User: e.User, Chat: e.Chat, Taken: append(slices.Clone(conv.Taken), e.ID)}
	}
	if e.Text == "who?" {
		return "me", nil
	}
	return "", nil
}

// conversations are those in which something was taken.
func (b *bot) conversations(context.Context, string) (out []channels.Conversation, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conv := range b.taken {
		if b.moved {
			conv.Chat = ""
		}
		out = append(out, conv)
	}
	return out, nil
}

func (b *bot) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *bot) texts() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.got, ",")
}

func connect(t *testing.T, s *channelstest.Discord, dead time.Duration) *bot {
	Quiet()
	a := adapter(s)
	ctx, cancel := context.WithCancel(context.Background())
	b, done := &bot{taken: map[string]channels.Conversation{}}, make(chan struct{})
	a.Dead, a.Conversations = dead, b.conversations
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = a.Connect(ctx, agent.NewSecret(token), channels.Bot{ID: "b"}, b.take)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	until(t, "the bot is there", s.Connected)
	return b
}

func adapter(s *channelstest.Discord) *Adapter {
	return &Adapter{Base: s.URL, Client: &http.Client{Timeout: 30 * time.Second}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

// TestCHAN_13_AConnectionThatIsLost: a session is resumed with what was missed; one that cannot be resumed begins anew, and the gap is read;
// one that is dead is noticed by its heartbeats.
func TestCHAN_13_AConnectionThatIsLost(t *testing.T) {
	s := channelstest.StartDiscord(t, token)
	b := connect(t, s, 2*time.Second)
	s.Say("7", "ann", "one")
	until(t, "it is taken", func() bool { return b.texts() == "one" })
	s.Drop()
	s.Say("7", "ann", "two")
	until(t, "the session is resumed", func() bool { _, r := s.Sessions(); return r > 0 && b.texts() == "one,two" })
	s.Down(true)
	s.Drop()
	s.Forget()
	s.Say("7", "ann", "three")
	s.Say("7", "ann", "four")
	s.Down(false)
	until(t, "the gap is read", func() bool { return b.texts() == "one,two,three,four" })
	if n, _ := s.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
	s.Mute(true)
	until(t, "the silence is noticed", func() bool { return !s.Connected() })
	s.Mute(false)
	until(t, "it is back", s.Connected)
	s.Garbage()
	s.Say("7", "ann", "five")
	until(t, "it goes on", func() bool { return strings.HasSuffix(b.texts(), "five") })
}

// TestCHAN_6_AnEventIsKeptUntilItIsStored: the gateway sends nothing again by itself.
func TestCHAN_6_AnEventIsKeptUntilItIsStored(t *testing.T) {
	s := channelstest.StartDiscord(t, token)
	b := connect(t, s, 0)
	b.set(func() { b.fail = 2 })
	s.Say("7", "ann", "one")
	s.Say("7", "ann", "who?")
	until(t, "both are stored in order", func() bool { return b.texts() == "one,who?" })
	until(t, "the answer was sent", func() bool { return len(s.Sent()) == 1 })
	if got := s.Sent()[0]; got.Text != "me" || got.Chat != "97" {
		t.Errorf("%+v", got)
	}
	s.Message(map[string]any{"channel_id": "55", "guild_id": "1", "content": "in a server", "type": 0, "author": map[string]any{"id": "7", "username": "ann"}})
	s.Message(map[string]any{"channel_id": "98", "content": "a bot", "type": 0, "author": map[string]any{"id": "8", "username": "x", "bot": true}})
	s.Message(map[string]any{"channel_id": "97", "content": "a picture", "type": 0, "author": map[string]any{"id": "7", "username": "ann"}, "attachments": []any{map[string]any{"id": "1", "filename": "cat.png"}}})
	until(t, "the picture is taken", func() bool { return strings.HasSuffix(b.texts(), "a picture\n[attachment: file cat.png]") })
	if strings.Contains(b.texts(), "server") || strings.Contains(b.texts(), "a bot") {
		t.Errorf("CHAN-4: %s", b.texts())
	}
}

func TestCHAN_10_ANonceMakesASendRepeatable(t *testing.T) {
	s := channelstest.StartDiscord(t, token)
	a := adapter(s)
	send := func(key string) error {
		return a.Send(context.Background(), agent.NewSecret(token), channels.Address{User: "7"}, "hello", key)
	}
	s.CutNext()
	if err := send("m:0"); err == nil {
		t.Error("nobody can know that it arrived")
	} else if f, _ := channels.FateOf(err); f != 0 {
		t.Errorf("%v", err)
	}
	if err := send("m:0"); err != nil {
		t.Error(err)
	}
	if err := send("m:1"); err != nil {
		t.Error(err)
	}
	if got := s.Sent(); len(got) != 2 || len(got[0].Key) != nonceLength || got[0].Key == got[1].Key || got[0].Chat != "97" {
		t.Errorf("%+v", got)
	}
	for _, tt := range []struct {
		status int
		after  float64
		fate   channels.Fate
		wait   time.Duration
	}{{429, 1.5, channels.Later, 1500 * time.Millisecond}, {500, 0, channels.Later, 0}, {401, 0, channels.Later, 0}, {403, 0, channels.Refused, 0}} {
		s.FailNext(tt.status, tt.after)
		err := send("x")
		if f, after := channels.FateOf(err); f != tt.fate || after != tt.wait || strings.Contains(err.Error(), token) {
			t.Errorf("%d: %v after %v", tt.status, err, after)
		}
	}
}

// TestCHAN_13_AGapThatCannotBeRead: it is read once it can be, before what is written meanwhile; the others do not wait for it.
func TestCHAN_13_AGapThatCannotBeRead(t *testing.T) {
	s := channelstest.StartDiscord(t, token)
	b := connect(t, s, 0)
	b.set(func() { b.moved = true })
	s.Say("7", "ann", "one")
	until(t, "it is taken", func() bool { return b.texts() == "one" })
	s.Down(true)
	s.Drop()
	s.Forget()
	s.Say("7", "ann", "two")
	s.FailReads(3)
	s.Down(false)
	until(t, "there is a new session", s.Connected)
	s.Say("7", "ann", "three")
	s.Say("8", "bob", "hello")
	until(t, "the other one is heard", func() bool { return strings.Contains(b.texts(), "hello") })
	until(t, "the gap is read", func() bool { return strings.HasSuffix(strings.ReplaceAll(b.texts(), ",hello", ""), "one,two,three") })
}

// TestCHAN_13_AGatewayThatDoesNotBegin: the library waits for ever where it is asked to reconnect at once; a close that will come again is not
// tried again and again.
func TestCHAN_13_AGatewayThatDoesNotBegin(t *testing.T) {
	s := channelstest.StartDiscord(t, token)
	Quiet()
	a := adapter(s)
	a.Conversations, a.Open = (&bot{}).conversations, 5*time.Second
	run := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := a.Connect(ctx, agent.NewSecret(token), channels.Bot{ID: "b"}, (&bot{}).take)
		if ctx.Err() != nil {
			t.Error("it did not come back by itself")
		}
		return err
	}
	s.ReconnectNext()
	if err := run(); err == nil || channels.IsHopeless(err) {
		t.Error(err)
	}
	s.CloseNext(4014)
	if err := run(); !channels.IsHopeless(err) || strings.Contains(err.Error(), token) {
		t.Error(err)
	}
	s.CloseNext(4000)
	if err := run(); err == nil || channels.IsHopeless(err) {
		t.Error(err)
	}
	if n, _ := s.Sessions(); n != 3 {
		t.Errorf("%d identifies", n)
	}
}
