// Package channelstest holds servers that speak the protocols of chat networks, as far as bots see them, on loopback. They are written from
// the networks' public documentation, and fail on purpose.
package channelstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Sent is a message that a bot sent.
type Sent struct {
	Chat string
	Text string
	Mark string // markup of the text, as the bot named it
	Key  string
}

// Telegram is a server of the Bot API: updates wait until an offset confirms them, one poll at a time (else 409), or go to a webhook.
type Telegram struct {
	URL   string
	mu    sync.Mutex
	t     testing.TB
	token string
	next  int64
	wait  []map[string]any // not confirmed
	sent  []Sent
	fail  []func(w http.ResponseWriter) // answers for the next calls of sendMessage
	hook  string
	key   string
	polls int
	stir  chan struct{}
	done  chan struct{}
	// Calls counts calls by method.
	calls map[string]int
}

// StartTelegram starts a server for one bot.
func StartTelegram(t testing.TB, token string) *Telegram {
	s := &Telegram{t: t, token: token, next: 1000, stir: make(chan struct{}, 1), done: make(chan struct{}), calls: map[string]int{}}
	srv := httptest.NewServer(s)
	s.URL = srv.URL
	t.Cleanup(func() { close(s.done); srv.CloseClientConnections(); srv.Close() })
	return s
}

// Say is a person who writes to the bot. It returns the update's number.
func (s *Telegram) Say(user int64, name, text string) int64 {
	return s.Update(map[string]any{"message": map[string]any{"message_id": 1, "date": time.Now().Unix(), "text": text,
		"from": map[string]any{"id": user, "is_bot": false, "first_name": name, "username": name}, "chat": map[string]any{"id": user, "type": "private"}}})
}

// Update adds an update of any shape.
func (s *Telegram) Update(u map[string]any) int64 {
	s.mu.Lock()
	s.next++
	id := s.next
	u["update_id"] = id
	hook, key := s.hook, s.key
	if hook == "" {
		s.wait = append(s.wait, u)
	}
	s.mu.Unlock()
	if hook != "" {
		s.Post(hook, key, u)
		return id
	}
	s.wake()
	return id
}

// Post calls the webhook, again and again until it answers with success.
func (s *Telegram) Post(hook, key string, u map[string]any) {
	body, err := json.Marshal(u)
	if err != nil {
		s.t.Error(err)
		return
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequest("POST", hook, strings.NewReader(string(body)))
		if err != nil {
			s.t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Telegram-Bot-Api-Secret-Token", key)
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == 200 {
				return
			}
		}
	}
	s.t.Errorf("the webhook %s does not take an update", hook)
}

func (s *Telegram) wake() {
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// FailNext makes coming calls of sendMessage fail with a status, a description, and a retry_after in seconds.
func (s *Telegram) FailNext(status int, description string, retryAfter int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, func(w http.ResponseWriter) {
		body := map[string]any{"ok": false, "error_code": status, "description": description}
		if retryAfter > 0 {
			body["parameters"] = map[string]any{"retry_after": retryAfter}
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	})
}

// CutNext takes the next message and breaks the connection before it answers.
func (s *Telegram) CutNext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, nil)
}

// Sent is what the bot sent.
func (s *Telegram) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sent(nil), s.sent...)
}

// Polled says whether the bot asks for updates at the moment.
func (s *Telegram) Polled() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.polls > 0 }

// Waiting is how many updates are not confirmed, Hook where they go to.
func (s *Telegram) Waiting() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.wait) }

// Hook is the webhook that the bot has set, with its secret token.
func (s *Telegram) Hook() (url, token string) { s.mu.Lock(); defer s.mu.Unlock(); return s.hook, s.key }

// Calls is how often a method was called.
func (s *Telegram) Calls(method string) int { s.mu.Lock(); defer s.mu.Unlock(); return s.calls[method] }

// ServeHTTP answers calls of the Bot API.
func (s *Telegram) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, method, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/bot"), "/")
	var in struct {
		Offset  int64  `json:"offset"`
		Timeout int    `json:"timeout"`
		Chat    any    `json:"chat_id"`
		Text    string `json:"text"`
		Mark    string `json:"parse_mode"`
		URL     string `json:"url"`
		Secret  string `json:"secret_token"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in) // empty for calls without parameters
	w.Header().Set("Content-Type", "application/json")
	s.mu.Lock()
	s.calls[method]++
	s.mu.Unlock()
	if !ok || token != s.token {
		s.refuse(w, 401, "Unauthorized")
		return
	}
	switch method {
	case "getUpdates":
		s.updates(w, r, in.Offset, time.Duration(in.Timeout)*time.Second)
	case "sendChatAction":
		s.result(w, true)
	case "setWebhook", "deleteWebhook":
		s.mu.Lock()
		s.hook, s.key = in.URL, in.Secret
		s.mu.Unlock()
		s.result(w, true)
	case "sendMessage":
		s.mu.Lock()
		defer s.mu.Unlock()
		var fail func(http.ResponseWriter)
		failing := len(s.fail) > 0
		if failing {
			fail, s.fail = s.fail[0], s.fail[1:]
		}
		if failing && fail != nil {
			fail(w)
			return
		}
		if n := len([]rune(in.Text)); n == 0 || n > 4096 {
			s.refuse(w, 400, "Bad Request: message is too long")
			return
		}
		chat := fmt.Sprint(in.Chat)
		if f, number := in.Chat.(float64); number {
			chat = fmt.Sprintf("%.0f", f)
		}
		s.sent = append(s.sent, Sent{Chat: chat, Text: in.Text, Mark: in.Mark})
		if failing {
			panic(http.ErrAbortHandler) // it was sent, and the bot does not learn that
		}
		s.result(w, map[string]any{"message_id": len(s.sent)})
	default:
		s.refuse(w, 404, "Not Found")
	}
}

func (s *Telegram) updates(w http.ResponseWriter, r *http.Request, offset int64, timeout time.Duration) {
	s.mu.Lock()
	if s.hook != "" || s.polls > 0 {
		s.mu.Unlock()
		s.refuse(w, 409, "Conflict: terminated by other getUpdates request")
		return
	}
	s.polls++
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.polls--; s.mu.Unlock() }()
	for end := time.After(timeout); ; {
		s.mu.Lock()
		for len(s.wait) > 0 && s.wait[0]["update_id"].(int64) < offset {
			s.wait = s.wait[1:]
		}
		out := append([]map[string]any{}, s.wait[:min(len(s.wait), 100)]...)
		s.mu.Unlock()
		if len(out) > 0 {
			s.result(w, out)
			return
		}
		select {
		case <-s.stir:
		case <-end:
			s.result(w, out)
			return
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	}
}

func (s *Telegram) result(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": v})
}

func (s *Telegram) refuse(w http.ResponseWriter, status int, why string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error_code": status, "description": why})
}
