package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"troupe/actors/agent"
)

// blocked is a message whose tool runs until the file "go" is in the workspace.
const blocked = `!tool shell {"command":"touch begun; while [ ! -e go ]; do sleep 0.05; done"}`

func (w *world) begun(id string) {
	w.until("the turn runs", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "agents", id, "workspace", "begun"))
		return err == nil
	})
}

func (w *world) goOn(id string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "agents", id, "workspace", "go"), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) submit(id string, body map[string]any) string {
	w.t.Helper()
	return w.want(w.call("POST", "/agent/request/agt_"+id, body), 202).str("task_id")
}

func (w *world) task(id, task string) *answer {
	w.t.Helper()
	return w.want(w.call("GET", "/agent/"+id+"/task/"+task, nil), 200)
}

func (w *world) taskIs(id, task, status string) {
	w.t.Helper()
	w.until("the task is "+status, func() bool { return w.task(id, task).str("status") == status })
}

func TestLEG_4_Tasks(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		w.want(w.call("POST", "/v1/agent/"+id+"/messages", map[string]any{"content": blocked + "\n!say first"}), 201)
		w.begun(id)
		body := map[string]any{"message": `!tool report_step {"current_step":"Reading","steps_completed":1,"total_steps":4}` + "\n!say low", "priority": 2, "metadata": map[string]any{"a": 1}}
		first := w.want(w.call("POST", "/agent/request/"+id, body, "Idempotency-Key", "k"), 202)
		again := w.want(w.call("POST", "/agent/request/"+id, body, "Idempotency-Key", "k"), 202)
		low := first.str("task_id")
		if again.str("task_id") != low || again.header.Get("Idempotent-Replayed") != "true" || !strings.HasSuffix(first.str("poll_url"), "/agent/agt_"+id+"/task/"+low) || first.str("estimated_start") <= first.str("created_at") {
			t.Errorf("%s\n%s", first.body, again.body)
		}
		high := w.submit(id, map[string]any{"message": `!tool set_result {"result":{"findings":[1,{"a":"<b>"}]}}` + "\n!say high", "priority": 9})
		if a := w.task(id, low); a.str("status") != "queued" || a.get("started_at") != nil {
			t.Errorf("LEG-3: %s", a.body)
		}
		w.goOn(id)
		w.taskIs(id, low, "completed")
		if a := w.task(id, low); a.str("result.summary") != "[rehearsal model] low" || a.str("progress.current_step") != "Reading" || a.num("progress.total_steps") != 4 || a.str("started_at") > a.str("completed_at") {
			t.Errorf("LEG-5: %s", a.body)
		}
		if a := w.task(id, high); a.str("status") != "completed" || strings.Contains(string(a.body), "summary") || !strings.Contains(string(a.body), `"findings":[1,{"a":"<b>"}]`) {
			t.Errorf("LEG-5: %s", a.body)
		}
		if a, b := w.task(id, high), w.task(id, low); a.str("completed_at") > b.str("started_at") {
			t.Errorf("QUE-6: the task of low priority ran first: %s %s", a.body, b.body)
		}
		found := 0
		for _, m := range allMessages(w, id) {
			if m["source"] == "task" && m["role"] == "user" {
				found++
			}
		}
		if found != 2 {
			t.Errorf("%d tasks in the list of messages", found)
		}

		failed := w.submit(id, map[string]any{"message": "!tool shell {\"command\":\"sleep 60\"}", "timeout_override": 1})
		w.taskIs(id, failed, "failed")
		if a := w.task(id, failed); a.str("error") != "timeout" || a.get("result") != nil {
			t.Errorf("TURN-4: %s", a.body)
		}

		// refusals
		w.refused(w.call("POST", "/agent/request/"+id, map[string]any{"message": "x", "priority": 11}), 400, "validation_failed")
		w.refused(w.call("POST", "/agent/request/"+id, map[string]any{"message": "x", "callback_mode": "webhook"}), 400, "validation_failed") // LEG-7
		w.refused(w.call("GET", "/agent/"+id+"/task/tsk_"+agent.NewUUID(), nil), 404, "not_found")
		w.refused(w.call("GET", "/agent/"+id+"/task/nonsense", nil), 404, "not_found")
		w.refused(w.call("GET", "/agent/"+id+"/task/"+w.say(id, "!say plain"), nil), 404, "not_found") // a message, no task
		w.refused(w.call("GET", "/agent/"+w.agent(nil)+"/task/"+low, nil), 404, "not_found")           // of another agent
		w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
		w.refused(w.call("POST", "/agent/request/"+id, map[string]any{"message": "x"}), 503, "agent_unavailable")
		w.say(id, "!say a plain message is taken")
		w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
		w.refused(w.call("POST", "/agent/request/"+id, map[string]any{"message": "x"}), 503, "agent_unavailable")
	})
}

func TestLEG_6_Input(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	task := w.submit(id, map[string]any{"message": `!tool ask_for_input {"question":"Which branch?"}`})
	w.taskIs(id, task, "awaiting_input")
	if a := w.task(id, task); a.str("result.summary") != "Which branch?" || a.get("completed_at") != nil {
		t.Errorf("%s", a.body)
	}
	input := "/agent/" + id + "/task/" + task + "/message"
	w.refused(w.call("POST", input, map[string]any{"message": ""}), 400, "validation_failed")
	a := w.want(w.call("POST", input, map[string]any{"message": blocked + "\n!say done"}), 200)
	if a.str("status") != "running" || a.str("task_id") != task || a.get("message_received") != true {
		t.Errorf("%s", a.body)
	}
	w.begun(id)
	if a := w.task(id, task); a.str("status") != "running" {
		t.Errorf("%s", a.body)
	}
	w.want(w.call("POST", input, map[string]any{"message": "!say and more"}), 200)
	w.goOn(id)
	w.until("the last input is processed", func() bool {
		a := w.task(id, task)
		return a.str("status") == "completed" && a.str("result.summary") == "[rehearsal model] and more"
	})
	sessions := w.want(w.call("GET", "/v1/agent/"+id+"/sessions", nil), 200)
	list, _ := sessions.get("sessions").([]any)
	if len(list) != 1 {
		t.Fatalf("the task took %d sessions: %s", len(list), sessions.body)
	}
	if s := list[0].(map[string]any); s["turn_count"] != 3.0 || s["status"] != "completed" && s["ended_at"] == nil {
		t.Errorf("%v", s)
	}
	w.refused(w.call("POST", input, map[string]any{"message": "late"}), 400, "invalid_state")
	w.refused(w.call("POST", "/agent/"+id+"/task/"+task+"/cancel", nil), 400, "invalid_state")
}

func TestLEG_8_Cancel(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		running := w.submit(id, map[string]any{"message": blocked})
		w.begun(id)
		queued := w.submit(id, map[string]any{"message": "!say never"})
		w.want(w.call("POST", "/agent/"+id+"/task/"+queued+"/message", map[string]any{"message": "for nobody"}), 200)
		cancel := func(task string) *answer {
			t.Helper()
			return w.want(w.call("POST", "/agent/"+id+"/task/"+task+"/cancel", nil), 200)
		}
		for _, task := range []string{queued, running} {
			at := cancel(task).str("cancelled_at")
			if again := cancel(task); again.str("cancelled_at") != at {
				t.Errorf("%s, first at %s", again.body, at)
			}
			w.taskIs(id, task, "cancelled")
			if a := w.task(id, task); a.str("cancelled_at") != at || a.get("completed_at") != nil {
				t.Errorf("%s", a.body)
			}
		}
		w.until("the turn has ended", func() bool { return allMessages(w, id)[0]["outcome"] == "cancelled" })
		if a := w.ask(id, "!say alive"); a.str("reply.content") != "[rehearsal model] alive" {
			t.Errorf("%s", a.body)
		}
		for _, m := range allMessages(w, id)[:3] {
			if m["outcome"] != "cancelled" || m["failure_reason"] != "cancelled" || m["status"] != "read" {
				t.Errorf("%v", m)
			}
		}
		if n := len(allMessages(w, id)); n != 5 {
			t.Errorf("%d messages: a cancelled task was answered", n)
		}
	})
}

func TestLEG_9_OnlyTheseRoutesOfTheOldestGeneration(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	for _, c := range []struct{ method, path string }{{"GET", "/agent/list"}, {"GET", "/agent/" + id}, {"POST", "/agent/update/" + id}, {"POST", "/agent/delete/" + id},
		{"POST", "/agent/" + id + "/pause"}, {"POST", "/agent/" + id + "/resume"}, {"GET", "/agent/" + id + "/filesystem/list"}} {
		w.refused(w.call(c.method, c.path, nil), 404, "route_not_found")
	}
	made := w.want(w.call("POST", "/agent/create", map[string]any{"name": "old", "anthropic_api_key": "sk-ant-x"}), 201)
	if got := w.want(w.call("GET", strings.TrimPrefix(made.str("endpoint_url"), w.base), nil), 200); got.str("name") != "old" {
		t.Errorf("LEG-1: %s", got.body)
	}
	if !strings.HasPrefix(made.str("uuid"), "agt_") || made.str("container_id") != "agent-"+strings.TrimPrefix(made.str("uuid"), "agt_") {
		t.Errorf("LEG-1: %s", made.body)
	}
	w.refused(w.call("POST", "/agent/create", map[string]any{"name": "old"}), 400, "validation_failed")
	w.refused(w.call("POST", "/agent/create", map[string]any{"name": "old", "anthropic_api_key": "sk-ant-x", "configuration": map[string]any{"model": "m"}}), 400, "validation_failed")
}

// A task whose runner dies is gone on with, and its result survives.
func TestLEG_5_AResultSurvivesTheRunner(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(nil)
	task := w.submit(id, map[string]any{"message": `!tool set_result {"result":{"kept":true}}` + "\n" + blocked + "\n!say done"})
	w.begun(id)
	if err := syscall.Kill(w.runnerPID(id, "begun"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.goOn(id)
	w.taskIs(id, task, "completed")
	if a := w.task(id, task); !strings.Contains(string(a.body), `"result":{"kept":true}`) {
		t.Errorf("%s", a.body)
	}
}

func TestLLM_8_TheUsageSummary(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		made := w.want(w.call("POST", "/agent/create", map[string]any{"name": "old", "anthropic_api_key": "sk-ant-x"}), 201)
		one, two := strings.TrimPrefix(made.str("uuid"), "agt_"), w.agent(map[string]any{"name": "two"})
		w.ask(one, "!say a\n!tokens 40")
		w.ask(two, "!say b\n!tokens 100")
		w.ask(two, "!say b\n!tokens 100")
		a := w.want(w.call("GET", "/v1/spotlight/analytics/usage-summary", nil, "Authorization", "Bearer "+made.str("platform_api_key")), 200) // AUTH-4
		for _, period := range []string{"today", "this_week", "this_month"} {
			rows := a.get(period + ".by_agent").([]any)
			if a.num(period+".total_output_tokens") != 240 || a.num(period+".total_requests") != 3 || len(rows) != 2 || a.num(period+".total_input_tokens") <= 0 {
				t.Fatalf("%s: %s", period, a.body)
			}
			if first := rows[0].(map[string]any); first["agent_uuid"] != two || first["agent_name"] != "two" || first["output_tokens"] != 200.0 || first["requests"] != 2.0 {
				t.Errorf("%s: %v", period, first)
			}
		}
		other := w.user("other@acme.test")
		if a := other.want(other.call("GET", "/v1/spotlight/analytics/usage-summary", nil), 200); a.num("today.total_requests") != 0 {
			t.Errorf("%s", a.body)
		}
	})
}
