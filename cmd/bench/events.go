package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// triggers compares calls of triggers with plain messages to the same agents, in interleaved rounds.
func (b *bench) triggers() error {
	url, err := b.redis("everysec")
	if err != nil {
		return err
	}
	ring, err := b.ringOn(url, 1, "TROUPE_RATE_LIMIT=1000000000") // messages count against a limit, as triggers do against theirs
	if err != nil {
		return err
	}
	ids, err := ring[0].prepare(*many)
	if err != nil {
		return err
	}
	type trigger struct {
		URL    string `json:"webhook_url"`
		Secret string `json:"webhook_secret"`
		path   string
		proof  string
	}
	body := []byte(`{"repository":{"full_name":"acme/api"},"pusher":{"name":"ann"},"head_commit":{"message":"a change of ordinary length, with a reason"}}`)
	made := make([]trigger, len(ids))
	if err := each(len(ids), func(i int) error {
		t := &made[i]
		err := ring[0].api.Do(context.Background(), "POST", "/v1/agent/"+ids[i]+"/triggers", map[string]any{"name": "bench",
			"message_template": "{{payload.repository.full_name}} was pushed by {{payload.pusher.name}}: {{payload.head_commit.message}}"}, t)
		_, t.path, _ = strings.Cut(t.URL, ring[0].addr)
		mac := hmac.New(sha256.New, []byte(t.Secret))
		mac.Write(body)
		t.proof = "sha256=" + hex.EncodeToString(mac.Sum(nil))
		return err
	}); err != nil {
		return err
	}
	var plain, called []figures
	for range *rounds {
		plain = append(plain, loadAll(ring, ids))
		called = append(called, loadWith(ring, 202, func(req *fasthttp.Request, addr string, i int) {
			t := &made[i%len(made)] // a trigger takes a hundred calls a minute
			req.SetBody(body)
			req.Header.Set("X-Hub-Signature-256", t.proof)
			req.SetRequestURI("http://" + addr + t.path)
		}))
	}
	m, t := median(plain), median(called)
	fmt.Printf("calls of triggers, %d triggers: %.0f/s, p50 %s, p99 %s, cpu %s; %.2f of plain acceptance (%.0f/s, p50 %s, cpu %s; target 0.7), %d failed\n", len(ids), t.rate, t.p50.Round(10*time.Microsecond),
		t.p99.Round(10*time.Microsecond), t.cpu.Round(time.Microsecond), t.rate/m.rate, m.rate, m.p50.Round(10*time.Microsecond), m.cpu.Round(time.Microsecond), t.failed)
	_ = ring[0].cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// sink is a receiver of webhooks that notes when each message's event came.
type sink struct {
	mu   sync.Mutex
	came map[string]time.Time
}

func (s *sink) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var e struct {
		Message string `json:"message_id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&e)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.came[e.Message]; !again {
		s.came[e.Message] = time.Now()
	}
}

// webhooks measures how long an event takes from its cause to its receiver, alone and while other agents' receivers hang.
func (b *bench) webhooks() error {
	const senders, events, mute = 20, 50, 200
	url, err := b.redis("everysec")
	if err != nil {
		return err
	}
	n, err := b.node(url, "TROUPE_PROCESS_LIMIT=1", "TROUPE_SANDBOX=off", "TROUPE_ALLOW_HTTP=true", "TROUPE_EGRESS_ALLOW=127.0.0.1,localhost")
	if err != nil {
		return err
	}
	to := &sink{came: map[string]time.Time{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: to, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }() // ends with Close
	defer srv.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		return err
	}
	defer dead.Close()
	hooked := func(count int, at string) ([]string, error) {
		ids := make([]string, count)
		return ids, each(count, func(i int) error {
			var a struct{ ID string }
			err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench", "output_token_balance": 0, "configuration": map[string]any{
				"webhooks": map[string]any{"message_failed": "http://" + at}}}, &a)
			ids[i] = a.ID
			return err
		})
	}
	live, err := hooked(senders, strings.Replace(l.Addr().String(), "127.0.0.1", "localhost", 1)) // another receiver than the dead one
	if err != nil {
		return err
	}
	rest, err := hooked(mute, dead.Addr().String())
	if err != nil {
		return err
	}
	// cancelled makes a task and cancels it where it waits: an event without a turn.
	cancelled := func(id string) (string, time.Time, error) {
		var t struct {
			ID string `json:"task_id"`
		}
		if err := n.api.Do(context.Background(), "POST", "/agent/request/"+id, map[string]any{"message": "x"}, &t); err != nil {
			return "", time.Time{}, err
		}
		began := time.Now()
		err := n.api.Do(context.Background(), "POST", "/agent/"+id+"/task/"+t.ID+"/cancel", nil, nil)
		return "msg_" + strings.TrimPrefix(t.ID, "tsk_"), began, err
	}
	round := func() (lat []time.Duration, err error) {
		asked := map[string]time.Time{}
		var mu sync.Mutex
		err = each(senders*events, func(i int) error {
			id, at, err := cancelled(live[i%senders])
			mu.Lock()
			defer mu.Unlock()
			asked[id] = at
			return err
		})
		if err != nil {
			return nil, err
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			to.mu.Lock()
			lat = lat[:0]
			for id, at := range asked {
				if came, ok := to.came[id]; ok {
					lat = append(lat, came.Sub(at))
				}
			}
			to.mu.Unlock()
			if len(lat) == len(asked) || time.Now().After(end) {
				slices.Sort(lat)
				return lat, nil
			}
		}
	}
	alone, err := round()
	if err != nil {
		return err
	}
	if err := each(mute*10, func(i int) error { _, _, err := cancelled(rest[i%mute]); return err }); err != nil {
		return err
	}
	beside, err := round()
	if err != nil {
		return err
	}
	fmt.Printf("events of %d agents, from the command to the receiver: %d of %d, p50 %s, p99 %s; beside %d agents whose receiver hangs: %d of %d, p50 %s, p99 %s\n",
		senders, len(alone), senders*events, at(alone, .5), at(alone, .99), mute, len(beside), senders*events, at(beside, .5), at(beside, .99))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}
