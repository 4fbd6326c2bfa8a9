package webhook

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"troupe/actors/agent"
	"troupe/http/egress"
)

var loopback = agent.Settings{AllowHTTP: true, AllowHosts: []string{"127.0.0.1", "localhost"}}

func send(t *testing.T, set agent.Settings, to string, secrets ...string) agent.Attempt {
	t.Helper()
	var sealed []agent.Secret
	for _, s := range secrets {
		sealed = append(sealed, agent.NewSecret(s))
	}
	return New(egress.Client(set, time.Minute), set, "test").Send(context.Background(),
		&agent.Outgoing{Delivery: agent.Delivery{ID: "01a213f6-d4c4-76d4-b54a-3dd8b17e7b1d", URL: to}, Payload: []byte(`{"event":"x"}`)}, sealed)
}

func TestOUT_4_SignaturesHoldForTheLibraryOfTheSpecification(t *testing.T) {
	secrets := []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=", "whsec_c2Vjb25kIGV4YW1wbGUgdmFsdWUsIDMyIGJ5dGVzIG8="}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, s := range secrets {
			wh, err := standardwebhooks.NewWebhook(s)
			if err != nil {
				t.Error(err)
				return
			}
			if err := wh.Verify(body, r.Header); err != nil {
				t.Error(err)
			}
			if err := wh.Verify(append(body, ' '), r.Header); err == nil {
				t.Error("a changed body is accepted")
			}
		}
		if r.Method != "POST" || r.Header.Get("webhook-id") != "whd_01a213f6-d4c4-76d4-b54a-3dd8b17e7b1d" || r.Header.Get("User-Agent") != "troupe/test" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v", r.Method, r.Header)
		}
	}))
	defer srv.Close()
	if a := send(t, loopback, srv.URL, secrets...); a.Code != 200 || a.Error != "" {
		t.Errorf("%+v", a)
	}
}

// TestOUT_4_AKnownSignature is an independent value: computed with openssl from the text of the specification.
func TestOUT_4_AKnownSignature(t *testing.T) {
	h := http.Header{}
	err := sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), []agent.Secret{agent.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")})
	if got := h.Get("webhook-signature"); err != nil || got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("%q %v", got, err)
	}
}

func TestOUT_7_WhatAnAnswerMeans(t *testing.T) {
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/status/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", r.URL.Query().Get("after"))
		w.Header().Set("Location", "/status/200")
		code := map[string]int{"200": 200, "204": 204, "302": 302, "410": 410, "429": 429, "500": 500, "503": 503}[strings.TrimPrefix(r.URL.Path, "/status/")]
		w.WriteHeader(code)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			_, _ = w.Write(make([]byte, 64<<10)) // nobody reads most of it
		}
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-hang })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(hang)
	for _, tt := range []struct {
		path  string
		code  int
		after time.Duration
		says  string
	}{
		{"/status/200", 200, 0, ""},
		{"/status/204", 204, 0, ""},
		{"/status/302", 302, 0, "redirects are not followed"},
		{"/status/410", 410, 0, "answered 410"},
		{"/status/500?after=60", 500, 0, "answered 500"},
		{"/status/503?after=60", 503, time.Minute, "answered 503"},
		{"/status/429?after=" + url.QueryEscape(time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)), 429, 0, "answered 429"},
		{"/status/429?after=soon", 429, 0, "answered 429"},
		{"/large", 200, 0, ""},
		{"/hang", 0, 0, "No complete answer"},
	} {
		if a := send(t, loopback, srv.URL+tt.path); a.Code != tt.code || a.After != tt.after || !strings.Contains(a.Error, tt.says) || tt.says == "" && a.Error != "" {
			t.Errorf("%s: %+v", tt.path, a)
		}
	}
	if a := send(t, loopback, "http://127.0.0.1:1"); a.Code != 0 || a.Error != "The receiver could not be connected" {
		t.Errorf("%+v", a)
	}
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	if a := send(t, loopback, secure.URL); a.Code != 0 || a.Error != "The receiver's certificate is not valid" {
		t.Errorf("%+v", a)
	}
	if a := send(t, loopback, strings.Replace(srv.URL, "http://", "https://", 1)); a.Code != 0 || a.Error != "The receiver does not speak TLS" {
		t.Errorf("%+v", a)
	}
}

func TestOUT_9_TheGuardStandsBeforeEveryAttempt(t *testing.T) {
	asked := false
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer srv.Close()
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	strict := agent.Settings{AllowHTTP: true}
	for _, to := range []string{srv.URL, "http://localhost" + port, "http://2130706433" + port, "http://[::ffff:127.0.0.1]" + port, "http://user:pass@example.com", "ftp://example.com"} {
		if a := send(t, strict, to); a.Code != 0 || a.Error == "" || strings.Contains(a.Error, "127.0.0.1") {
			t.Errorf("%s: %+v", to, a)
		}
	}
	if a := send(t, agent.Settings{}, "http://example.com"); a.Error != "The URL must use https" {
		t.Errorf("%+v", a)
	}
	if asked {
		t.Error("a refused address was called")
	}
}

// TestOUT_8_OneReceiverTakesASmallPartOfTheNode: while one hangs, others are called.
func TestOUT_8_OneReceiverTakesASmallPartOfTheNode(t *testing.T) {
	hang, began := make(chan struct{}), make(chan struct{}, 2*maxHost)
	dead := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { began <- struct{}{}; <-hang }))
	defer dead.Close()
	defer close(hang)
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer alive.Close()
	s := New(egress.Client(loopback, time.Minute), loopback, "test")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan agent.Attempt, maxHost)
	for range maxHost {
		go func() { done <- s.Send(ctx, &agent.Outgoing{Delivery: agent.Delivery{ID: "x", URL: dead.URL}}, nil) }()
	}
	for range maxHost {
		<-began
	}
	if a := s.Send(ctx, &agent.Outgoing{Delivery: agent.Delivery{ID: "x", URL: strings.Replace(alive.URL, "127.0.0.1", "localhost", 1)}}, nil); a.Code != 200 {
		t.Errorf("another receiver: %+v", a)
	}
	cancel()
	for range maxHost {
		if a := <-done; a.Code != 0 {
			t.Errorf("%+v", a)
		}
	}
	if len(s.hosts) != 0 || !s.total.TryAcquire(maxTotal) {
		t.Error("attempts are counted that are over")
	}
}

// TestOUT_8_RoomIsWaitedForAsLongAsAnAttemptMayLast: at a receiver that has too many, and on a node that has.
func TestOUT_8_RoomIsWaitedForAsLongAsAnAttemptMayLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil, loopback, "test")
		var leave func()
		for range maxHost {
			var ok bool
			if leave, ok = s.enter(t.Context(), "full"); !ok {
				t.Fatal("there is room")
			}
		}
		began := time.Now()
		if _, ok := s.enter(t.Context(), "full"); ok || time.Since(began) != agent.AttemptTimeout {
			t.Errorf("one more than %d at one receiver: %v after %v", maxHost, ok, time.Since(began))
		}
		time.AfterFunc(agent.AttemptTimeout/2, leave)
		if _, ok := s.enter(t.Context(), "full"); !ok {
			t.Error("a place that got free was not taken")
		}
		if _, ok := s.enter(t.Context(), "other"); !ok {
			t.Error("another receiver has no room")
		}
		if !s.total.TryAcquire(maxTotal - maxHost - 1) {
			t.Fatal("attempts are counted that are over")
		}
		began = time.Now()
		if _, ok := s.enter(t.Context(), "other"); ok || time.Since(began) != agent.AttemptTimeout {
			t.Errorf("one more than %d on the node: %v after %v", maxTotal, ok, time.Since(began))
		}
	})
}
