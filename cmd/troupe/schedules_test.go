package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func (w *world) schedule(id string, body map[string]any) string {
	w.t.Helper()
	return w.want(w.call("POST", "/v1/agent/"+id+"/schedules", body), 201).str("uuid")
}

// TestSCHED_6_ASlotBecomesAMessage waits for the next minute on both stores: an agent whose activation has left memory is woken for it.
func TestSCHED_6_ASlotBecomesAMessage(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) {
			change(c)
			c.Passivate = 200 * time.Millisecond
		})
		id := w.agent(map[string]any{"name": "a"})
		w.ask(id, "!say awake")
		s := w.schedule(id, map[string]any{"name": "tick", "cron_expression": "* * * * *", "timezone": "Asia/Kolkata", "message_template": "!say {{schedule.name}} {{time}}"})
		at := "/v1/agent/" + id + "/schedules/" + s
		var run map[string]any
		for end := time.Now().Add(100 * time.Second); run == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if all, _ := w.call("GET", at+"/executions", nil).doc["executions"].([]any); len(all) > 0 {
				run = all[len(all)-1].(map[string]any)
			}
		}
		if run == nil || run["status"] != "success" || run["error"] != nil || !strings.HasSuffix(run["scheduled_for"].(string), ":00.000+05:30") {
			t.Fatalf("%v", run)
		}
		slot, err := time.Parse(time.RFC3339, run["scheduled_for"].(string))
		if err != nil {
			t.Fatal(err)
		}
		done, err := time.Parse(time.RFC3339, run["executed_at"].(string))
		if err != nil || done.Before(slot) || done.Sub(slot) > 20*time.Second { // the machine may be busy; the bench has the figures
			t.Errorf("executed at %v for %v", run["executed_at"], run["scheduled_for"])
		}
		w.until("the message is answered", func() bool {
			return w.call("GET", fmt.Sprintf("/v1/agent/%s/messages/%v", id, run["message_uuid"]), nil).str("outcome") == "completed"
		})
		m := w.call("GET", fmt.Sprintf("/v1/agent/%s/messages/%v", id, run["message_uuid"]), nil)
		if m.str("source") != "schedule" || m.str("source_uuid") != s || m.str("content") != "!say tick "+slot.Format(time.TimeOnly) {
			t.Errorf("MSG-16: %s", m.body)
		}
		if got := w.want(w.call("GET", at, nil), 200); got.num("execution_count") < 1 || got.doc["last_run_at"] == nil {
			t.Errorf("SCHED-12: %s", got.body)
		}
	})
}

func TestSCHED_1_TheRoutes(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		id := w.agent(nil)
		all := "/v1/agent/" + id + "/schedules"
		body := map[string]any{"name": "digest", "cron_expression": "0 9 * * 1-5", "timezone": "Europe/Berlin", "message_template": "Write the digest for {{date}}."}
		made := w.want(w.call("POST", all, body, "Idempotency-Key", "once"), 201)
		again := w.want(w.call("POST", all, body, "Idempotency-Key", "once"), 201)
		if made.str("uuid") != again.str("uuid") || again.header.Get("Idempotent-Replayed") != "true" || made.doc["last_run_at"] != nil || made.doc["next_run_at"] == nil || made.num("execution_count") != 0 {
			t.Errorf("%s\n%s", made.body, again.body)
		}
		at := all + "/" + made.str("uuid")
		if got := w.want(w.call("GET", at, nil), 200); got.str("cron_expression") != "0 9 * * 1-5" || !strings.Contains(got.str("next_run_at"), "T09:00:00.000+0") {
			t.Errorf("%s", got.body)
		}
		if got := w.want(w.call("POST", at+"/toggle", nil), 200); got.doc["enabled"] != false || got.doc["next_run_at"] != nil {
			t.Errorf("SCHED-1: %s", got.body)
		}
		if got := w.want(w.call("PATCH", at, map[string]any{"enabled": true, "cron_expression": "@hourly"}), 200); got.doc["enabled"] != true || got.str("cron_expression") != "@hourly" {
			t.Errorf("%s", got.body)
		}
		w.refused(w.call("PATCH", at, map[string]any{"cron_expression": "61 * * * *"}), 400, "invalid_cron")
		w.refused(w.call("PATCH", at, map[string]any{"cron_expression": "0 0 30 2 *"}), 400, "invalid_cron")
		w.refused(w.call("PATCH", at, map[string]any{"timezone": "Moon/Crater"}), 400, "invalid_timezone")
		w.refused(w.call("PATCH", at, map[string]any{"message_template": "{{nope}}"}), 400, "invalid_template")
		w.refused(w.call("GET", all+"/01a213f6-d4c4-76d4-b54a-3dd8b17e7b1d", nil), 404, "not_found")
		w.refused(w.call("POST", all+"/x/toggle", nil), 404, "not_found")
		var wg sync.WaitGroup
		for range 20 { // an even number of flips, two at a time and more
			wg.Add(1)
			go func() {
				defer wg.Done()
				if a, err := w.try("POST", at+"/toggle", nil); err != nil {
					t.Errorf("SCHED-11: %v", err)
				} else if a.status != 200 {
					t.Errorf("SCHED-11: %d %s", a.status, a.body)
				}
			}()
		}
		wg.Wait()
		if got := w.want(w.call("GET", at, nil), 200); got.doc["enabled"] != true {
			t.Errorf("SCHED-11: %s", got.body)
		}
		statuses := make(chan int, 60)
		for i := range 60 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a, err := w.try("POST", all, map[string]any{"name": fmt.Sprint(i), "cron_expression": "@daily", "message_template": "x", "enabled": i%2 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				statuses <- a.status
			}()
		}
		wg.Wait()
		close(statuses)
		count := map[int]int{}
		for s := range statuses {
			count[s]++
		}
		list := w.want(w.call("GET", all+"?limit=100", nil), 200)
		if count[201] != 49 || count[400] != 11 || len(list.doc["schedules"].([]any)) != 50 {
			t.Errorf("SCHED-1: %v, %d listed", count, len(list.doc["schedules"].([]any)))
		}
		w.refused(w.call("POST", all, body), 400, "limit_reached")
		w.want(w.call("DELETE", at, nil), 200)
		w.refused(w.call("GET", at, nil), 404, "not_found")
		w.refused(w.call("DELETE", at, nil), 404, "not_found")
		if runs := w.want(w.call("GET", all+"/"+list.doc["schedules"].([]any)[1].(map[string]any)["uuid"].(string)+"/executions", nil), 200); len(runs.doc["executions"].([]any)) != 0 {
			t.Errorf("%s", runs.body)
		}
	})
}
