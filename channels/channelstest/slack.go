package channelstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Slack is a server of the Web API, Socket Mode and the Events API for one app. An envelope that is not acknowledged in time comes again.
type Slack struct {
	URL    string // of the Web API
	Secret string // that signs calls
	t      testing.TB
	bot    string
	app    string
	ws     string
	mu     sync.Mutex
	conn   *websocket.Conn
	open   map[string]map[string]any // envelopes that are not acknowledged
	seq    int
	last   int64 // microseconds
	sent   []Sent
	fail   []func(w http.ResponseWriter)
	opened int
	chats  map[string][]map[string]any

	failReads int
}

// StartSlack starts a server.
func StartSlack(t testing.TB, bot, app, secret string) *Slack {
	s := &Slack{t: t, bot: bot, app: app, Secret: secret, open: map[string]map[string]any{}, chats: map[string][]map[string]any{}}
	srv := httptest.NewServer(s)
	s.URL, s.ws = srv.URL+"/api/", "ws"+strings.TrimPrefix(srv.URL, "http")+"/link"
	t.Cleanup(func() { s.Drop(); srv.CloseClientConnections(); srv.Close() })
	return s
}

// Event is a message in a conversation with the app.
func (s *Slack) Event(id, user, text string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.last = max(s.last+1, time.Now().UnixMicro()) // an instant is a message's name
	now := time.UnixMicro(s.last)
	m := map[string]any{"type": "message", "channel_type": "im", "channel": "D" + user, "user": user, "text": text, "ts": fmt.Sprintf("%d.%06d", now.Unix(), now.Nanosecond()/1000)}
	s.chats["D"+user] = append(s.chats["D"+user], m)
	return map[string]any{"type": "event_callback", "team_id": "T1", "event_id": id, "event_time": now.Unix(), "event": m}
}

// Miss is a message whose event Slack has given up.
func (s *Slack) Miss(user, text string) { s.Event("EvMissed", user, text) }

// FailReads makes the next n readings of a conversation fail.
func (s *Slack) FailReads(n int) { s.mu.Lock(); defer s.mu.Unlock(); s.failReads = n }

func (s *Slack) history(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failReads > 0 {
		s.failReads--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var found []map[string]any
	for _, m := range slices.Backward(s.chats[r.FormValue("channel")]) {
		if ts, _ := m["ts"].(string); ts > r.FormValue("oldest") {
			found = append(found, m)
		}
	}
	from, _ := strconv.Atoi(r.FormValue("cursor"))
	const page = 2 // Slack may give less than is asked for
	end := min(from+page, len(found))
	out := map[string]any{"ok": true, "messages": found[min(from, end):end], "has_more": end < len(found)}
	if end < len(found) {
		out["response_metadata"] = map[string]any{"next_cursor": strconv.Itoa(end)}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// Say sends an event by Socket Mode.
func (s *Slack) Say(user, text string) {
	s.mu.Lock()
	s.seq++
	id := fmt.Sprint("Ev", s.seq)
	s.mu.Unlock()
	s.Dispatch(s.Event(id, user, text))
}

// Dispatch sends a payload by Socket Mode.
func (s *Slack) Dispatch(payload map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	e := map[string]any{"type": "events_api", "envelope_id": fmt.Sprint("env-", s.seq), "accepts_response_payload": false, "payload": payload}
	s.open[e["envelope_id"].(string)] = e
	if s.conn != nil {
		_ = s.conn.WriteJSON(e)
	}
}

// Unacknowledged is how many envelopes are open.
func (s *Slack) Unacknowledged() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.open) }

// Connected says whether the app is there.
func (s *Slack) Connected() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.conn != nil }

// Drop cuts the connection; Refresh asks the app to make a new one, as Slack does every few hours.
func (s *Slack) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// Refresh asks for a new connection.
func (s *Slack) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.WriteJSON(map[string]any{"type": "disconnect", "reason": "refresh_requested"})
	}
}

// FailNext makes a coming message fail: a status, a Retry-After in seconds, or an error of the Web API.
func (s *Slack) FailNext(status, after int, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, func(w http.ResponseWriter) {
		if after > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(after))
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error": code})
	})
}

// Sent is what the app sent.
func (s *Slack) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sent(nil), s.sent...)
}

// Post calls an address of the Events API, signed at an instant, and returns status and body.
func (s *Slack) Post(hook string, payload map[string]any, at time.Time) (int, string) {
	body, err := json.Marshal(payload)
	if err != nil {
		s.t.Error(err)
		return 0, ""
	}
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, []byte(s.Secret))
	mac.Write([]byte("v0:" + stamp + ":" + string(body)))
	req, err := http.NewRequest("POST", hook, strings.NewReader(string(body)))
	if err != nil {
		s.t.Error(err)
		return 0, ""
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Slack-Request-Timestamp", stamp)
	req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	var out strings.Builder
	_, _ = fmt.Fprint(&out, decodeAny(res))
	return res.StatusCode, out.String()
}

func decodeAny(res *http.Response) (v any) {
	_ = json.NewDecoder(res.Body).Decode(&v)
	return v
}

// ServeHTTP answers the Web API and takes the socket.
func (s *Slack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/link") {
		s.socket(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = r.ParseForm()
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		token = r.FormValue("token")
	}
	answer := func(v map[string]any) { _ = json.NewEncoder(w).Encode(v) }
	method := strings.TrimPrefix(r.URL.Path, "/api/")
	switch {
	case method == "apps.connections.open" && token == s.app:
		answer(map[string]any{"ok": true, "url": s.ws + "/?ticket=1"})
	case token != s.bot:
		answer(map[string]any{"ok": false, "error": "invalid_auth"})
	case method == "users.info":
		answer(map[string]any{"ok": true, "user": map[string]any{"id": r.FormValue("user"), "name": "ann", "profile": map[string]any{"display_name": "Ann"}}})
	case method == "conversations.history":
		s.history(w, r)
	case method == "chat.postMessage":
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.fail) > 0 {
			fail := s.fail[0]
			s.fail = s.fail[1:]
			fail(w)
			return
		}
		s.sent = append(s.sent, Sent{Chat: r.FormValue("channel"), Text: r.FormValue("text"), Mark: r.FormValue("mrkdwn")})
		answer(map[string]any{"ok": true, "channel": r.FormValue("channel"), "ts": fmt.Sprint(len(s.sent), ".0")})
	default:
		answer(map[string]any{"ok": false, "error": "unknown_method"})
	}
}

func (s *Slack) socket(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.opened++
	s.conn = c
	_ = c.WriteJSON(map[string]any{"type": "hello", "num_connections": 1, "connection_info": map[string]any{"app_id": "A1"}, "debug_info": map[string]any{}})
	for _, e := range s.open { // what the former connection did not acknowledge
		_ = c.WriteJSON(e)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { // pings, and what is not acknowledged comes again; ends with the connection
		t := time.NewTicker(300 * time.Millisecond)
		defer t.Stop()
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-t.C:
				s.mu.Lock()
				_ = c.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Second))
				if n%4 == 3 {
					for _, e := range s.open {
						_ = c.WriteJSON(e)
					}
				}
				s.mu.Unlock()
			}
		}
	}()
	defer func() {
		close(done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn == c {
			s.conn = nil
		}
		_ = c.Close()
	}()
	for {
		var ack struct {
			ID string `json:"envelope_id"`
		}
		if c.ReadJSON(&ack) != nil {
			return
		}
		s.mu.Lock()
		delete(s.open, ack.ID)
		s.mu.Unlock()
	}
}
