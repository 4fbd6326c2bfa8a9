package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"troupe/cmd/runner/internal/workspace"
)

func host(t *testing.T) *Host {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"workspace", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w, err := workspace.Open(filepath.Join(dir, "workspace"), filepath.Join(dir, "home"))
	if err != nil {
		t.Fatal(err)
	}
	return &Host{Workspace: w, Home: filepath.Join(dir, "home"), Env: os.Environ(), MemoryBytes: 1000}
}

// use calls a tool by its name.
func use(t *testing.T, h *Host, name string, in any) (string, bool) {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range All() {
		if tool.Name == name {
			return tool.Run(context.Background(), h, &Call{Turn: "t", ID: "c"}, raw)
		}
	}
	t.Fatalf("no tool %s", name)
	return "", false
}

type m = map[string]any

func TestFilesAreWrittenReadEditedAndFound(t *testing.T) {
	h := host(t)
	for _, c := range []struct {
		name  string
		in    m
		want  string // a part of the output
		wrong bool
	}{
		{"write_file", m{"path": "a/b.txt", "content": "one\ntwo\nthree\ntwo\n"}, "Wrote 18 bytes to a/b.txt", false},
		{"read_file", m{"path": "/workspace/a/b.txt", "offset": 2, "limit": 2}, "    2\ttwo\n    3\tthree\n", false},
		{"read_file", m{"path": "a"}, "not a regular file", true},
		{"read_file", m{"path": "nothing"}, "no such file", true},
		{"edit_file", m{"path": "a/b.txt", "old": "two", "new": "2"}, "occurs 2 times", true},
		{"edit_file", m{"path": "a/b.txt", "old": "two", "new": "2", "all": true}, "Replaced 2", false},
		{"edit_file", m{"path": "a/b.txt", "old": "two", "new": "2"}, "does not occur", true},
		{"edit_file", m{"path": "a/b.txt", "old": "", "new": "x"}, "does not occur", true},
		{"write_file", m{"path": "a", "content": "x"}, "is a directory", true},
		{"list_files", m{}, "a/\n", false},
		{"list_files", m{"path": "a", "recursive": true}, "a/b.txt\t14", false},
		{"search_files", m{"pattern": "^t.*e$"}, "a/b.txt:3:three", false},
		{"search_files", m{"pattern": "["}, "missing closing", true},
		{"write_file", m{"path": 5}, "does not fit the schema", true},
	} {
		got, wrong := use(t, h, c.name, c.in)
		if wrong != c.wrong || !strings.Contains(got, c.want) {
			t.Errorf("%s %v: %q (error %v), want %q", c.name, c.in, got, wrong, c.want)
		}
	}
}

func TestNoPathLeavesTheWorkspace(t *testing.T) {
	h := host(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(h.Workspace.Dir(), "link")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"link/secret", "../../../../../../../../" + outside, outside} {
		if got, wrong := use(t, h, "read_file", m{"path": p}); !wrong && strings.Contains(got, "secret") {
			t.Errorf("%s was read: %q", p, got)
		}
		_, _ = use(t, h, "write_file", m{"path": p, "content": "changed"})
		if b, _ := os.ReadFile(outside); string(b) != "secret" {
			t.Fatalf("%s was written", p)
		}
	}
	if got, _ := use(t, h, "search_files", m{"pattern": "secret"}); strings.Contains(got, "link") {
		t.Errorf("a search followed a link: %q", got)
	}
}

func TestALargeFileIsNotCutByAnEdit(t *testing.T) {
	h := host(t)
	path := filepath.Join(h.Workspace.Dir(), "large")
	if err := os.WriteFile(path, append([]byte("needle"), make([]byte, maxEdited)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, wrong := use(t, h, "edit_file", m{"path": "large", "old": "needle", "new": "x"}); !wrong || !strings.Contains(got, "larger than") {
		t.Errorf("%q", got)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != maxEdited+6 {
		t.Errorf("%v, %v", st.Size(), err)
	}
}

func TestTheShell(t *testing.T) {
	h := host(t)
	for _, c := range []struct {
		in    m
		want  string
		wrong bool
	}{
		{m{"command": "echo out; echo err >&2; pwd"}, "out\nerr\n" + h.Workspace.Dir(), false},
		{m{"command": "echo partial; exit 3"}, "exit status 3\npartial", true},
		{m{"command": "true"}, "(no output)", false},
		{m{"command": "echo begun; sleep 60", "timeout_seconds": 1}, "was stopped after 1s\nbegun", true},
		{m{"command": "sleep 60 & echo $!"}, "", false},
	} {
		start := time.Now()
		got, wrong := use(t, h, "shell", c.in)
		if wrong != c.wrong || !strings.Contains(got, c.want) || time.Since(start) > 20*time.Second {
			t.Errorf("%v: %q (error %v) after %s, want %q", c.in, got, wrong, time.Since(start), c.want)
		}
	}
	got, _ := use(t, h, "shell", m{"command": "head -c 300000 /dev/zero | tr '\\0' x"})
	if len(got) > MaxOutput+100 || !strings.Contains(got, "bytes left out") {
		t.Errorf("%d bytes came back", len(got))
	}
	got, _ = use(t, h, "shell", m{"command": "(sleep 100; echo late > late) & echo $!"})
	var pid int
	if _, err := fmt.Sscan(got, &pid); err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // the kernel reaps it
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(b), ") Z") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("what a command left in the background still runs")
		}
	}
}

func TestCFG_11_MemoryIsBoundedAndConfined(t *testing.T) {
	h := host(t)
	for _, c := range []struct {
		name  string
		in    m
		want  string
		wrong bool
	}{
		{"memory_write", m{"path": "people/ann.md", "content": "likes tea"}, "Kept", false},
		{"memory_write", m{"path": "people/ann.md", "content": " and cake", "append": true}, "Kept", false},
		{"memory_read", m{"path": "people/ann.md"}, "likes tea and cake", false},
		{"memory_read", m{}, "people/ann.md", false},
		{"memory_write", m{"path": "big", "content": strings.Repeat("x", 990)}, "memory is full", true},
		{"memory_write", m{"path": "../../outside", "content": "x"}, "Kept", false}, // stays inside
		{"memory_read", m{}, "outside", false},
		{"memory_write", m{"path": "people/ann.md", "content": ""}, "Removed", false},
		{"memory_read", m{"path": "people/ann.md"}, "no such file", true},
		{"memory_write", m{"content": "x"}, "path is needed", true},
	} {
		got, wrong := use(t, h, c.name, c.in)
		if wrong != c.wrong || !strings.Contains(got, c.want) {
			t.Errorf("%s %v: %q (error %v), want %q", c.name, c.in, got, wrong, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(h.Home, "..", "outside")); err == nil {
		t.Error("memory was written outside its directory")
	}
	h.SetMemory(json.RawMessage(`{"type":"flat","max_size_mb":1}`))
	if got, _ := use(t, h, "memory_write", m{"content": "all in one"}); got != "Kept" {
		t.Errorf("%q", got)
	}
	if b, _ := os.ReadFile(filepath.Join(h.Home, ".memory", flatFile)); string(b) != "all in one" {
		t.Errorf("flat memory holds %q", b)
	}
}
