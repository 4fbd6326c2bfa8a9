package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"troupe/actors/agent"
)

// follower reads an agent's event stream; every event is checked against the contract.
type follower struct {
	t      *testing.T
	cancel context.CancelFunc
	res    *http.Response
	sc     *bufio.Scanner
}

type event struct {
	ID   string
	Type string
	Data map[string]any
	At   string
}

func (w *world) follow(t *testing.T, id, query, after string) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	req, _ := http.NewRequestWithContext(ctx, "GET", w.base+"/v1/agent/"+id+"/events"+query, nil)
	req.Header.Set("Authorization", "Bearer "+w.key)
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{t: t, cancel: cancel, res: res, sc: bufio.NewScanner(res.Body)}
	t.Cleanup(f.close)
	if res.StatusCode == 200 { // the comment line that opens every stream: from here on nothing is missed
		if !f.sc.Scan() || !strings.HasPrefix(f.sc.Text(), ":") {
			if !strings.HasPrefix(f.sc.Text(), "id: ") {
				t.Fatalf("the stream opens with %q", f.sc.Text())
			}
		}
	}
	return f
}

func (f *follower) close() { f.cancel(); _ = f.res.Body.Close() }

// next returns the next event.
func (f *follower) next() event {
	f.t.Helper()
	var id, typ string
	for f.sc.Scan() {
		line := f.sc.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "event: "):
			typ = line[7:]
		case strings.HasPrefix(line, "data: "):
			var raw any
			if err := json.Unmarshal([]byte(line[6:]), &raw); err != nil {
				f.t.Fatal(err)
			}
			if err := contract().Components.Schemas["AgentEvent"].Value.VisitJSON(raw, openapi3.MultiErrors()); err != nil {
				f.t.Fatalf("%s does not fit the contract: %v", line, err)
			}
			var e event
			_ = json.Unmarshal([]byte(line[6:]), &e)
			if e.ID != id && id != "" || typ != "" && e.Type != typ {
				f.t.Errorf("id %q and event %q of %s", id, typ, line)
			}
			return e
		}
	}
	f.t.Fatalf("the stream ended: %v", f.sc.Err())
	return event{}
}

// until reads events up to one of a type and returns all of them.
func (f *follower) until(typ string) (all []event) {
	f.t.Helper()
	for {
		e := f.next()
		if all = append(all, e); e.Type == typ {
			return all
		}
	}
}

func types(all []event) (out []string) {
	for _, e := range all {
		out = append(out, e.Type)
	}
	return out
}

func TestEVT_1_TheLifeOfAnAgentIsAStream(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		w.ask(id, "!say warm")
		f := w.follow(t, id, "", "")
		started := time.Now()
		w.ask(id, `!tool shell {"command":"true"}`+"\n!say done")
		all := f.until("turn.ended")
		t.Logf("EVT-2: the turn was seen %s after it was sent", time.Since(started).Round(time.Millisecond))
		got := slices.DeleteFunc(types(all), func(s string) bool { return s == "balance.changed" })
		for _, want := range []string{"message.pending", "session.started", "message.delivered", "turn.started", "tool.started", "tool.finished", "message.reply", "message.read", "turn.ended"} {
			if !slices.Contains(got, want) {
				t.Errorf("no %s in %v", want, got)
			}
		}
		order := []string{"message.pending", "turn.started", "tool.started", "tool.finished", "message.reply", "turn.ended"}
		at := -1
		for _, typ := range order {
			if i := slices.Index(got, typ); i < at {
				t.Errorf("EVT-1: %s comes too early in %v", typ, got)
			} else {
				at = i
			}
		}
		for _, e := range all {
			raw, _ := json.Marshal(e.Data)
			switch e.Type {
			case "message.reply":
				if m, _ := e.Data["message"].(map[string]any); m["content"] != "[rehearsal model] done" {
					t.Errorf("the reply is %s", raw)
				}
			case "tool.started", "tool.finished":
				if e.Data["tool_name"] != "shell" || e.Data["arguments"] != nil || e.Data["result"] != nil {
					t.Errorf("EVT-6: %s", raw)
				}
			case "turn.ended":
				if u, _ := e.Data["usage"].(map[string]any); u["output_tokens"].(float64) <= 0 || e.Data["outcome"] != "completed" {
					t.Errorf("%s", raw)
				}
			}
		}
		// EVT-3: from any position on, each later event once, whatever is filtered
		again := w.follow(t, id, "", all[2].ID)
		for i := 3; i < len(all); i++ {
			if all[i].Type == "balance.changed" {
				continue // merged by time
			}
			e := again.next()
			for e.Type == "balance.changed" {
				e = again.next()
			}
			if e.ID != all[i].ID {
				t.Fatalf("EVT-3: %s %s, want %s %s", e.Type, e.ID, all[i].Type, all[i].ID)
			}
		}
		filtered := w.follow(t, id, "?types=turn.*,message.reply&last_event_id="+all[0].ID, "")
		if got := types(filtered.until("turn.ended")); !slices.Equal(got, []string{"turn.started", "message.reply", "turn.ended"}) {
			t.Errorf("EVT-3: %v", got)
		}
		for _, bad := range []string{"x", "12", "-", "1-2-3", "9999999999999999-1"} {
			w.refused(w.call("GET", "/v1/agent/"+id+"/events", nil, "Last-Event-ID", bad), 400, "invalid_cursor")
		}
		w.refused(w.call("GET", "/v1/agent/"+id+"/events?types=turn", nil), 400, "validation_failed")
		w.refused(w.call("GET", "/v1/agent/"+agent.NewUUID()+"/events", nil), 404, "not_found")
		w.want(w.call("POST", "/v1/agent/delete/"+id, map[string]any{"force": true}), 200)
		for f.sc.Scan() { // the stream ends with its agent
		}
	})
}

func TestEVT_5_BalanceChangesAreMerged(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(map[string]any{"output_token_balance": 1000})
	f := w.follow(t, id, "?types=balance.changed", "")
	began := time.Now()
	for range 20 {
		w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "increment", "amount": 1}), 200)
	}
	n, last := 0, 1000.0
	for last < 1020 {
		e := f.next()
		if e.Data["previous"].(float64) != last {
			t.Errorf("after %v came %v", last, e.Data)
		}
		last = e.Data["balance"].(float64)
		n++
	}
	if most := 3 + int(time.Since(began).Seconds()); n > most {
		t.Errorf("EVT-5: twenty changes came as %d events, more than %d", n, most)
	}
}

func TestEVT_4_AGapIsTold(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); c.PendingLimit = 1 << 20 })
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		first := w.follow(t, id, "", "")
		a := w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": "x"}), 201)
		early := first.until("message.pending")[0].ID
		first.close()
		owner, _ := w.want(w.call("GET", "/v1/agent/"+id+"/messages/"+a.str("id"), nil), 200).doc["counterparty_uuid"].(string)
		var wg sync.WaitGroup
		for range 64 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 170 {
					_, err := w.n.st.Accept(context.Background(), &agent.Acceptance{Agent: agent.ID(id), ID: agent.MessageID(agent.NewUUID()), Limit: 1 << 20,
						Body: agent.Body{Role: agent.RoleUser, Content: "x", Channel: agent.ChannelAPI, Counterparty: owner}})
					if err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
		f := w.follow(t, id, "", early)
		e := f.next()
		if e.Type != "stream.gap" || e.Data["requested"] != early || e.Data["oldest"] == nil {
			t.Fatalf("EVT-4: the first event is %+v", e)
		}
		if e = f.next(); e.Type != "message.pending" {
			t.Errorf("then came %+v", e)
		}
	})
}

func TestRATE_4_OpenStreamsAreBounded(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		ids := []string{w.agent(nil), w.agent(nil), w.agent(nil), w.agent(nil), w.agent(nil), w.agent(nil)}
		var open []*follower
		for i := range 100 {
			open = append(open, w.follow(t, ids[i/20], "", ""))
		}
		if a := w.refused(w.call("GET", "/v1/agent/"+ids[0]+"/events", nil), 429, "rate_limited"); a.header.Get("Retry-After") == "" || !strings.Contains(a.str("error"), "20 event streams") {
			t.Errorf("%s", a.body)
		}
		if a := w.refused(w.call("GET", "/v1/agent/"+ids[5]+"/events", nil), 429, "rate_limited"); !strings.Contains(a.str("error"), "100 event streams") {
			t.Errorf("%s", a.body)
		}
		open[0].close()
		w.until("the place is free again", func() bool {
			f := w.follow(t, ids[0], "", "")
			defer f.close()
			return f.res.StatusCode == 200
		})
	})
}

func TestOBS_3_SessionsAndTheirTurns(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		var sessions []string
		for i := range 3 {
			w.ask(id, fmt.Sprintf("!say answer %d", i))
		}
		list := w.want(w.call("GET", "/v1/agent/"+id+"/sessions?limit=2", nil), 200)
		for _, s := range list.doc["sessions"].([]any) {
			m := s.(map[string]any)
			sessions = append(sessions, m["id"].(string))
			if m["status"] != "closed" || m["end_reason"] != "completed" || m["turn_count"] != 1.0 || m["usage"].(map[string]any)["output_tokens"].(float64) <= 0 {
				t.Errorf("%v", m)
			}
		}
		if list.num("pagination.total") != 3 || list.num("pagination.total_pages") != 2 || len(sessions) != 2 || sessions[0] < sessions[1] {
			t.Errorf("newest first, two a page: %s", list.body)
		}
		one := w.want(w.call("GET", "/v1/agent/"+id+"/sessions/"+sessions[0], nil), 200)
		turns := one.doc["turns"].([]any)
		turn := turns[0].(map[string]any)
		if len(turns) != 1 || turn["status"] != "completed" || len(turn["message_ids"].([]any)) != 1 || len(turn["reply_ids"].([]any)) != 1 || turn["number"] != 1.0 {
			t.Errorf("%s", one.body)
		}
		w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"session_mode": "persistent"}), 200)
		for range 2 {
			w.ask(id, "!say again")
		}
		open := w.want(w.call("GET", "/v1/agent/"+id+"/sessions?status=open", nil), 200)
		if open.num("pagination.total") != 1 || open.doc["sessions"].([]any)[0].(map[string]any)["turn_count"] != 2.0 {
			t.Errorf("SESS-2: %s", open.body)
		}
		if closed := w.want(w.call("GET", "/v1/agent/"+id+"/sessions?status=closed", nil), 200); closed.num("pagination.total") != 3 || len(closed.doc["sessions"].([]any)) != 3 {
			t.Errorf("%s", closed.body)
		}
		w.refused(w.call("GET", "/v1/agent/"+id+"/sessions/"+agent.NewUUID(), nil), 404, "not_found")
		w.refused(w.call("GET", "/v1/agent/"+id+"/sessions/x", nil), 404, "not_found")
		w.refused(w.call("GET", "/v1/agent/"+id+"/sessions?status=x&limit=0", nil), 400, "validation_failed")
	})
}

func TestOBS_4_TheClusterIsShownToAdministrators(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		w.agent(nil)
		var a *answer
		w.until("every shard has an owner", func() bool {
			a = w.want(w.call("GET", "/v1/cluster", nil), 200)
			for _, s := range a.doc["shards"].([]any) {
				if s.(map[string]any)["owner"] != a.str("node") {
					return false
				}
			}
			return a.get("grains.agent") == 1.0 && a.get("grains.clock") == float64(len(a.doc["shards"].([]any)))
		})
		if m := a.doc["members"].([]any)[0].(map[string]any); m["id"] != a.str("node") || m["status"] != "alive" || len(m["kinds"].([]any)) != 3 {
			t.Errorf("%s", a.body)
		}
		user := w.want(w.call("POST", "/auth/create_user", map[string]any{"email": "someone@example.com", "password": "correct-horse-battery"}), 201)
		_ = user
		login := w.want(w.call("POST", "/auth/login", map[string]any{"email": "someone@example.com", "password": "correct-horse-battery"}, "Authorization", ""), 200)
		w.refused(w.call("GET", "/v1/cluster", nil, "Authorization", "Bearer "+login.str("token")), 403, "admin_required")
		w.refused(w.call("GET", "/v1/cluster", nil, "Authorization", ""), 401, "missing_authorization")
	})
}
