package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"troupe/actors/agent"
)

// runner speaks the runner protocol by hand, in place of the program.
type runner struct {
	*world
	t     *testing.T
	id    string
	epoch int
	files string // its file server; "": none
}

// command is one event of a runner's stream.
type command struct {
	Event string
	Seq   int
	Epoch int
	Turn  *struct {
		ID      string `json:"turn_id"`
		Attempt int
		Hook    string
		Prompt  string
		Session struct{ ID, Start, Mode string }
		Batch   []struct{ ID, Content string } `json:"messages"`
	}
	TurnID      string          `json:"turn_id"`
	Prompt      string          `json:"prompt"`
	Reason      string          `json:"reason"`
	OpenSession json.RawMessage `json:"open_session"`
}

// byHand starts a node whose agents' processes do nothing, and attaches to a new agent.
func byHand(t *testing.T, spec map[string]any) (*world, *runner) {
	t.Helper()
	idle := filepath.Join(t.TempDir(), "troupe-runner")
	if err := os.WriteFile(idle, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := startWorld(t, func(c *Config) { c.Runner, c.Sandbox = idle, "off" })
	r := &runner{world: w, t: t, id: w.agent(spec)}
	w.until("the pod starts", func() bool { return w.call("GET", "/v1/agent/"+r.id+"/runtime", nil).num("pod.incarnation") == 1 })
	r.world = w.as(w.n.box.RuntimeKey(agent.ID(r.id), 1).Reveal())
	r.attach("")
	return w, r
}

// attach attaches, or attaches again with the turn in hand.
func (r *runner) attach(turn string) *answer {
	r.t.Helper()
	body := map[string]any{"protocol_version": 1, "runner_version": "by hand", "metering": "gateway"}
	if r.files != "" {
		body["workspace_endpoint"] = r.files
	}
	if turn != "" {
		body["current_turn_id"] = turn
	}
	var a *answer
	r.until("the runner is attached", func() bool {
		a = r.call("POST", "/v1/agent-runtime/self/attach", body)
		return a.status == 200
	})
	r.epoch = int(a.num("runner_epoch"))
	return a
}

func (r *runner) do(method, path string, body any, header ...string) *answer {
	r.t.Helper()
	return r.call(method, "/v1/agent-runtime/self"+path, body, append([]string{"X-Troupe-Runner-Epoch", fmt.Sprint(r.epoch)}, header...)...)
}

// stream is an open subscription.
type stream struct {
	t  *testing.T
	sc *bufio.Scanner
}

func (r *runner) subscribe(last string) *stream {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	r.t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", r.base+"/v1/agent-runtime/subscribe", nil)
	req.Header.Set("Authorization", "Bearer "+r.key)
	req.Header.Set("X-Troupe-Runner-Epoch", fmt.Sprint(r.epoch))
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 200 {
		r.t.Fatalf("subscribe: %v %+v", err, res)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	return &stream{r.t, bufio.NewScanner(res.Body)}
}

// next returns the next command of a kind; "" for any.
func (s *stream) next(kind string) command {
	s.t.Helper()
	for s.sc.Scan() {
		data, ok := strings.CutPrefix(s.sc.Text(), "data: ")
		if !ok {
			continue
		}
		var c command
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.t.Fatal(err)
		}
		if kind == "" || c.Event == kind {
			return c
		}
	}
	s.t.Fatalf("the stream ended before %s: %v", kind, s.sc.Err())
	return command{}
}

// accept confirms a turn.
func (r *runner) accept(turn string) {
	r.t.Helper()
	r.want(r.do("POST", "/turns/"+turn+"/progress", map[string]any{"events": []any{map[string]any{"seq": 1, "kind": "accepted"}}}), 200)
}

func (r *runner) end(turn, outcome string, replies ...string) *answer {
	r.t.Helper()
	body := map[string]any{"outcome": outcome}
	if outcome == "failed" {
		body["error"] = "it broke"
	}
	var list []any
	for _, text := range replies {
		list = append(list, map[string]any{"content": text})
	}
	if list != nil {
		body["replies"] = list
	}
	return r.want(r.do("POST", "/turns/"+turn+"/end", body), 200)
}

func (w *world) say(id, text string, more ...string) string {
	w.t.Helper()
	body := map[string]any{"content": text}
	if len(more) > 0 {
		body["queue_mode"] = more[0]
	}
	return w.want(w.call("POST", "/v1/agent/"+id+"/messages", body), 201).str("id")
}

func TestRUN_6_ATurnFromStartToEnd(t *testing.T) {
	w, r := byHand(t, nil)
	s := r.subscribe("")
	if c := s.next(""); c.Event != "sync" || c.Turn != nil || c.OpenSession != nil {
		t.Errorf("RUN-5: the stream opens with %+v", c)
	}
	msg := w.say(r.id, "do it")
	c := s.next("turn.start")
	turn := c.Turn
	if turn.Attempt != 1 || turn.Session.Start != "new" || turn.Hook != "channel_message_received" || !strings.Contains(turn.Prompt, "do it") || len(turn.Batch) != 1 || turn.Batch[0].ID != msg {
		t.Fatalf("TURN-2, HOOK-8: %+v", turn)
	}
	if m := w.call("GET", "/v1/agent/"+r.id+"/messages/"+msg, nil); m.str("status") != "delivered" || m.get("outcome") != nil {
		t.Errorf("TURN-2: %s", m.body)
	}
	r.accept(turn.ID)
	if beat := r.do("POST", "/heartbeat", map[string]any{"execution_status": "working", "turn_id": turn.ID}); beat.str("current_turn_id") != turn.ID {
		t.Errorf("RUN-3: %s", beat.body)
	}
	r.want(r.do("PATCH", "/sdk-session", map[string]any{"session_id": turn.Session.ID, "sdk_session_id": "transcript-1", "context_tokens": 77}), 200)
	r.want(r.do("PATCH", "/disk-usage", map[string]any{"total_files": 3, "total_bytes": 3 << 20}), 200)
	r.end(turn.ID, "completed", "done")
	m := w.want(w.call("GET", "/v1/agent/"+r.id+"/messages/"+msg, nil), 200)
	if m.str("status") != "read" || m.str("outcome") != "completed" {
		t.Errorf("TURN-6, MSG-5: %s", m.body)
	}
	if a := w.call("GET", "/v1/agent/"+r.id, nil); a.num("filesystem_summary.total_files") != 3 || a.num("filesystem_summary.total_size_mb") != 3 {
		t.Errorf("RUN-13: %s", a.body)
	}
	if sess := w.call("GET", "/v1/agent/"+r.id+"/sessions/"+turn.Session.ID, nil); sess.str("sdk_session_id") != "transcript-1" || sess.str("end_reason") != "completed" {
		t.Errorf("%s", sess.body)
	}
	if beat := r.do("POST", "/heartbeat", map[string]any{"execution_status": "idle"}); beat.get("current_turn_id") != nil {
		t.Errorf("RUN-3: %s", beat.body)
	}
}

func TestRUN_4_CommandsAreKeptUntilConfirmed(t *testing.T) {
	w, r := byHand(t, nil)
	w.say(r.id, "one")
	first := r.subscribe("").next("turn.start")
	again := r.subscribe(fmt.Sprint(first.Seq)) // a reconnect that has seen it, but never confirmed it
	if c := again.next(""); c.Event != "sync" || c.Turn == nil || c.Turn.ID != first.Turn.ID {
		t.Errorf("RUN-5: %+v", c)
	}
	if c := again.next("turn.start"); c.Turn.ID != first.Turn.ID || c.Turn.Attempt != 1 {
		t.Errorf("RUN-4: %+v", c)
	}
	r.accept(first.Turn.ID)
	w.want(w.call("POST", "/v1/agent/"+r.id+"/stop", nil), 200)
	third := r.subscribe("")
	if c := third.next("turn.cancel"); c.TurnID != first.Turn.ID || c.Reason != "stop" { // and no turn.start before it: that is confirmed
		t.Errorf("LIFE-4: %+v", c)
	}
	got := r.end(first.Turn.ID, "completed", "too late")
	if got.str("outcome") != "cancelled" || len(got.get("reply_ids").([]any)) != 0 {
		t.Errorf("TURN-5: %s", got.body)
	}
}

func TestRUN_1_ALivingRunnerAttachesAgain(t *testing.T) {
	w, r := byHand(t, nil)
	w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	old := r.epoch
	if a := r.attach(turn.ID); a.str("current_turn_id") != turn.ID {
		t.Errorf("%s", a.body)
	}
	if c := r.subscribe("").next("sync"); c.Turn == nil || c.Turn.ID != turn.ID || c.Turn.Attempt != 1 {
		t.Errorf("RUN-1: it goes on with the turn it has: %+v", c.Turn)
	}
	stale := *r
	stale.epoch = old
	for path, body := range map[string]any{"/heartbeat": map[string]any{"execution_status": "idle"}, "/turns/" + turn.ID + "/end": map[string]any{"outcome": "completed"},
		"/messages": map[string]any{"content": "x", "turn_id": turn.ID, "reply_to_id": turn.Batch[0].ID}} {
		w.refused(stale.do("POST", path, body), 409, "stale_runner")
	}
	r.end(turn.ID, "completed", "fine")
	if m := allMessages(w, r.id); len(m) != 2 || m[0]["outcome"] != "completed" {
		t.Errorf("%v", m)
	}
}

func TestREC_2_ANewRunnerResumesTheTurn(t *testing.T) {
	w, r := byHand(t, nil)
	msg := w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	early := r.want(r.do("POST", "/messages", map[string]any{"content": "half of it", "reply_to_id": msg, "turn_id": turn.ID}), 201).str("id")
	r.attach("") // the process died; its successor knows nothing
	c := r.subscribe("").next("sync")
	if c.Turn == nil || c.Turn.ID != turn.ID || c.Turn.Attempt != 2 || c.Turn.Session.ID != turn.Session.ID || c.Turn.Session.Start == "continue" {
		t.Errorf("REC-2, SESS-3: %+v", c.Turn)
	}
	if !strings.Contains(c.Turn.Prompt, "Continue the task") { // the same pod, and the start was confirmed
		t.Errorf("REC-4: %q", c.Turn.Prompt)
	}
	r.attach("")
	c = r.subscribe("").next("sync")
	if c.Turn.Attempt != 3 || !strings.Contains(c.Turn.Prompt, "one") { // the second attempt never confirmed: the batch is told again
		t.Errorf("REC-4: %+v", c.Turn)
	}
	r.attach("")
	w.until("the third loss ends the turn", func() bool { return allMessages(w, r.id)[0]["outcome"] != nil })
	all := allMessages(w, r.id)
	if all[0]["outcome"] != "completed" || all[1]["id"] != early || all[1]["content"] != "half of it" { // answered before the loss: TURN-10
		t.Errorf("REC-6: %v", all)
	}
	w.say(r.id, "two")
	if c := r.subscribe("").next("turn.start"); c.Turn.ID == turn.ID || c.Turn.Attempt != 1 {
		t.Errorf("REC-5: the next batch starts: %+v", c.Turn)
	}
}

func TestRUN_8_ALostTranscriptOpensANewSession(t *testing.T) {
	w, r := byHand(t, map[string]any{"session_mode": "persistent"})
	w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	r.want(r.do("PATCH", "/sdk-session", map[string]any{"session_id": turn.Session.ID, "sdk_session_id": "new", "lost": true}), 200)
	r.end(turn.ID, "completed", "fine")
	sessions := w.call("GET", "/v1/agent/"+r.id+"/sessions", nil).doc["sessions"].([]any)
	fresh, old := sessions[0].(map[string]any), sessions[1].(map[string]any)
	if old["id"] != turn.Session.ID || old["end_reason"] != "lost" || fresh["status"] != "open" || fresh["sdk_session_id"] != "new" {
		t.Errorf("%v then %v", old, fresh)
	}
	if d := w.call("GET", "/v1/agent/"+r.id+"/sessions/"+fresh["id"].(string), nil).doc["turns"].([]any); len(d) != 1 || d[0].(map[string]any)["id"] != turn.ID {
		t.Errorf("the turn belongs to the new session: %v", d)
	}
	w.refused(r.do("PATCH", "/sdk-session", map[string]any{"session_id": turn.Session.ID, "sdk_session_id": "x"}), 409, "session_closed")
}

func TestRUN_10_MessagesPulledInJoinTheBatch(t *testing.T) {
	w, r := byHand(t, nil)
	w.refused(r.do("POST", "/messages/mark-delivered", map[string]any{"message_ids": []string{"msg_x"}}), 409, "stale_turn")
	w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	second, third, fourth := w.say(r.id, "two"), w.say(r.id, "three"), w.say(r.id, "four")
	pending := r.want(r.do("GET", "/messages/pending", nil), 200).doc["messages"].([]any)
	if len(pending) != 3 {
		t.Errorf("%v", pending)
	}
	got := r.want(r.do("POST", "/messages/mark-delivered", map[string]any{"message_ids": []string{second, turn.Batch[0].ID, "nonsense"}, "turn_id": turn.ID}), 200)
	if got.num("updated") != 1 || len(got.get("ignored").([]any)) != 2 {
		t.Errorf("RUN-10: %s", got.body)
	}
	if m := r.want(r.do("PATCH", "/messages/"+third, map[string]any{"status": "read", "turn_id": turn.ID}), 200); m.str("status") != "read" {
		t.Errorf("RUN-14: %s", m.body)
	}
	r.end(turn.ID, "completed", "for all of you")
	next := r.subscribe("").next("turn.start").Turn
	if len(next.Batch) != 1 || next.Batch[0].ID != fourth {
		t.Errorf("QUE-1: the next turn takes what is left: %+v", next)
	}
	for _, m := range allMessages(w, r.id)[:3] {
		if m["outcome"] != "completed" || m["turn_id"] != turn.ID {
			t.Errorf("%v", m)
		}
	}
}

func TestRUN_9_CallsMayBeRepeated(t *testing.T) {
	w, r := byHand(t, nil)
	msg := w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	r.accept(turn.ID)
	r.accept(turn.ID)
	reply := map[string]any{"content": "early", "reply_to_id": msg, "turn_id": turn.ID}
	a := r.want(r.do("POST", "/messages", reply, "Idempotency-Key", "r1"), 201)
	b := r.want(r.do("POST", "/messages", reply, "Idempotency-Key", "r1"), 201)
	if a.str("id") != b.str("id") || b.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("TURN-8: %s %s", a.body, b.body)
	}
	usage := map[string]any{"usage_id": agent.NewUUID(), "turn_id": turn.ID, "model": "m", "input_tokens": 10, "output_tokens": 5}
	for range 2 {
		if u := r.want(r.do("POST", "/usage", usage), 200); u.get("counted") != false || u.num("output_token_balance") != 1000000 {
			t.Errorf("LLM-9: %s", u.body)
		}
	}
	if e := r.end(turn.ID, "completed"); e.get("duplicate") != false {
		t.Errorf("%s", e.body)
	}
	if e := r.end(turn.ID, "completed"); e.get("duplicate") != true || len(e.get("reply_ids").([]any)) != 1 {
		t.Errorf("FENCE-5: %s", e.body)
	}
	w.refused(r.do("POST", "/turns/"+turn.ID+"/end", map[string]any{"outcome": "failed", "error": "x"}), 409, "turn_ended")
	w.refused(r.do("POST", "/turns/"+agent.NewUUID()+"/end", map[string]any{"outcome": "completed"}), 404, "not_found")
	w.refused(r.do("POST", "/messages", reply, "Idempotency-Key", "r2"), 409, "turn_ended")
	if all := allMessages(w, r.id); len(all) != 2 {
		t.Errorf("%v", all)
	}
}

func TestRUN_11_ARunnerIsToldToStop(t *testing.T) {
	w, r := byHand(t, nil)
	s := r.subscribe("")
	w.want(w.call("POST", "/v1/agent/"+r.id+"/stop", nil), 200)
	if c := s.next("shutdown"); c.Reason != "stop" {
		t.Errorf("%+v", c)
	}
	w.until("the pod is gone", func() bool {
		return w.call("GET", "/v1/agent/"+r.id+"/ready", nil).str("pod_status") == "not_running" && w.call("GET", "/v1/agent/"+r.id+"/runtime", nil).get("pod.phase") == nil
	})
	if a := r.do("POST", "/heartbeat", map[string]any{"execution_status": "idle"}); a.status != 401 { // POD-1: its key is dead
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRUN_12_ProgressIsNumbered(t *testing.T) {
	w, r := byHand(t, nil)
	f := w.follow(t, r.id, "?types=tool.*,turn.ended", "")
	w.say(r.id, "one")
	turn := r.subscribe("").next("turn.start").Turn
	entry := func(seq int, kind string) map[string]any {
		return map[string]any{"seq": seq, "kind": kind, "tool_call_id": "c", "tool_name": fmt.Sprint("tool", seq), "summary": "s"}
	}
	for _, batch := range [][]any{{entry(1, "accepted"), entry(2, "tool_started")}, {entry(2, "tool_started"), entry(3, "tool_finished")}, {entry(1, "tool_started")}} {
		r.want(r.do("POST", "/turns/"+turn.ID+"/progress", map[string]any{"events": batch}), 200)
	}
	r.end(turn.ID, "failed")
	got := f.until("turn.ended")
	if len(got) != 3 || got[0].Data["tool_name"] != "tool2" || got[1].Type != "tool.finished" || got[2].Data["outcome"] != "failed" {
		t.Errorf("RUN-12: %+v", got)
	}
}

func TestQUE_4_InterruptsThatCancelNothing(t *testing.T) {
	w, r := byHand(t, nil)
	s := r.subscribe("")
	w.say(r.id, "idle", "interrupt") // nothing runs
	turn := s.next("turn.start").Turn
	r.accept(turn.ID)
	if turn.Hook != "channel_message_received" {
		t.Errorf("%+v", turn)
	}
	for range 3 {
		w.say(r.id, "now", "interrupt")
	}
	if c := s.next(""); c.Event != "turn.cancel" || c.Reason != "interrupt" {
		t.Errorf("QUE-3: %+v", c)
	}
	r.end(turn.ID, "cancelled")
	if c := s.next(""); c.Event != "turn.start" || len(c.Turn.Batch) != 3 { // one cancel for all three, and they form one batch
		t.Errorf("QUE-3: %+v", c)
	}
	if m := allMessages(w, r.id)[0]; m["outcome"] != "cancelled" || m["failure_reason"] != "interrupted" {
		t.Errorf("TURN-10: %v", m)
	}
}

func TestREM_4_TheRunnerIsReminded(t *testing.T) {
	w, r := byHand(t, map[string]any{"configuration": map[string]any{"unread_reminder_interval_ms": 10000, "hook_messages": map[string]any{"unread_message_reminder": "{{message_count}} wait."}}})
	f := w.follow(t, r.id, "?types=reminder.sent", "")
	s := r.subscribe("")
	w.say(r.id, "one")
	turn := s.next("turn.start").Turn
	r.accept(turn.ID)
	w.say(r.id, "two")
	said := time.Now()
	w.until("the timer is shown", func() bool {
		timers, _ := w.call("GET", "/v1/agent/"+r.id+"/runtime", nil).get("timers").([]any)
		return slices.ContainsFunc(timers, func(x any) bool { return x.(map[string]any)["kind"] == "reminder" })
	})
	c := s.next("reminder")
	if took := time.Since(said); c.TurnID != turn.ID || c.Prompt != "1 wait." || took < 9*time.Second || took > 30*time.Second {
		t.Errorf("REM-3: %+v after %s", c, took)
	}
	if got := f.until("reminder.sent"); got[0].Data["message_count"] != 1.0 {
		t.Errorf("%+v", got)
	}
	r.end(turn.ID, "completed", "done")
	if next := s.next(""); next.Event != "turn.start" || len(next.Turn.Batch) != 1 {
		t.Errorf("REM-1: %+v", next)
	}
}
