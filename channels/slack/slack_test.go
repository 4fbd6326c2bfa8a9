package slack

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

var cred = agent.NewSecret(`{"bot_token":"xoxb-1","app_token":"xapp-1","signing_secret":"s"}`)

// inbox knows events by their ids, as that of an agent does.
type inbox struct {
	mu   sync.Mutex
	ids  []string
	text []string
}

func (b *inbox) take(_ context.Context, e channels.Event) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.ids, e.ID) {
		b.ids, b.text = append(b.ids, e.ID), append(b.text, e.Text)
	}
	return "", nil
}

func (b *inbox) texts() string { b.mu.Lock(); defer b.mu.Unlock(); return strings.Join(b.text, ",") }

func (b *inbox) last() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ids) == 0 {
		return nil
	}
	return b.ids[len(b.ids)-1:]
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func adapter(s *channelstest.Slack) *Adapter {
	return &Adapter{Base: s.URL, Client: &http.Client{Timeout: 30 * time.Second}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// TestCHAN_13_WhatSlackGaveUpIsRead: Slack sends an event again for some minutes only.
func TestCHAN_13_WhatSlackGaveUpIsRead(t *testing.T) {
	s := channelstest.StartSlack(t, "xoxb-1", "xapp-1", "s")
	a, b, since := adapter(s), &inbox{}, time.Now()
	a.Conversations = func(context.Context, string) ([]channels.Conversation, error) {
		return []channels.Conversation{{User: "U7", Chat: "DU7", Since: since, Taken: b.last()}, {User: "U8", Since: since}}, nil
	}
	run := func(during func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Connect(ctx, cred, channels.Bot{ID: "b"}, b.take) }()
		during()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Drop()
	}
	run(func() {
		until(t, "the app is there", s.Connected)
		s.Say("U7", "one")
		until(t, "it is taken", func() bool { return b.texts() == "one" && s.Unacknowledged() == 0 })
	})
	for _, text := range []string{"two", "three", "four"} {
		s.Miss("U7", text)
	}
	s.FailReads(1)
	run(func() {
		until(t, "the app is there", s.Connected)
		s.Say("U7", "five")
		until(t, "all is taken in order", func() bool { return b.texts() == "one,two,three,four,five" && s.Unacknowledged() == 0 })
	})
	event := s.Event("EvThread", "U7", "in a thread")
	event["event"].(map[string]any)["thread_ts"] = "1.0"
	run(func() {
		s.Dispatch(event)
		until(t, "it is acknowledged", func() bool { return s.Unacknowledged() == 0 })
	})
	if got := b.texts(); got != "one,two,three,four,five" {
		t.Errorf("CHAN-4: %s", got)
	}
}

// TestCHAN_10_WhatAnErrorOfSlackMeans: what may have been sent is not sent again.
func TestCHAN_10_WhatAnErrorOfSlackMeans(t *testing.T) {
	s := channelstest.StartSlack(t, "xoxb-1", "xapp-1", "s")
	a := adapter(s)
	for _, tt := range []struct {
		status, after int
		code          string
		fate          channels.Fate
		wait          time.Duration
	}{
		{429, 2, "ratelimited", channels.Later, 2 * time.Second},
		{429, 0, "ratelimited", channels.Later, 0},
		{503, 0, "", channels.Later, 0},
		{200, 0, "internal_error", 0, 0},
		{200, 0, "fatal_error", 0, 0},
		{200, 0, "channel_not_found", channels.Refused, 0},
		{200, 0, "token_revoked", channels.Later, 0},
	} {
		s.FailNext(tt.status, tt.after, tt.code)
		err := a.Send(t.Context(), cred, channels.Address{User: "U7"}, "hello", "")
		if f, after := channels.FateOf(err); err == nil || f != tt.fate || after != tt.wait {
			t.Errorf("%+v: %v, %v after %v", tt, err, f, after)
		}
	}
	if err := a.Send(t.Context(), agent.NewSecret("{"), channels.Address{User: "U7"}, "hello", ""); !errors.As(err, new(*channels.Error)) {
		t.Error(err)
	}
}
