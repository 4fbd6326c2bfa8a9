package channelstest

import (
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

// Discord is a server of the REST API and the gateway for one bot: hello, identify, heartbeats, resume with what was missed, invalid
// sessions, nonces that are enforced.
type Discord struct {
	URL                 string // of the REST API
	Interval            time.Duration
	t                   testing.TB
	token               string
	ws                  string
	mu                  sync.Mutex
	conn                *websocket.Conn
	session             string
	seq                 int64
	log                 []map[string]any // dispatched in this session, by sequence from 1
	last                int64            // snowflake
	chats               map[string][]map[string]any
	nonces              map[string]map[string]any
	sent                []Sent
	fail                []func(w http.ResponseWriter)
	greet               []func(c *websocket.Conn) bool // answers for the next beginnings of a session
	failReads           int
	typed               int
	mute                bool
	down                bool
	identifies, resumes int // sessions that began, and went on
}

// StartDiscord starts a server for one bot.
func StartDiscord(t testing.TB, token string) *Discord {
	s := &Discord{t: t, token: token, Interval: time.Second, chats: map[string][]map[string]any{}, nonces: map[string]map[string]any{}}
	srv := httptest.NewServer(s)
	s.URL, s.ws = srv.URL+"/api/v9/", "ws"+strings.TrimPrefix(srv.URL, "http")+"/gateway"
	t.Cleanup(func() { s.Drop(); srv.CloseClientConnections(); srv.Close() })
	return s
}

// StartDiscords starts servers for several bots at one address, as Discord is: the token says whose a call is. It returns the address of the
// REST API.
func StartDiscords(t testing.TB, n int, token func(i int) string, out []*Discord) string {
	byToken := map[string]*Discord{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := byToken[strings.TrimPrefix(r.Header.Get("Authorization"), "Bot ")]
		if s == nil {
			w.WriteHeader(401)
			return
		}
		s.ServeHTTP(w, r)
	}))
	for i := range n {
		out[i] = StartDiscord(t, token(i))
		out[i].Interval = 10 * time.Second
		byToken[token(i)] = out[i]
	}
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	return front.URL + "/api/v9/"
}

// snowflake makes the next id.
func (s *Discord) snowflake() string {
	s.last = max(s.last+1, (time.Now().UnixMilli()-1420070400000)<<22)
	return strconv.FormatInt(s.last, 10)
}

// Say is a person who writes to the bot. It returns the message's id.
func (s *Discord) Say(user, name, text string) string {
	return s.Message(map[string]any{"channel_id": "9" + user, "content": text, "type": 0, "author": map[string]any{"id": user, "username": name}})
}

// Message adds a message of any shape.
func (s *Discord) Message(m map[string]any) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.snowflake()
	m["id"], m["timestamp"] = id, time.Now().UTC().Format(time.RFC3339Nano)
	chat, _ := m["channel_id"].(string)
	s.chats[chat] = append(s.chats[chat], m)
	s.dispatch("MESSAGE_CREATE", m)
	return id
}

// Again dispatches a message a second time.
func (s *Discord) Again(chat string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.chats[chat]
	s.dispatch("MESSAGE_CREATE", all[len(all)-1])
}

func (s *Discord) dispatch(kind string, d any) {
	s.seq++
	e := map[string]any{"op": 0, "s": s.seq, "t": kind, "d": d}
	s.log = append(s.log, e)
	if s.conn != nil {
		_ = s.conn.WriteJSON(e)
	}
}

// Drop cuts the connection. Its session can be resumed, unless Forget is called.
func (s *Discord) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// Forget ends the session: it cannot be resumed, and what was missed is not replayed.
func (s *Discord) Forget() { s.mu.Lock(); defer s.mu.Unlock(); s.session = "" }

// Down makes the gateway refuse connections.
func (s *Discord) Down(down bool) { s.mu.Lock(); defer s.mu.Unlock(); s.down = down }

// Mute stops heartbeats from being acknowledged.
func (s *Discord) Mute(mute bool) { s.mu.Lock(); defer s.mu.Unlock(); s.mute = mute }

// Garbage sends something that is no event.
func (s *Discord) Garbage() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.WriteMessage(websocket.TextMessage, []byte(`{"op":0,"t":"MESSAGE_CREATE","s":`+strconv.FormatInt(s.seq, 10)+`,"d":{"id":7}}`))
	}
}

// FailNext makes a coming message fail with a status and, for 429, a pause in seconds.
func (s *Discord) FailNext(status int, after float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"message": "no", "code": 0, "retry_after": after, "global": false})
	})
}

// CutNext takes the next message and breaks the connection before it answers.
func (s *Discord) CutNext() { s.mu.Lock(); defer s.mu.Unlock(); s.fail = append(s.fail, nil) }

// ReconnectNext answers the next beginning of a session with a request to reconnect.
func (s *Discord) ReconnectNext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = append(s.greet, func(c *websocket.Conn) bool { return c.WriteJSON(map[string]any{"op": 7}) == nil })
}

// CloseNext answers the next beginning of a session with a close.
func (s *Discord) CloseNext(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = append(s.greet, func(c *websocket.Conn) bool {
		_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, "no"))
		return false
	})
}

// FailReads makes the next n readings of a conversation fail.
func (s *Discord) FailReads(n int) { s.mu.Lock(); defer s.mu.Unlock(); s.failReads = n }

// Sent is what the bot sent.
func (s *Discord) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sent(nil), s.sent...)
}

// Sessions is how many began, and how often one was resumed.
func (s *Discord) Sessions() (identifies, resumes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identifies, s.resumes
}

// Connected says whether the bot is there.
func (s *Discord) Connected() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.conn != nil }

// ServeHTTP answers both APIs.
func (s *Discord) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/gateway") {
		s.gateway(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	path := strings.TrimPrefix(r.URL.Path, "/api/v9/")
	if path == "gateway" {
		_ = json.NewEncoder(w).Encode(map[string]string{"url": s.ws})
		return
	}
	if r.Header.Get("Authorization") != "Bot "+s.token {
		w.WriteHeader(401)
		_ = json.NewEncoder(w).Encode(map[string]any{"message": "401: Unauthorized", "code": 0})
		return
	}
	parts := strings.Split(path, "/")
	switch {
	case path == "users/@me/channels":
		var in struct {
			User string `json:"recipient_id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		_ = json.NewEncoder(w).Encode(map[string]any{"id": "9" + in.User, "type": 1})
	case len(parts) == 3 && parts[0] == "channels" && parts[2] == "messages" && r.Method == "GET":
		s.list(w, r, parts[1])
	case len(parts) == 3 && parts[0] == "channels" && parts[2] == "messages":
		s.post(w, r, parts[1])
	case len(parts) == 3 && parts[0] == "channels" && parts[2] == "typing" && r.Method == "POST":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.typed++
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(404)
	}
}

// Typed is how often the bot showed that it is writing.
func (s *Discord) Typed() int { s.mu.Lock(); defer s.mu.Unlock(); return s.typed }

func (s *Discord) list(w http.ResponseWriter, r *http.Request, chat string) {
	after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failReads > 0 {
		s.failReads--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	out := []map[string]any{}
	for _, m := range s.chats[chat] {
		if id, _ := strconv.ParseInt(m["id"].(string), 10, 64); id > after && len(out) < limit {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Discord) post(w http.ResponseWriter, r *http.Request, chat string) {
	var in struct {
		Content string `json:"content"`
		Nonce   string `json:"nonce"`
		Enforce bool   `json:"enforce_nonce"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	failing := len(s.fail) > 0
	if failing && s.fail[0] != nil {
		fail := s.fail[0]
		s.fail = s.fail[1:]
		fail(w)
		return
	}
	if failing {
		s.fail = s.fail[1:]
	}
	if n := len([]rune(in.Content)); n == 0 || n > 2000 {
		w.WriteHeader(400)
		return
	}
	m := s.nonces[in.Nonce]
	if m == nil || !in.Enforce {
		m = map[string]any{"id": s.snowflake(), "channel_id": chat, "content": in.Content, "type": 0, "author": map[string]any{"id": "1", "username": "bot", "bot": true}, "nonce": in.Nonce}
		s.chats[chat] = append(s.chats[chat], m)
		s.sent = append(s.sent, Sent{Chat: chat, Text: in.Content, Key: in.Nonce})
		if in.Nonce != "" {
			s.nonces[in.Nonce] = m
		}
	}
	if failing {
		panic(http.ErrAbortHandler) // it was sent, and the bot does not learn that
	}
	_ = json.NewEncoder(w).Encode(m)
}

func (s *Discord) gateway(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down {
		w.WriteHeader(503)
		return
	}
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn == c {
			s.conn = nil
		}
		_ = c.Close()
	}()
	s.mu.Lock()
	_ = c.WriteJSON(map[string]any{"op": 10, "d": map[string]any{"heartbeat_interval": s.Interval.Milliseconds()}})
	s.mu.Unlock()
	for {
		var p struct {
			Op int `json:"op"`
			D  json.RawMessage
		}
		if err := c.ReadJSON(&p); err != nil {
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
				s.Forget() // as Discord does
			}
			return
		}
		if !s.frame(c, p.Op, p.D) {
			return
		}
	}
}

func (s *Discord) frame(c *websocket.Conn, op int, d json.RawMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case 1:
		if !s.mute {
			_ = c.WriteJSON(map[string]any{"op": 11})
		}
	case 2:
		var in struct {
			Token string `json:"token"`
		}
		if _ = json.Unmarshal(d, &in); in.Token != "Bot "+s.token {
			_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4004, "Authentication failed."))
			return false
		}
		s.identifies++
		if len(s.greet) > 0 {
			greet := s.greet[0]
			s.greet = s.greet[1:]
			return greet(c)
		}
		s.session, s.seq, s.log, s.conn = fmt.Sprint("session-", s.identifies), 0, nil, c
		s.dispatch("READY", map[string]any{"v": 9, "session_id": s.session, "user": map[string]any{"id": "1", "username": "bot", "bot": true}})
	case 6:
		var in struct {
			Session string `json:"session_id"`
			Seq     int64  `json:"seq"`
		}
		if _ = json.Unmarshal(d, &in); in.Session != s.session || s.session == "" {
			_ = c.WriteJSON(map[string]any{"op": 9, "d": false})
			return true // it identifies on the same connection
		}
		s.resumes++
		missed := append([]map[string]any(nil), s.log[min(in.Seq, int64(len(s.log))):]...)
		s.conn = c
		for _, e := range missed {
			_ = c.WriteJSON(e)
		}
		s.dispatch("RESUMED", map[string]any{})
	}
	return true
}
