package channelstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// WhatsApp is a server of the Cloud API for one number.
type WhatsApp struct {
	URL    string
	Phone  string
	Secret string // of the app, which signs calls
	token  string
	t      testing.TB
	mu     sync.Mutex
	sent   []Sent
	fail   []func(w http.ResponseWriter)
}

// StartWhatsApp starts a server.
func StartWhatsApp(t testing.TB, phone, token, secret string) *WhatsApp {
	s := &WhatsApp{t: t, Phone: phone, token: token, Secret: secret}
	srv := httptest.NewServer(s)
	s.URL = srv.URL
	t.Cleanup(srv.Close)
	return s
}

// FailNext makes the next message fail with a status and an error code of the Cloud API.
func (s *WhatsApp) FailNext(status, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": "no", "code": code}})
	})
}

// Sent is what the number sent.
func (s *WhatsApp) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sent(nil), s.sent...)
}

// ServeHTTP takes messages.
func (s *WhatsApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		To   string `json:"to"`
		Type string `json:"type"`
		Text struct {
			Body string `json:"body"`
		} `json:"text"`
		Key string `json:"biz_opaque_callback_data"`
	}
	raw, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+s.token:
		w.WriteHeader(401)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": 190}})
	case r.Method != "POST" || !strings.HasSuffix(r.URL.Path, "/"+s.Phone+"/messages") || json.Unmarshal(raw, &in) != nil || in.Type != "text" || len(in.Text.Body) == 0:
		w.WriteHeader(400)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": 100}})
	case len(s.fail) > 0:
		fail := s.fail[0]
		s.fail = s.fail[1:]
		fail(w)
	default:
		s.sent = append(s.sent, Sent{Chat: in.To, Text: in.Text.Body, Key: in.Key})
		_ = json.NewEncoder(w).Encode(map[string]any{"messages": []any{map[string]any{"id": "wamid.out"}}})
	}
}

// Notify calls a webhook with a change, signed, and returns the status.
func (s *WhatsApp) Notify(hook string, value map[string]any) int {
	value["messaging_product"], value["metadata"] = "whatsapp", map[string]any{"phone_number_id": s.Phone}
	body, err := json.Marshal(map[string]any{"object": "whatsapp_business_account", "entry": []any{map[string]any{"id": "1", "changes": []any{map[string]any{"field": "messages", "value": value}}}}})
	if err != nil {
		s.t.Error(err)
		return 0
	}
	mac := hmac.New(sha256.New, []byte(s.Secret))
	mac.Write(body)
	req, err := http.NewRequest("POST", hook, strings.NewReader(string(body)))
	if err != nil {
		s.t.Error(err)
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// Message is a change that brings a text message.
func (s *WhatsApp) Message(id, from, name, text string, at int64) map[string]any {
	return map[string]any{"contacts": []any{map[string]any{"wa_id": from, "profile": map[string]any{"name": name}}},
		"messages": []any{map[string]any{"id": id, "from": from, "timestamp": jsonNumber(at), "type": "text", "text": map[string]any{"body": text}}}}
}

func jsonNumber(n int64) string { b, _ := json.Marshal(n); return string(b) }
