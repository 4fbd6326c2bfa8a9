package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"troupe/actors/agent"
)

// TestGarbageNeverGivesA5xx sends mutated requests to every route of the contract. Nothing but the documented 503 of an
// agent that is stopped, or whose pod is not there, may come back, and every response fits the contract.
func TestGarbageNeverGivesA5xx(t *testing.T) {
	total := 20000
	if s := os.Getenv("TROUPE_TEST_GARBAGE"); s != "" {
		total, _ = strconv.Atoi(s)
	}
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	msg := w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"}), 201).str("id")
	user := w.user("ann@acme.test").key
	runtime := w.n.box.RuntimeKey(agent.ID(id), 1).Reveal()
	type op struct {
		method, path string
		bodies       []any
	}
	var ops []op
	for path, item := range contract().Paths.Map() {
		for method, o := range item.Operations() {
			x := op{method: method, path: path, bodies: []any{map[string]any{}}}
			if o.RequestBody != nil {
				for _, mt := range o.RequestBody.Value.Content {
					for _, e := range mt.Examples {
						x.bodies = append(x.bodies, e.Value.Value)
					}
				}
			}
			if path != "/v1/agent-runtime/subscribe" && !strings.HasPrefix(path, "/v1/agent/{id}/events") { // streams do not end
				ops = append(ops, x)
			}
		}
	}
	slices.SortFunc(ops, func(a, b op) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	var mu sync.Mutex
	codes := map[int]int{}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := worker; i < total; i += 8 {
				o := ops[r.IntN(len(ops))]
				path := fill(r, o.path, id, msg)
				auth := "Bearer " + []string{testKey, user, runtime, "x", ""}[r.IntN(5)]
				if strings.HasPrefix(path, "/v1/agent-runtime") || strings.HasPrefix(path, "/v1/llm") {
					auth = "Bearer " + runtime
				}
				if o.path == "/v1/agent/delete/{id}" || strings.HasSuffix(o.path, "/stop") || strings.HasSuffix(o.path, "/resume") || strings.HasSuffix(o.path, "/status") {
					path = strings.Replace(path, id, "x", 1) // the agent must last
				}
				body := garbage(r, o.bodies)
				a, err := w.try(o.method, path, body, "Authorization", auth, "Idempotency-Key", garbageKey(r), "X-Troupe-Runner-Epoch", []string{"1", "0", "-1", "x", "99999999999999999999"}[r.IntN(5)])
				if err != nil {
					t.Errorf("%s %s %.300s: %v", o.method, path, body, err)
					return
				}
				mu.Lock()
				codes[a.status]++
				mu.Unlock()
				if a.status >= 500 && a.str("code") != "agent_unavailable" && a.str("code") != "pod_not_running" {
					t.Errorf("%s %s %.300s: %d %s", o.method, path, body, a.status, a.body)
				}
			}
		}()
	}
	wg.Wait()
	t.Logf("%d requests over %d operations: %v", total, len(ops), codes)
}

func garbageKey(r *rand.Rand) string {
	return []string{"", "k", strings.Repeat("k", 300), "a b", fmt.Sprint(r.Int())}[r.IntN(5)]
}

// fill puts real, malformed and random values into the parameters of a path.
func fill(r *rand.Rand, path, id, msg string) string {
	for _, p := range []string{"{id}", "{agentId}"} {
		path = strings.ReplaceAll(path, p, []string{id, id, id, "x", "%00", agent.NewUUID()}[r.IntN(6)])
	}
	path = strings.ReplaceAll(path, "{messageId}", []string{msg, "x", agent.NewUUID()}[r.IntN(3)])
	for strings.Contains(path, "{") {
		from, to := strings.Index(path, "{"), strings.Index(path, "}")
		path = path[:from] + []string{agent.NewUUID(), "x", "..%2f", "%ff"}[r.IntN(4)] + path[to+1:]
	}
	if r.IntN(3) == 0 {
		path += []string{"?limit=0", "?limit=x&page=-1", "?after=x", "?before=x&after=y", "?status=%00", "?order=desc&sort=name", "?wait=-1", "?before=2020"}[r.IntN(8)]
	}
	return path
}

// garbage is an example of the contract, mutated: members replaced, removed, nested, or the bytes cut and flipped.
func garbage(r *rand.Rand, bodies []any) string {
	raw, _ := json.Marshal(bodies[r.IntN(len(bodies))])
	switch r.IntN(6) {
	case 0:
		return string(raw)
	case 1:
		return string(raw[:r.IntN(len(raw)+1)])
	case 2:
		b := append([]byte(nil), raw...)
		for range 1 + r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.IntN(256))
		}
		return string(b)
	case 3:
		return []string{"null", "[]", "5", `"x"`, "", "{", strings.Repeat("[", 500), `{"a":1}{"b":2}`, `{"content":"\ud800"}`, "\xff"}[r.IntN(10)]
	}
	var doc map[string]any
	if json.Unmarshal(raw, &doc) != nil || doc == nil {
		doc = map[string]any{}
	}
	mutate(r, doc, 0)
	out, _ := json.Marshal(doc)
	return string(out)
}

func mutate(r *rand.Rand, doc map[string]any, depth int) {
	values := []any{nil, true, -1, 1e300, 5.5, "", "x", strings.Repeat("y", 5000), []any{}, []any{nil, 1}, map[string]any{}, map[string]any{"x": map[string]any{"y": 1}}, "\u0000", "{{nope}}"}
	for k, v := range doc {
		if inner, ok := v.(map[string]any); ok && depth < 4 && r.IntN(2) == 0 {
			mutate(r, inner, depth+1)
			continue
		}
		switch r.IntN(4) {
		case 0:
			doc[k] = values[r.IntN(len(values))]
		case 1:
			delete(doc, k)
		}
	}
	if r.IntN(3) == 0 {
		doc[[]string{"x", "status", "amount", "type", "content", "files", "configuration", "message_ids"}[r.IntN(8)]] = values[r.IntN(len(values))]
	}
}
