// Package slack is the adapter of Slack apps (§20): direct messages by Socket Mode and by the Events API, replies by the Web API, with slack-go.
package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"

	"troupe/channels"
)

const (
	maxText      = 3900             // CHAN-8; https://docs.slack.dev/reference/methods/chat.postMessage names 4000
	pingInterval = 30 * time.Second // Slack pings every few seconds
	callTimeout  = 15 * time.Second
	nameTimeout  = 2 * time.Second // Slack waits three for the answer to an event
	maxNames     = 4096            // people whose names are remembered
	maxBusy      = 16              // senders whose events are being stored at once
	maxQueued    = 512
	gapPage      = 200
	maxGap       = 50          // pages of one conversation
	gapAfter     = time.Minute // without a connection; Slack sends again what is younger: https://docs.slack.dev/apis/events-api#retries
	retryPause   = time.Second
)

// Credentials of an app, as the agent's configuration holds them.
type Credentials struct {
	BotToken      string `json:"bot_token"`
	SigningSecret string `json:"signing_secret"`
	AppToken      string `json:"app_token"`
}

// Read reads them.
func Read(c channels.Credentials) (out Credentials, err error) {
	err = json.Unmarshal([]byte(c.Reveal()), &out)
	return out, err
}

// Adapter is the channels.Network of Slack.
type Adapter struct {
	Base   string // of the Web API, with a slash at the end; "": Slack's
	Client *http.Client

	// Conversations lists those of a bot, so that a gap can be read.
	Conversations func(ctx context.Context, bot string) ([]channels.Conversation, error)
	Log           *slog.Logger

	mu    sync.Mutex
	names map[string]string
}

// markup is mrkdwn, https://docs.slack.dev/messaging/formatting-message-text.
var markup = channels.Markup{
	Escape: func(s string) string { return escaper.Replace(s) },
	Bold:   [2]string{"*", "*"}, Italic: [2]string{"_", "_"}, Strike: [2]string{"~", "~"}, Literal: [2]string{"`", "`"}, QuoteLine: "> ", Bullet: "• ", Indent: "    ",
	Block: func(_, code string) string { return "```\n" + escaper.Replace(code) + "\n```" },
	Link: func(text, url string) string {
		url = strings.NewReplacer("|", "%7C", ">", "%3E", "<", "%3C").Replace(url)
		if text == "" {
			return "<" + url + ">"
		}
		return "<" + url + "|" + text + ">"
	},
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// Render implements channels.Network.
func (a *Adapter) Render(markdown string) (out []string) {
	for _, p := range channels.Split(markdown, maxText, func(s string) int { return channels.Units(markup.Convert(s)) }) {
		if text := markup.Convert(p.Text()); strings.TrimSpace(text) != "" {
			out = append(out, text)
		}
	}
	return out
}

func (a *Adapter) api(c Credentials) *slack.Client {
	opts := []slack.Option{slack.OptionHTTPClient(a.Client), slack.OptionAppLevelToken(c.AppToken)}
	if a.Base != "" {
		opts = append(opts, slack.OptionAPIURL(a.Base))
	}
	return slack.New(c.BotToken, opts...)
}

// Send implements channels.Network.
func (a *Adapter) Send(ctx context.Context, c channels.Credentials, to channels.Address, text, _ string) error {
	cred, err := Read(c)
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the credentials cannot be read")
	}
	chat := to.Chat
	if chat == "" {
		chat = to.User // Slack opens the conversation
	}
	_, _, err = a.api(cred).PostMessageContext(ctx, chat, slack.MsgOptionText(text, false))
	if err == nil {
		return nil
	}
	var limited *slack.RateLimitedError
	var refused slack.SlackErrorResponse
	var status slack.StatusCodeError
	switch {
	case errors.As(err, &limited):
		return channels.Failed(channels.Later, limited.RetryAfter, "Slack limits this app")
	case errors.As(err, &refused):
		switch refused.Err {
		case "internal_error", "fatal_error": // "some aspect of the operation may have succeeded"
			return errors.New("Slack answered " + refused.Err)
		case "ratelimited", "service_unavailable", "team_added_to_org", "invalid_auth", "not_authed", "token_expired", "account_inactive", "token_revoked":
			return channels.Failed(channels.Later, 0, "Slack answered %s", refused.Err)
		}
		return channels.Failed(channels.Refused, 0, "Slack answered %s", refused.Err)
	case errors.As(err, &status) && (status.Code >= 500 || status.Code == http.StatusTooManyRequests || status.Code == http.StatusRequestTimeout):
		return channels.Failed(channels.Later, 0, "Slack answered %d", status.Code)
	case errors.As(err, &status):
		return channels.Failed(channels.Refused, 0, "Slack answered %d", status.Code)
	}
	if f, after := channels.FateOf(err); f != 0 {
		return channels.Failed(f, after, "Slack cannot be reached")
	}
	return errors.New("the connection to Slack failed")
}

// Connect implements channels.Connector: Socket Mode. An event is acknowledged when it is stored; Slack sends others again, for some minutes.
// What is older is read from the conversations of linked accounts (CHAN-13).
func (a *Adapter) Connect(ctx context.Context, c channels.Credentials, b channels.Bot, take channels.Take) error {
	cred, err := Read(c)
	if err != nil {
		return errors.New("the credentials cannot be read")
	}
	ctx, cancel := context.WithCancel(ctx)
	lanes := channels.NewLanes(maxBusy, maxQueued, a.Log)
	defer lanes.Wait()
	defer cancel()
	sm := socketmode.New(a.api(cred), socketmode.OptionPingInterval(pingInterval))
	ended := make(chan struct{})
	go func() { // ends with ctx, or when Slack refuses the app
		defer close(ended)
		_ = sm.RunContext(ctx)
	}()
	defer func() { cancel(); <-ended }()
	var there time.Time // when the last connection was known to live
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("the connection to Slack ended") // the cause may hold the address, which is a secret
		case e := <-sm.Events:
			switch {
			case e.Type == socketmode.EventTypeHello:
				if time.Since(there) > gapAfter {
					lanes.Gaps(ctx, b.ID, a.Conversations, a.Log, func(conv channels.Conversation) { a.gap(ctx, c, cred, conv, take) })
				}
			case e.Type == socketmode.EventTypeConnectionError: // the library would wait longer and longer
				return errors.New("the connection to Slack failed")
			case e.Type == socketmode.EventTypeEventsAPI && e.Request != nil:
				there = time.Now()
				lanes.Add(ctx, sender(e.Request.Payload), func() {
					for ctx.Err() == nil && a.Receive(ctx, c, e.Request.Payload, take) != nil {
						channels.Pause(ctx, retryPause) // what the sender wrote after it must not overtake it
					}
					if ctx.Err() == nil {
						ack, done := context.WithTimeout(ctx, callTimeout)
						_ = sm.AckCtx(ack, e.Request.EnvelopeID, nil) // else it comes again, and is known by its id
						done()
					}
				})
			}
		}
	}
}

func sender(body []byte) string {
	var e envelope
	_ = json.Unmarshal(body, &e) // what cannot be read has no sender
	return e.Event.User
}

// gap reads one conversation from its newest taken message on.
func (a *Adapter) gap(ctx context.Context, c channels.Credentials, cred Credentials, conv channels.Conversation, take channels.Take) {
	if conv.Chat == "" {
		return // the binding has moved to this app, which has not met its person yet
	}
	since := conv.Since.Add(-channels.Skew) // what was taken may be of an earlier binding
	after := fmt.Sprintf("%d.%06d", since.Unix(), since.Nanosecond()/1000)
	for _, id := range conv.Taken {
		if chat, ts, ok := strings.Cut(id, "/"); ok && chat == conv.Chat {
			after = max(after, ts) // as many digits until the year 2286
		}
	}
	var found []slack.Message
	p := slack.GetConversationHistoryParameters{ChannelID: conv.Chat, Oldest: after, Limit: gapPage}
	for pages, tries := 0, 1; pages < maxGap; tries++ {
		if ctx.Err() != nil {
			return
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		got, err := a.api(cred).GetConversationHistoryContext(call, &p)
		cancel()
		var limited *slack.RateLimitedError
		var refused slack.SlackErrorResponse
		switch {
		case errors.As(err, &refused) && !passing[refused.Err]:
			a.Log.Warn("a conversation cannot be read", "user", conv.User, "err", refused.Err)
			return
		case errors.As(err, &limited):
			channels.Pause(ctx, limited.RetryAfter)
			continue
		case err != nil:
			a.Log.Warn("a conversation could not be read", "user", conv.User, "again_in", min(time.Duration(tries)*retryPause, time.Minute))
			channels.Pause(ctx, min(time.Duration(tries)*retryPause, time.Minute))
			continue
		}
		found, tries, pages = append(found, got.Messages...), 0, pages+1
		if p.Cursor = got.ResponseMetaData.NextCursor; !got.HasMore || p.Cursor == "" {
			break
		}
	}
	slices.SortFunc(found, func(a, b slack.Message) int { return strings.Compare(a.Timestamp, b.Timestamp) })
	for i := range found {
		m := &found[i]
		if m.Timestamp <= after {
			continue
		}
		e := event{Type: m.Type, Subtype: m.SubType, Kind: "im", Channel: conv.Chat, User: m.User, Bot: m.BotID, Text: m.Text, TS: m.Timestamp, Thread: m.ThreadTimestamp}
		for _, f := range m.Files {
			e.Files = append(e.Files, file{f.Name})
		}
		for ctx.Err() == nil && a.one(ctx, c, conv.Team, "", 0, &e, take) != nil {
			channels.Pause(ctx, retryPause)
		}
	}
}

// passing are errors of the Web API that pass by themselves.
var passing = map[string]bool{"ratelimited": true, "internal_error": true, "fatal_error": true, "service_unavailable": true}

// envelope is the part of an event that is looked at.
type envelope struct {
	Type      string `json:"type"`
	Challenge string `json:"challenge"`
	Team      string `json:"team_id"`
	ID        string `json:"event_id"`
	Time      int64  `json:"event_time"`
	Event     event  `json:"event"`
}

type event struct {
	Type    string `json:"type"`
	Subtype string `json:"subtype"`
	Kind    string `json:"channel_type"`
	Channel string `json:"channel"`
	User    string `json:"user"`
	Bot     string `json:"bot_id"`
	Text    string `json:"text"`
	TS      string `json:"ts"`
	Thread  string `json:"thread_ts"`
	Files   []file `json:"files"`
}

type file struct {
	Name string `json:"name"`
}

// Challenge is what a verification of the address asks for; "" for events.
func Challenge(body []byte) string {
	var e envelope
	if json.Unmarshal(body, &e) != nil || e.Type != "url_verification" {
		return ""
	}
	return e.Challenge
}

// Genuine says whether a call carries the app's signature, not older than five minutes (CHAN-14).
func Genuine(c channels.Credentials, header func(name string) string, body []byte) bool {
	cred, err := Read(c)
	if err != nil {
		return false
	}
	h := http.Header{}
	for _, name := range []string{"X-Slack-Signature", "X-Slack-Request-Timestamp"} {
		h.Set(name, header(name))
	}
	v, err := slack.NewSecretsVerifier(h, cred.SigningSecret)
	if err != nil {
		return false
	}
	_, _ = v.Write(body) // a hash takes everything
	return v.Ensure() == nil
}

// Receive takes one event: from Socket Mode, or from Slack's call.
func (a *Adapter) Receive(ctx context.Context, c channels.Credentials, body []byte, take channels.Take) error {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return nil // a shape that is not known will not become one
	}
	if e.Type != "event_callback" {
		return nil
	}
	return a.one(ctx, c, e.Team, e.ID, e.Time, &e.Event, take)
}

// one takes one message. It is known by its conversation and instant, which the history has as well; id and at are those of an event without.
func (a *Adapter) one(ctx context.Context, c channels.Credentials, team, id string, at int64, m *event, take channels.Take) error {
	if m.Type != "message" || m.Kind != "im" || m.User == "" || m.Bot != "" || m.Subtype != "" && m.Subtype != "file_share" || m.Thread != "" && m.Thread != m.TS { // CHAN-4
		return nil
	}
	text := html.UnescapeString(m.Text)
	for _, f := range m.Files {
		text = strings.TrimPrefix(text+"\n"+channels.Attachment("file", f.Name), "\n")
	}
	if m.TS != "" {
		id = m.Channel + "/" + m.TS
		seconds, _, _ := strings.Cut(m.TS, ".")
		at, _ = strconv.ParseInt(seconds, 10, 64)
	}
	answer, err := take(ctx, channels.Event{ID: id, At: time.Unix(at, 0), User: m.User, Name: a.name(ctx, c, team, m.User), Team: team, Chat: m.Channel, Text: text})
	if err != nil {
		return err
	}
	if answer != "" {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_ = a.Send(call, c, channels.Address{Chat: m.Channel}, escaper.Replace(answer), "") // a hint that is lost comes with the next message
	}
	return nil
}

// name is how Slack shows a person; the id where it does not say.
func (a *Adapter) name(ctx context.Context, c channels.Credentials, team, user string) string {
	key := team + "/" + user
	a.mu.Lock()
	known := a.names[key]
	a.mu.Unlock()
	if known != "" {
		return known
	}
	cred, err := Read(c)
	if err != nil {
		return user
	}
	call, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	got, err := a.api(cred).GetUserInfoContext(call, user)
	if err != nil && ctx.Err() != nil {
		return user
	}
	if err != nil {
		got = &slack.User{} // asked again when the names are forgotten
	}
	for _, n := range []string{got.Profile.DisplayName, got.RealName, got.Name, user} {
		if n != "" {
			known = n
			break
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.names == nil || len(a.names) >= maxNames {
		a.names = map[string]string{}
	}
	a.names[key] = known
	return known
}
