package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// hooks is a receiver of the agents' webhooks. It refuses every tenth event when it first comes.
type hooks struct {
	srv            *http.Server
	url            string
	mu             sync.Mutex
	calls, refused int
	events         map[string]map[string]string // message → webhook-id → event, of what was taken
	bodies         map[string]string            // webhook-id → body
	odd            []string
}

func openHooks() (*hooks, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hooks{url: "http://" + l.Addr().String(), events: map[string]map[string]string{}, bodies: map[string]string{}}
	h.srv = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = h.srv.Serve(l) }() // ends with close
	return h, nil
}

func (h *hooks) close() { _ = h.srv.Close() }

// ServeHTTP takes one event.
func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var e struct {
		Event   string
		Message string `json:"message_id"`
	}
	id := r.Header.Get("webhook-id")
	h.mu.Lock()
	defer h.mu.Unlock()
	if json.Unmarshal(raw, &e) != nil || e.Message == "" {
		h.odd = append(h.odd, fmt.Sprintf("OUT-3: received %.200s", raw))
	}
	was, known := h.bodies[id]
	if known && was != string(raw) {
		h.odd = append(h.odd, fmt.Sprintf("OUT-3: %s was sent with two bodies", id))
	}
	h.bodies[id] = string(raw)
	h.calls++
	if !known && len(h.bodies)%10 == 0 {
		h.refused++
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if h.events[e.Message] == nil {
		h.events[e.Message] = map[string]string{}
	}
	h.events[e.Message][id] = e.Event
}

// of returns the events taken about a message, by webhook-id.
func (h *hooks) of(message string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]string{}
	for id, e := range h.events[message] {
		out[id] = e
	}
	return out
}

// told waits until every message has its event, and checks that it has no other (OUT-1, OUT-6).
func (s *sheet) told(ctx context.Context, w *world, outcomes map[string]outcome) {
	h, began := w.hooks, time.Now()
	for message, ended := range outcomes {
		got := h.of(message)
		for len(got) == 0 && time.Since(began) < settle && ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			got = h.of(message)
		}
		want := "message_failed"
		if ended.how == "completed" {
			want = "message_complete"
		}
		s.events += len(got)
		right := len(got) == 1
		for _, e := range got {
			right = right && e == want
		}
		if !right {
			s.untold++
			s.problems = append(s.problems, fmt.Sprintf("OUT-1: agent %s: message %s, which is %s, has the events %v; its deliveries: %v", ended.agent, message, ended.how, got, w.deliveries(ctx, ended.agent, message)))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.repeated = h.calls - h.refused - s.events
	for message := range h.events {
		if _, known := outcomes[message]; !known {
			s.untold++
			s.problems = append(s.problems, fmt.Sprintf("OUT-6: there are events of %s, which is not there", message))
		}
	}
	s.untold += len(h.odd)
	s.problems = append(s.problems, h.odd...)
}

// deliveries are what an agent's log says of a message.
func (w *world) deliveries(ctx context.Context, id, message string) (out []string) {
	for page := 1; ; page++ {
		list, err := w.ask(ctx, "GET", fmt.Sprintf("/v1/agent/%s/webhook-deliveries?limit=100&page=%d", id, page), nil)
		if err != nil {
			return append(out, err.Error())
		}
		rows, _ := list["deliveries"].([]any)
		for _, r := range rows {
			x, _ := r.(map[string]any)
			if x["message_id"] == message {
				out = append(out, fmt.Sprintf("%v: %v, %v attempts, %v, made %v, next %v", x["id"], x["status"], x["attempts"], x["last_error"], x["created_at"], x["next_attempt_at"]))
			}
		}
		if len(rows) < 100 {
			return out
		}
	}
}

// slots checks that no slot of the agent's schedule fired twice, and that what fired is there (SCHED-6).
func (s *sheet) slots(ctx context.Context, w *world, id, schedule string, outcomes map[string]outcome) error {
	doc, err := w.ask(ctx, "GET", "/v1/agent/"+id+"/schedules/"+schedule+"/executions?limit=100", nil)
	if err != nil {
		return err
	}
	seen := map[any]bool{}
	runs, _ := doc["executions"].([]any)
	for _, r := range runs {
		x, _ := r.(map[string]any)
		if x["status"] != "success" {
			continue
		}
		s.fired++
		msg, _ := x["message_uuid"].(string)
		if _, there := outcomes["msg_"+msg]; !there || seen[x["scheduled_for"]] {
			s.twice++
			s.problems = append(s.problems, fmt.Sprintf("SCHED-6: agent %s: the slot %v fired twice, or its message %s is not there", id, x["scheduled_for"], msg))
		}
		seen[x["scheduled_for"]] = true
	}
	return nil
}
