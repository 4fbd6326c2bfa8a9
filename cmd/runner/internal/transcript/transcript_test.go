package transcript

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func open(t *testing.T, home string) *Transcript {
	t.Helper()
	tr, err := Open(home, "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func content(s string) json.RawMessage { return json.RawMessage(s) }

// story writes a turn with two tool calls and its end.
func story(t *testing.T, tr *Transcript) {
	t.Helper()
	for _, step := range []func() error{
		func() error { return tr.Prompt("t1", 1, "do it") },
		func() error {
			return tr.Append("t1", Message{"assistant", content(`[{"type":"text","text":"ok"},{"type":"tool_use","id":"c1","name":"shell","input":{}},{"type":"tool_use","id":"c2","name":"shell","input":{}}]`)})
		},
		func() error {
			return tr.Append("t1", Message{"user", content(`[{"type":"tool_result","tool_use_id":"c1","content":"x"},{"type":"tool_result","tool_use_id":"c2","content":"y"}]`)})
		},
		func() error { return tr.Append("t1", Message{"assistant", content(`[{"type":"text","text":"done"}]`)}) },
		func() error { return tr.End("t1", End{Outcome: "completed", Reply: "done"}) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRUN_7_UsableAfterACutAtAnyByte cuts the file everywhere: it always opens, every tool call has its result, and
// the roles alternate once neighbours are joined.
func TestRUN_7_UsableAfterACutAtAnyByte(t *testing.T) {
	home := t.TempDir()
	tr := open(t, home)
	story(t, tr)
	whole, err := os.ReadFile(Path(home, "s"))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		dir := t.TempDir()
		if err := os.MkdirAll(dir+"/.sessions", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(Path(dir, "s"), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir)
		if err := again.Prompt("t1", 2, "go on"); err != nil {
			t.Fatal(err)
		}
		joined, err := again.Joined()
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		calls, results := map[string]bool{}, map[string]bool{}
		for i, m := range joined {
			if i > 0 && joined[i-1].Role == m.Role {
				t.Fatalf("cut at %d: two %s messages in a row", cut, m.Role)
			}
			var blocks []struct {
				Type, ID string
				Use      string `json:"tool_use_id"`
			}
			if err := json.Unmarshal(m.Content, &blocks); err != nil {
				t.Fatalf("cut at %d: %v in %s", cut, err, m.Content)
			}
			for _, b := range blocks {
				if b.Type == "tool_use" {
					calls[b.ID] = true
				}
				if b.Type == "tool_result" {
					results[b.Use] = true
				}
			}
		}
		for id := range calls {
			if !results[id] {
				t.Fatalf("cut at %d: tool call %s has no result", cut, id)
			}
		}
		_ = again.Close()
		once := open(t, dir) // what was repaired stays so
		if n := len(once.Messages()); n != len(again.Messages()) {
			t.Fatalf("cut at %d: %d messages, then %d", cut, len(again.Messages()), n)
		}
	}
}

func TestInterruptedCallsAreToldNotRepeated(t *testing.T) {
	home := t.TempDir()
	tr := open(t, home)
	if err := tr.Append("t", Message{"assistant", content(`[{"type":"tool_use","id":"c1","name":"shell","input":{}}]`)}); err != nil {
		t.Fatal(err)
	}
	_ = tr.Close()
	again := open(t, home)
	last := again.Messages()[1]
	if last.Role != "user" || !strings.Contains(string(last.Content), Interrupted[:30]) {
		t.Fatalf("%s", last.Content)
	}
}

func TestTheEndIsKnownBeforeItIsReported(t *testing.T) {
	home := t.TempDir()
	tr := open(t, home)
	story(t, tr)
	_ = tr.Close()
	again := open(t, home)
	if e, ok := again.Ended("t1"); !ok || e.Reply != "done" {
		t.Fatalf("%+v %v", e, ok)
	}
	if !again.Prompted("t1", 1) || again.Prompted("t1", 2) {
		t.Error("prompted attempts")
	}
	if _, err := Open(home, "../x"); err == nil {
		t.Error("a transcript outside its directory was opened")
	}
}
