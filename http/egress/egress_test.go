package egress

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/agent"
)

// TestOUT_9_WhatIsConnectedTo: the address is checked where it is connected to, whatever name led there.
func TestOUT_9_WhatIsConnectedTo(t *testing.T) {
	var called atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called.Add(1)
		w.Header().Set("Location", "http://169.254.169.254/latest/meta-data")
		w.WriteHeader(302)
	}))
	defer srv.Close()
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1%25lo]", "[fc00::1]", "[64:ff9b::7f00:1]", "224.0.0.1"} {
		_, err := Client(agent.Settings{}, 30*time.Second).Get("http://" + host + port)
		if err == nil || called.Load() > 0 {
			t.Errorf("%s was called", host)
		} else if !errors.Is(err, ErrRefused) {
			t.Logf("%s: %v", host, err) // not routable here
		}
	}
	for _, allowed := range []string{"127.0.0.1", "localhost", "localhost" + port} {
		called.Store(0)
		host := strings.TrimSuffix(allowed, port)
		res, err := Client(agent.Settings{AllowHosts: []string{allowed}}, 30*time.Second).Get("http://" + host + port)
		if err != nil || called.Load() != 1 || res.StatusCode != 302 {
			t.Errorf("%s is allowed: %v, %d calls", allowed, err, called.Load()) // a redirect is not followed
		} else {
			_ = res.Body.Close()
		}
	}
	if _, err := Client(agent.Settings{AllowHosts: []string{"example.com"}}, 30*time.Second).Get("http://localhost" + port); !errors.Is(err, ErrRefused) {
		t.Errorf("another name is allowed: %v", err)
	}
}
