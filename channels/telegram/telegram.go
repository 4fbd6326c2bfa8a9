// Package telegram is the adapter of Telegram bots (§20): long polling, or a webhook where the installation has a public URL.
//
// The Bot API is a few calls of JSON over HTTPS, https://core.telegram.org/bots/api. The token is part of every address, so no error of the
// transport leaves this room as it is.
package telegram

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"troupe/actors/agent"
	"troupe/channels"
)

// Limits of the Bot API.
const (
	maxText     = 4096 // UTF-16 units of a message, https://core.telegram.org/bots/api#sendmessage
	pollTimeout = 25 * time.Second
	callTimeout = 15 * time.Second
	maxAnswer   = 8 << 20
	retryPause  = time.Second
	recheck     = 5 * time.Minute // of a webhook's registration
)

// BaseURL is where the Bot API is.
const BaseURL = "https://api.telegram.org"

// Adapter is the channels.Network of Telegram.
type Adapter struct {
	Base   string // of the Bot API
	Client *http.Client
	// Public is the URL under which Telegram reaches this installation; "": bots ask for updates.
	Public string
	// Secret makes the secret token that Telegram sends back with every update of a bot.
	Secret func(bot string) string
}

// markup is Telegram's HTML, https://core.telegram.org/bots/api#html-style.
var markup = channels.Markup{
	Escape: func(s string) string { return escaper.Replace(s) },
	Bold:   [2]string{"<b>", "</b>"}, Italic: [2]string{"<i>", "</i>"}, Strike: [2]string{"<s>", "</s>"}, Literal: [2]string{"<code>", "</code>"},
	Quote: [2]string{"<blockquote>", "</blockquote>"}, Bullet: "• ", Indent: "  ",
	Block: func(language, code string) string {
		if language == "" {
			return "<pre>" + escaper.Replace(code) + "</pre>"
		}
		return `<pre><code class="language-` + html.EscapeString(language) + `">` + escaper.Replace(code) + "</code></pre>"
	},
	Link: func(text, url string) string { return `<a href="` + html.EscapeString(url) + `">` + text + "</a>" },
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

var tags = regexp.MustCompile(`<[^>]*>`)

// Send implements channels.Network.
func (a *Adapter) Send(ctx context.Context, c channels.Credentials, to channels.Address, text, _ string) error {
	body := map[string]any{"chat_id": to.Chat, "text": text, "parse_mode": "HTML"}
	err := a.call(ctx, c, "sendMessage", body, nil)
	if f, _ := channels.FateOf(err); f == channels.Unmarked { // nothing was sent (CHAN-8)
		body["text"] = html.UnescapeString(tags.ReplaceAllString(text, ""))
		delete(body, "parse_mode")
		err = a.call(ctx, c, "sendMessage", body, nil)
	}
	return err
}

// Typing implements channels.Typer.
func (a *Adapter) Typing(ctx context.Context, c channels.Credentials, to channels.Address) error {
	return a.call(ctx, c, "sendChatAction", map[string]any{"chat_id": to.Chat, "action": "typing"}, nil)
}

// answer is what every call of the Bot API answers.
type answer struct {
	OK          bool            `json:"ok"`
	Result      json.RawMessage `json:"result"`
	Code        int             `json:"error_code"`
	Description string          `json:"description"`
	Parameters  struct {
		RetryAfter int64 `json:"retry_after"`
	} `json:"parameters"`
}

// call makes one call. Errors: *channels.Error; any other where nobody knows what became of it.
func (a *Adapter) call(ctx context.Context, c channels.Credentials, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the request cannot be encoded")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Base+"/bot"+c.Reveal()+"/"+method, bytes.NewReader(body))
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the token cannot be part of an address")
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := a.Client.Do(req)
	if err != nil {
		if f, after := channels.FateOf(err); f != 0 {
			return channels.Failed(f, after, "Telegram cannot be reached")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.New("the connection to Telegram failed") // the cause prints the token
	}
	defer func() { _ = res.Body.Close() }()
	var got answer
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(raw, &got)
	}
	switch code := max(got.Code, res.StatusCode); {
	case err == nil && got.OK && out == nil:
		return nil
	case err == nil && got.OK:
		return json.Unmarshal(got.Result, out)
	case code == http.StatusTooManyRequests:
		return channels.Failed(channels.Later, time.Duration(got.Parameters.RetryAfter)*time.Second, "Telegram limits this bot")
	case code >= 500:
		return channels.Failed(channels.Later, 0, "Telegram answered %d", code)
	case code == http.StatusUnauthorized, code == http.StatusNotFound, code == http.StatusConflict:
		return channels.Failed(channels.Later, 0, "Telegram answered %d: %s", code, got.Description)
	case strings.Contains(got.Description, "can't parse entities"):
		return channels.Failed(channels.Unmarked, 0, "Telegram refused the markup")
	case code >= 400:
		return channels.Failed(channels.Refused, 0, "Telegram answered %d: %s", code, got.Description)
	}
	return errors.New("the answer of Telegram cannot be read")
}

// Connect implements channels.Connector.
func (a *Adapter) Connect(ctx context.Context, c channels.Credentials, b channels.Bot, take channels.Take) error {
	if a.Public != "" {
		return a.register(ctx, c, b)
	}
	short := func(method string, in any) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return a.call(ctx, c, method, in, nil)
	}
	if err := short("deleteWebhook", map[string]any{"drop_pending_updates": false}); err != nil {
		return err
	}
	for offset := int64(0); ctx.Err() == nil; {
		var updates []json.RawMessage
		began := time.Now()
		poll, cancel := context.WithTimeout(ctx, pollTimeout+callTimeout)
		err := a.call(poll, c, "getUpdates", map[string]any{"offset": offset, "timeout": int(pollTimeout / time.Second), "allowed_updates": []string{"message"}}, &updates)
		cancel()
		if err != nil {
			return err
		}
		if len(updates) == 0 && time.Since(began) < retryPause { // a server that does not wait must not be asked all the time
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
			}
		}
		for _, raw := range updates {
			id, err := a.Update(ctx, c, raw, take)
			if err != nil { // it comes again, and what is behind it with it
				select {
				case <-ctx.Done():
				case <-time.After(retryPause):
				}
				break
			}
			offset = id + 1
		}
	}
	return nil
}

// register has Telegram call this installation, and looks now and then whether it still will.
func (a *Adapter) register(ctx context.Context, c channels.Credentials, b channels.Bot) error {
	at := a.Public + "/v1/webhooks/telegram/" + string(b.Agent)
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := a.call(call, c, "setWebhook", map[string]any{"url": at, "secret_token": a.Secret(b.ID), "allowed_updates": []string{"message"}}, nil)
		cancel()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(recheck):
		}
	}
}

// update is the part of an update that is looked at.
type update struct {
	ID      int64    `json:"update_id"`
	Message *message `json:"message"`
}

type message struct {
	Date int64 `json:"date"`
	From *struct {
		ID    int64  `json:"id"`
		Bot   bool   `json:"is_bot"`
		First string `json:"first_name"`
		User  string `json:"username"`
	} `json:"from"`
	Chat struct {
		ID   int64  `json:"id"`
		Type string `json:"type"`
	} `json:"chat"`
	Text     string          `json:"text"`
	Caption  string          `json:"caption"`
	Photo    json.RawMessage `json:"photo"`
	Sticker  json.RawMessage `json:"sticker"`
	Voice    json.RawMessage `json:"voice"`
	Note     json.RawMessage `json:"video_note"`
	Location json.RawMessage `json:"location"`
	Contact  json.RawMessage `json:"contact"`
	Poll     json.RawMessage `json:"poll"`
	Document *named          `json:"document"`
	Audio    *named          `json:"audio"`
	Video    *named          `json:"video"`
}

type named struct {
	Name string `json:"file_name"`
}

// Update takes one update: from polling, or from Telegram's call. It returns the update's number.
func (a *Adapter) Update(ctx context.Context, c channels.Credentials, raw []byte, take channels.Take) (int64, error) {
	var u update
	if err := json.Unmarshal(raw, &u); err != nil {
		_ = json.Unmarshal(raw, &struct {
			ID *int64 `json:"update_id"`
		}{&u.ID})
		return u.ID, nil // a shape that is not known must not hold up the others
	}
	m := u.Message
	if m == nil || m.From == nil || m.From.Bot || m.Chat.Type != "private" { // CHAN-4
		return u.ID, nil
	}
	e := channels.Event{ID: fmt.Sprint(u.ID), At: time.Unix(m.Date, 0), User: fmt.Sprint(m.From.ID), Name: m.From.User, Chat: fmt.Sprint(m.Chat.ID), Text: m.text()}
	if e.Name == "" {
		e.Name = m.From.First
	}
	answer, err := take(ctx, e)
	if err != nil {
		return u.ID, err
	}
	if answer != "" {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_ = a.call(call, c, "sendMessage", map[string]any{"chat_id": m.Chat.ID, "text": answer}, nil) // a hint that is lost comes with the next message
	}
	return u.ID, nil
}

// text is the message with a line for everything that is no text (CHAN-5).
func (m *message) text() string {
	lines := []string{m.Text, m.Caption}
	for _, x := range []struct {
		kind string
		raw  json.RawMessage
	}{{"photo", m.Photo}, {"sticker", m.Sticker}, {"voice", m.Voice}, {"video note", m.Note}, {"location", m.Location}, {"contact", m.Contact}, {"poll", m.Poll}} {
		if len(x.raw) > 0 && string(x.raw) != "null" {
			lines = append(lines, channels.Attachment(x.kind, ""))
		}
	}
	for _, x := range []struct {
		kind string
		n    *named
	}{{"document", m.Document}, {"audio", m.Audio}, {"video", m.Video}} {
		if x.n != nil {
			lines = append(lines, channels.Attachment(x.kind, x.n.Name))
		}
	}
	out := lines[:0]
	for _, l := range lines {
		if l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// Channel is which network this is.
func (a *Adapter) Channel() agent.Channel { return agent.ChannelTelegram }
