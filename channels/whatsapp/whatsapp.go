// Package whatsapp is the adapter of the WhatsApp Cloud API (§20): messages come in by signed calls of Meta, and go out by the Graph API,
// https://developers.facebook.com/docs/whatsapp/cloud-api. There is no connection to keep.
package whatsapp

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"troupe/actors/agent"
	"troupe/channels"
)

const (
	maxText   = 4096 // https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages#text-object
	maxAnswer = 1 << 20
	// answerTimeout bounds an answer that is given while WhatsApp waits for the end of its call.
	answerTimeout = 3 * time.Second
	// BaseURL is where the Graph API is, Version the one that is used where an agent names none.
	BaseURL = "https://graph.facebook.com"
	Version = "v23.0"
)

// Credentials of one business number, as the agent's configuration holds them.
type Credentials struct {
	Phone       string `json:"phone_number_id"`
	AccessToken string `json:"access_token"`
	AppSecret   string `json:"app_secret"`
	VerifyToken string `json:"verify_token"`
	APIVersion  string `json:"api_version"`
}

// Read reads them.
func Read(c channels.Credentials) (out Credentials, err error) {
	err = json.Unmarshal([]byte(c.Reveal()), &out)
	return out, err
}

// Adapter is the channels.Network of WhatsApp.
type Adapter struct {
	Base   string
	Client *http.Client
}

// markup is WhatsApp's, https://faq.whatsapp.com/539178204879377.
var markup = channels.Markup{
	Bold: [2]string{"*", "*"}, Italic: [2]string{"_", "_"}, Strike: [2]string{"~", "~"}, Literal: [2]string{"`", "`"}, QuoteLine: "> ", Bullet: "• ", Indent: "  ",
	Block: func(_, code string) string { return "```\n" + code + "\n```" },
	Link: func(text, url string) string {
		if text == url || text == "" {
			return url
		}
		return text + " (" + url + ")"
	},
}

// Render implements channels.Network.
func (a *Adapter) Render(markdown string) (out []string) {
	for _, p := range channels.Split(markdown, maxText, func(s string) int { return channels.Units(markup.Convert(s)) }) {
		if text := markup.Convert(p.Text()); strings.TrimSpace(text) != "" {
			out = append(out, text)
		}
	}
	return out
}

// Errors of the Cloud API that say more than their status, https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes.
var fates = map[int]channels.Fate{
	131047: channels.Closed, 470: channels.Closed, // more than 24 hours since the customer last wrote
	130429: channels.Later, 131056: channels.Later, 131048: channels.Later, 80007: channels.Later, 4: channels.Later, // limits
	131000: channels.Later, 131016: channels.Later, 133004: channels.Later, 2: channels.Later, 1: channels.Later, // failures of theirs
	190: channels.Later, 0: channels.Later, 10: channels.Later, // the token: it may be replaced
}

// Send implements channels.Network. The key comes back with receipts.
func (a *Adapter) Send(ctx context.Context, c channels.Credentials, to channels.Address, text, key string) error {
	cred, err := Read(c)
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the credentials cannot be read")
	}
	version := cred.APIVersion
	if version == "" {
		version = Version
	}
	body, err := json.Marshal(map[string]any{"messaging_product": "whatsapp", "recipient_type": "individual", "to": to.User, "type": "text", "text": map[string]any{"body": text},
		"biz_opaque_callback_data": key})
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the request cannot be encoded")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Base+"/"+version+"/"+cred.Phone+"/messages", bytes.NewReader(body))
	if err != nil {
		return channels.Failed(channels.Refused, 0, "the number cannot be part of an address")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+cred.AccessToken)
	res, err := a.Client.Do(req)
	if err != nil {
		if f, after := channels.FateOf(err); f != 0 {
			return channels.Failed(f, after, "WhatsApp cannot be reached")
		}
		return errors.New("the connection to WhatsApp failed")
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode/100 == 2 {
		return nil
	}
	var got struct {
		Error struct {
			Message string `json:"message"`
			Code    *int   `json:"code"`
		} `json:"error"`
	}
	if err == nil {
		_ = json.Unmarshal(raw, &got) // what is no JSON has no code
	}
	seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	after := time.Duration(max(seconds, 0)) * time.Second
	if got.Error.Code != nil {
		if f, known := fates[*got.Error.Code]; known {
			return channels.Failed(f, after, "WhatsApp answered %d, code %d", res.StatusCode, *got.Error.Code)
		}
	}
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 {
		return channels.Failed(channels.Later, after, "WhatsApp answered %d", res.StatusCode)
	}
	return channels.Failed(channels.Refused, 0, "WhatsApp answered %d", res.StatusCode)
}

// Signed says whether a call carries the app's signature over its body (CHAN-14).
func (c *Credentials) Signed(header string, body []byte) bool {
	given, err := hex.DecodeString(strings.TrimPrefix(header, "sha256="))
	if err != nil || !strings.HasPrefix(header, "sha256=") {
		return false
	}
	mac := hmac.New(sha256.New, []byte(c.AppSecret))
	mac.Write(body)
	return hmac.Equal(given, mac.Sum(nil))
}

// notification is the part of a call that is looked at.
type notification struct {
	Entry []struct {
		Changes []struct {
			Value struct {
				Metadata struct {
					Phone string `json:"phone_number_id"`
				} `json:"metadata"`
				Contacts []struct {
					ID      string `json:"wa_id"`
					Profile struct {
						Name string `json:"name"`
					} `json:"profile"`
				} `json:"contacts"`
				Messages []message `json:"messages"`
				Statuses []struct {
					Status string `json:"status"`
					Key    string `json:"biz_opaque_callback_data"`
					Errors []struct {
						Code int `json:"code"`
					} `json:"errors"`
				} `json:"statuses"`
			} `json:"value"`
		} `json:"changes"`
	} `json:"entry"`
}

type message struct {
	ID        string `json:"id"`
	From      string `json:"from"`
	Timestamp string `json:"timestamp"`
	Type      string `json:"type"`
	Text      struct {
		Body string `json:"body"`
	} `json:"text"`
	Image, Video, Audio, Document, Sticker *media
	Group                                  string `json:"group_id"`
}

type media struct {
	Caption string `json:"caption"`
	Name    string `json:"filename"`
}

// Receive takes everything that a verified call brings. Read is told of replies that were read, failed of those that
// did not arrive after all. Nothing of the call is acknowledged unless
// all of it is durable.
func (a *Adapter) Receive(ctx context.Context, c channels.Credentials, body []byte, take channels.Take, read func(agent.MessageID) error, failed func(agent.MessageID, string) error) error {
	cred, err := Read(c)
	if err != nil {
		return err
	}
	var n notification
	if err := json.Unmarshal(body, &n); err != nil {
		return nil // a shape that is not known will not become one
	}
	for _, entry := range n.Entry {
		for _, change := range entry.Changes {
			v := &change.Value
			if v.Metadata.Phone != cred.Phone {
				continue // another number of the same app
			}
			names := map[string]string{}
			for _, x := range v.Contacts {
				names[x.ID] = x.Profile.Name
			}
			for i := range v.Messages {
				m := &v.Messages[i]
				if m.Group != "" || m.From == "" {
					continue
				}
				seconds, _ := strconv.ParseInt(m.Timestamp, 10, 64)
				answer, err := take(ctx, channels.Event{ID: m.ID, At: time.Unix(seconds, 0), User: m.From, Name: names[m.From], Chat: m.From, Text: m.text()})
				if err != nil {
					return err
				}
				if answer != "" {
					call, cancel := context.WithTimeout(ctx, answerTimeout)
					_ = a.Send(call, c, channels.Address{User: m.From}, answer, "") // a hint that is lost comes with the next message
					cancel()
				}
			}
			for _, s := range v.Statuses {
				id, _, _ := strings.Cut(s.Key, ":")
				msg, ok := agent.ParseMessageID(id)
				var err error
				switch {
				case !ok:
				case s.Status == "read":
					err = read(msg)
				case s.Status == "failed": // it was taken, and not delivered
					reason := "channel_unreachable"
					if len(s.Errors) > 0 && fates[s.Errors[0].Code] == channels.Closed {
						reason = "channel_window_closed"
					}
					err = failed(msg, reason)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// text is the message with a line for what is no text (CHAN-5).
func (m *message) text() string {
	lines := []string{}
	if m.Text.Body != "" {
		lines = append(lines, m.Text.Body)
	}
	for _, x := range []struct {
		kind string
		m    *media
	}{{"image", m.Image}, {"video", m.Video}, {"audio", m.Audio}, {"document", m.Document}, {"sticker", m.Sticker}} {
		if x.m == nil {
			continue
		}
		if x.m.Caption != "" {
			lines = append(lines, x.m.Caption)
		}
		lines = append(lines, channels.Attachment(x.kind, x.m.Name))
	}
	if len(lines) == 0 && m.Type != "" && m.Type != "text" && m.Type != "reaction" {
		lines = append(lines, channels.Attachment(m.Type, ""))
	}
	return strings.Join(lines, "\n")
}
