package route

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

type anybody struct{}

func (anybody) Caller(context.Context, func(string) string, bool) (account.Caller, error) {
	return account.Caller{Account: account.Account{ID: "a"}}, nil
}
func (anybody) Runner(func(string) string) (agent.ID, int64, error) { return "a", 1, nil }

// brokenCounters cannot be read.
type brokenCounters struct{}

func (brokenCounters) Count(context.Context, string, int64, int64) (account.Window, error) {
	return account.Window{}, errors.New("down")
}
func (brokenCounters) Uncount(context.Context, string) error          { return errors.New("down") }
func (brokenCounters) Counted(context.Context, string) (int64, error) { return 0, errors.New("down") }

type noMetrics struct{}

func (noMetrics) Request(string, string, int, time.Duration) {}

func serve(t *testing.T, routes ...Route) string {
	t.Helper()
	s := New(Config{Auth: anybody{}, Counters: brokenCounters{}, RateLimit: 1, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), MaxBody: 1 << 20}, routes)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Shutdown(context.Background()); <-done })
	return "http://" + l.Addr().String()
}

func TestRATE_5_ACounterThatCannotBeReadLetsThrough(t *testing.T) {
	base := serve(t, Route{Method: "GET", Path: "/x", Op: "x", Access: Account, Handle: func(*Call) (Response, error) { return OK(map[string]bool{"ok": true}), nil }})
	for range 3 {
		res, err := http.Get(base + "/x")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 || res.Header.Get("X-RateLimit-Limit") != "" {
			t.Fatalf("status %d, headers %v", res.StatusCode, res.Header)
		}
	}
}

func TestERR_6_CausesStayInTheLog(t *testing.T) {
	base := serve(t,
		Route{Method: "GET", Path: "/plain", Op: "p", Access: Open, Handle: func(*Call) (Response, error) { return Response{}, errors.New("secret cause") }},
		Route{Method: "GET", Path: "/panic", Op: "q", Access: Open, Handle: func(*Call) (Response, error) { panic("secret cause") }},
		Route{Method: "GET", Path: "/store", Op: "r", Access: Open, Handle: func(*Call) (Response, error) { return Response{}, fault.Store(errors.New("secret cause")) }})
	for path, status := range map[string]int{"/plain": 500, "/panic": 500, "/store": 503} {
		res, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		n, _ := res.Body.Read(b)
		_ = res.Body.Close()
		if res.StatusCode != status || strings.Contains(string(b[:n]), "secret") {
			t.Errorf("%s: %d %s", path, res.StatusCode, b[:n])
		}
	}
}

func TestDisguisedPathsNameNoRoute(t *testing.T) {
	for p, want := range map[string]bool{"/a/b": false, "/a/..%2fb": true, "/a/%2E%2e/b": true, "/a/../b": true, "/a/..b": false, "/a%5Cb": true} {
		if disguised(p) != want {
			t.Errorf("%s: %v", p, !want)
		}
	}
}

func TestAStopDoesNotWaitForUnusedConnections(t *testing.T) {
	s := New(Config{Auth: anybody{}, Counters: brokenCounters{}, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), MaxBody: 1 << 20}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	probe, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := http.Get("http://" + l.Addr().String()); err != nil { // accepted after the probe
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("the stop waited for a connection without a request: %v", err)
	}
	<-done
}

func TestOnlyWhatWasBegunIsAnswered(t *testing.T) {
	s := New(Config{Auth: anybody{}, Counters: brokenCounters{}, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), MaxBody: 1 << 20}, nil)
	s.http.ReadTimeout = 2 * time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	defer func() { _ = s.Shutdown(context.Background()); <-done }()
	for sent, want := range map[string]string{"": "", "GET / HTTP/1.1\r\nHo": "HTTP/1.1 400 ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc": "HTTP/1.1 400 "} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
			t.Errorf("%q is answered %q, %v", sent, got, err)
		}
		_ = c.Close()
	}
}
