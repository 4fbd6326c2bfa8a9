package main

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"troupe/http/files"
	"troupe/http/gateway"
	"troupe/http/rest"
	"troupe/http/runnerapi"

	"sigs.k8s.io/yaml"

	"troupe/http/api"
)

// TestEveryOperationHasItsRoute compares the table of routes with the contract, both ways.
func TestEveryOperationHasItsRoute(t *testing.T) {
	tags := []string{"Agents", "Messaging", "Auth", "Platform Keys", "Provider Keys", "Agent Runtime", "LLM Gateway", "Observability", "Triggers", "Legacy", "MCP Servers", "Analytics", "Filesystem"}
	routes := rest.Routes(rest.Config{})
	routes = append(routes, runnerapi.Routes(runnerapi.Config{})...)
	routes = append(routes, files.Routes(files.Config{})...)
	routes = append(routes, gateway.New(gateway.Config{}).Routes()...)
	have := map[string]string{}
	for _, r := range routes {
		have[r.Op] = r.Method + " " + r.Path
	}
	for path, item := range contract().Paths.Map() {
		for method, op := range item.Operations() {
			want := method + " " + path
			got, served := have[op.OperationID]
			if served && got != want {
				t.Errorf("%s is served as %s, the contract says %s", op.OperationID, got, want)
			}
			if !served && slices.Contains(tags, op.Tags[0]) {
				t.Errorf("%s %s has no handler", op.OperationID, want)
			}
			delete(have, op.OperationID)
		}
	}
	for op, r := range have {
		t.Errorf("%s %s is unknown to the contract", op, r)
	}
}

// example returns a body example of the contract.
func example(t *testing.T, name string) map[string]any {
	t.Helper()
	var doc struct {
		Components struct {
			Examples map[string]struct{ Value map[string]any }
		}
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Components.Examples[name].Value
}

// TestTheContractsOwnExamples creates and updates an agent with the examples of the contract and reads them back equal.
func TestTheContractsOwnExamples(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, change)
		full := example(t, "AgentCreateFull")
		// The hosts of the example are no public names; the guard looks at names only when it connects.
		a := w.want(w.call("POST", "/v1/agent/create", full), 201)
		got := w.want(w.call("GET", "/v1/agent/"+a.str("id"), nil), 200)
		want := example(t, "Agent")
		for _, volatile := range []string{"id", "created_at", "updated_at", "status_reason"} {
			delete(want, volatile)
		}
		fs := want["filesystem_summary"].(map[string]any)
		fs["last_modified"] = got.get("filesystem_summary.last_modified")
		raw, _ := json.Marshal(want)
		var wanted map[string]any
		_ = json.Unmarshal(raw, &wanted)
		for member, v := range wanted {
			if !reflect.DeepEqual(got.doc[member], v) {
				t.Errorf("%s: got %v, want %v", member, got.doc[member], v)
			}
		}
		if !strings.HasPrefix(a.str("webhook_secret"), "whsec_") || got.str("webhook_secret") != "" {
			t.Errorf("SEC-2: the webhook secret is shown exactly once: %q then %q", a.str("webhook_secret"), got.str("webhook_secret"))
		}
		for _, secret := range []string{"xoxb-example", "example-signing-secret", "example-telegram-token", "Bearer example", "tier-1"} {
			if strings.Contains(string(got.body), secret) || strings.Contains(string(a.body), secret) {
				t.Errorf("SEC-3: %q shows in a response", secret)
			}
		}
		id := a.str("id")
		up := w.want(w.call("POST", "/v1/agent/update/"+id, example(t, "AgentUpdate")), 200)
		if up.str("description") != "Sorts support mail of the EU region." || up.str("session_mode") != "ephemeral" || up.get("warmth_window_ms") != nil ||
			up.num("configuration.timeout_seconds") != 900 || up.get("configuration.hook_messages.unread_message_reminder") == nil {
			t.Errorf("CFG-4: %s", up.body)
		}
		files := w.want(w.call("POST", "/v1/agent/update/"+id, example(t, "AgentUpdateFiles")), 200)
		if files.num("filesystem_summary.total_files") != 2 {
			t.Errorf("FILE-1: %s", files.body)
		}
		w.refused(w.call("POST", "/v1/agent/update/"+id, example(t, "AgentUpdateFiles")), 409, "file_exists")
		w.refused(w.call("POST", "/v1/agent/update/"+id, map[string]any{"description": "x", "files": map[string]any{"delete": []string{"nothing"}}}), 400, "file_not_found")
		if back := w.call("GET", "/v1/agent/"+id, nil); back.str("description") != "Sorts support mail of the EU region." {
			t.Errorf("FILE-1: fields changed although the files did not: %s", back.str("description"))
		}
		reply := w.ask(id, "!tool shell {\"command\":\"cat playbook/tone.md playbook/refunds.md; ls data\"}\n!say ok")
		if reply.str("reply.content") == "" || reply.str("outcome") != "completed" {
			t.Errorf("%s", reply.body)
		}
	})
}
