package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"troupe/http/gateway"
)

// provider is an upstream whose answers are chosen by the model's name; calls of real runners go to the rehearsal.
type provider struct {
	*httptest.Server
	mu   sync.Mutex
	body []byte
	head http.Header
}

func startProvider(t *testing.T) *provider {
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !bytes.Contains(body, []byte(`"probe-`)) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			res, err := gateway.Rehearsal{}.RoundTrip(r)
			if err != nil {
				return // the caller has gone
			}
			defer res.Body.Close()
			w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
			return
		}
		p.mu.Lock()
		p.body, p.head = body, r.Header.Clone()
		p.mu.Unlock()
		w.Header().Set("Request-Id", "req_1")
		w.Header().Set("Anthropic-Ratelimit-Tokens-Remaining", "9")
		w.Header().Set("Set-Cookie", "a=b")
		switch {
		case bytes.Contains(body, []byte("probe-overloaded")):
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(529)
			fmt.Fprint(w, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`)
		case bytes.Contains(body, []byte("probe-garbage")):
			fmt.Fprint(w, strings.Repeat("x", 40))
		case bytes.Contains(body, []byte("probe-cut")):
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n")
			fmt.Fprintf(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":%q}}\n\n", strings.Repeat("é", 41))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"type":"message","id":"m","usage":{"input_tokens":1,"output_tokens":7}}`)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// runnerPID waits until a file is in the agent's workspace and returns the process of its runner.
func (w *world) runnerPID(id, file string) int {
	w.t.Helper()
	w.until("the runner has made "+file, func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "agents", id, "workspace", file))
		return err == nil
	})
	var rec struct{ PID int }
	b, err := os.ReadFile(filepath.Join(w.dir, "agents", id, "run", "record.json"))
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.PID
}

// runtimeKey starts a turn that stays in a tool and returns the key of its runner. A tool cannot see that key, so it is
// read from the environment of the process.
func (w *world) runtimeKey(id string) string {
	w.t.Helper()
	w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": `!tool shell {"command":"touch started; sleep 100"}`}), 201)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.runnerPID(id, "started")))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range strings.Split(string(b), "\x00") {
		if key, ok := strings.CutPrefix(v, "SHINZO_API_KEY="); ok {
			return key
		}
	}
	w.t.Fatal("the runner has no key")
	return ""
}

func (w *world) as(key string) *world {
	other := *w
	other.key = key
	return &other
}

const (
	messagesPath = "/v1/llm/anthropic/v1/messages"
	summaryOf    = "/v1/agent/%s/summary"
)

func TestLLM_4_ParallelCallersNeverOverspend(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.Sandbox = "off" })
		id := w.agent(nil)
		run := w.as(w.runtimeKey(id))
		before := w.call("GET", fmt.Sprintf(summaryOf, id), nil).num("total_output_tokens_used")
		w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 1000, "type": "set"}), 200)
		var mu sync.Mutex
		var wg sync.WaitGroup
		spent, codes := 0.0, map[int]int{}
		for range 64 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 4 {
					a, err := run.try("POST", messagesPath, `{"model":"m","max_tokens":70,"messages":[{"role":"user","content":"!tokens 60"}]}`)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					codes[a.status]++
					spent += a.num("usage.output_tokens")
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
		s := w.call("GET", fmt.Sprintf(summaryOf, id), nil)
		if spent > 1000 || s.num("output_token_balance") != 1000-spent || s.num("total_output_tokens_used") != before+spent {
			t.Errorf("BAL-2, BAL-3: spent %v, %s", spent, s.body)
		}
		for code := range codes {
			if code != 200 && code != 429 && code != 402 {
				t.Errorf("answers %v", codes)
			}
		}
		if codes[200] < 16 {
			t.Errorf("answers %v", codes)
		}
		t.Logf("answers %v, %v of 1000 tokens spent", codes, spent)
	})
}

func TestBAL_6_TheTurnEndsWhenNothingIsLeft(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(nil)
	run := w.as(w.runtimeKey(id))
	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 0, "type": "set"}), 200)
	a := run.call("POST", messagesPath, `{"model":"m","max_tokens":70,"messages":[]}`)
	if a.status != 402 || a.str("error.type") != "billing_error" {
		t.Errorf("LLM-4: %d %s", a.status, a.body)
	}
	w.until("the turn has failed", func() bool { return allMessages(w, id)[0]["outcome"] == "failed" })
	if m := allMessages(w, id)[0]; m["failure_reason"] != "balance_exhausted" || m["status"] != "read" {
		t.Errorf("%v", m)
	}
	waiting := w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "!say later"}), 201).str("id")
	if r := w.call("GET", "/v1/agent/"+id+"/ready", nil); r.get("ready") != false {
		t.Errorf("BAL-3: %s", r.body)
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 500, "type": "increment"}), 200)
	w.until("BAL-5: the waiting message is answered", func() bool {
		for _, m := range allMessages(w, id) {
			if m["id"] == waiting {
				return m["outcome"] == "completed"
			}
		}
		return false
	})
}

func TestBAL_4_AnOverdraftIsForgivenAndCounted(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Overdraft, c.Sandbox = 100, "off" })
	id := w.agent(nil)
	run := w.as(w.runtimeKey(id))
	before := w.call("GET", fmt.Sprintf(summaryOf, id), nil).num("total_output_tokens_used")
	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 10, "type": "set"}), 200)
	a := run.want(run.call("POST", messagesPath, `{"model":"m","max_tokens":500,"messages":[{"role":"user","content":"!tokens 400"}]}`), 200)
	s := w.call("GET", fmt.Sprintf(summaryOf, id), nil)
	if a.num("usage.output_tokens") != 110 || s.num("output_token_balance") != 0 || s.num("total_output_tokens_used") != before+110 {
		t.Errorf("%s\n%s", a.body, s.body)
	}
	if a := run.call("POST", messagesPath, `{"model":"m","max_tokens":5,"messages":[]}`); a.status != 402 {
		t.Errorf("the overdraft of a turn was granted twice: %d %s", a.status, a.body)
	}
}

func TestLLM_3_WhatIsForwarded(t *testing.T) {
	p := startProvider(t)
	w := startWorld(t, func(c *Config) { c.AnthropicURL, c.Sandbox = p.URL, "off" })
	id := w.agent(map[string]any{"anthropic_api_key": "sk-ant-real"})
	key := w.runtimeKey(id)
	run := w.as(key)
	body := `{ "model":"probe-plain", "max_tokens" : 50 ,"messages":[ ], "unknown":{"a":1e3} }`
	a := run.want(run.call("POST", messagesPath, body, "Anthropic-Beta", "x", "X-Stainless-Lang", "go", "X-Other", "private"), 200)
	if string(p.body) != body {
		t.Errorf("the body changed: %s", p.body)
	}
	if p.head.Get("X-Api-Key") != "sk-ant-real" || p.head.Get("Authorization") != "" || p.head.Get("X-Other") != "" || p.head.Get("Anthropic-Beta") != "x" || p.head.Get("X-Stainless-Lang") != "go" {
		t.Errorf("headers %v", p.head)
	}
	if a.header.Get("Request-Id") != "req_1" || a.header.Get("Anthropic-Ratelimit-Tokens-Remaining") != "9" || a.header.Get("Set-Cookie") != "" {
		t.Errorf("response headers %v", a.header)
	}
	used := func() float64 { return w.call("GET", fmt.Sprintf(summaryOf, id), nil).num("total_output_tokens_used") }
	before := used()

	a = run.call("POST", messagesPath, `{"model":"probe-overloaded","max_tokens":50,"messages":[]}`)
	if a.status != 529 || a.str("error.type") != "overloaded_error" || a.header.Get("Retry-After") != "3" || used() != before {
		t.Errorf("LLM-7: %d %s, %v", a.status, a.body, a.header)
	}

	if a, err := run.try("POST", messagesPath, `{"model":"probe-cut","max_tokens":50,"stream":true,"messages":[]}`); err == nil && strings.Contains(string(a.body), "message_stop") {
		t.Errorf("the cut stream has an end: %s", a.body)
	}
	w.until("LLM-6: 41 characters are charged as 11 tokens", func() bool { return used() == before+11 })
	if _, err := run.try("POST", messagesPath, `{"model":"probe-garbage","max_tokens":50,"messages":[]}`); used() != before+21 {
		t.Errorf("LLM-6: an answer without usage was relayed for %v tokens (%v)", used()-before-11, err)
	}

	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"amount": 20, "type": "set"}), 200)
	run.want(run.call("POST", messagesPath, body), 200)
	if want := strings.Replace(body, "50", "20", 1); string(p.body) != want {
		t.Errorf("LLM-4: %s", p.body)
	}

	for name, value := range map[string]string{"X-Troupe-Turn-Id": "01a20754-2c80-79e1-bd60-6a614502c8dd", "X-Troupe-Runner-Epoch": "999"} {
		if a := run.call("POST", messagesPath, body, name, value); a.status != 403 || a.str("error.type") != "permission_error" {
			t.Errorf("LLM-2: %s: %d %s", name, a.status, a.body)
		}
	}
	if a := run.call("POST", messagesPath, `{"model":"m","max_tokens":5,"messages":[],"x":"`+strings.Repeat("x", 32<<20)+`"}`); a.status != 413 {
		t.Errorf("LLM-10: %d", a.status)
	}
	p.Close()
	if a := run.call("POST", messagesPath, body); a.status != 502 || a.str("error.type") != "api_error" {
		t.Errorf("LLM-7: %d %s", a.status, a.body)
	}
	if left := w.call("GET", fmt.Sprintf(summaryOf, id), nil).num("output_token_balance"); left != 13 {
		t.Errorf("LLM-7: an unreachable provider cost tokens: %v left", strconv.FormatFloat(left, 'f', -1, 64))
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/status", map[string]any{"status": "stopped"}), 200)
	w.until("POD-1: the key died with its pod", func() bool {
		return run.call("POST", messagesPath+"/count_tokens", `{"model":"m","messages":[]}`).status == 401
	})
}
