package workspace

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"troupe/http/runnerproto"
)

// place is a workspace on disk with its home.
type place struct {
	t         *testing.T
	dir, home string
	w         *Workspace
}

func newPlace(t *testing.T, files map[string]string) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir(), home: t.TempDir()}
	for name, text := range files {
		full := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.open()
	return p
}

func (p *place) open() {
	p.t.Helper()
	w, err := Open(p.dir, p.home)
	if err != nil {
		p.t.Fatal(err)
	}
	p.w = w
}

// tree is every file with its content, and every directory.
func (p *place) tree() map[string]string {
	p.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(p.dir, path)
		if d.IsDir() {
			out[rel+"/"] = ""
			return nil
		}
		b, err := os.ReadFile(path)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func same(a, b map[string]string) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func file(path, text string) runnerproto.File {
	return runnerproto.File{Path: path, Content: []byte(text)}
}

func change(id string) runnerproto.FileChange {
	return runnerproto.FileChange{ID: id, Add: []runnerproto.File{file("new/deep/a.txt", "A")}, Update: []runnerproto.File{file("b.txt", "B2")}, Delete: []string{"c.txt"}}
}

func TestFILE_1_AllOrNothing(t *testing.T) {
	p := newPlace(t, map[string]string{"b.txt": "B1", "c.txt": "C", "d/x": "x"})
	before := p.tree()
	for name, c := range map[string]struct {
		change runnerproto.FileChange
		code   string
	}{
		"add on an existing path":  {runnerproto.FileChange{ID: "1", Add: []runnerproto.File{file("fresh", "x"), file("b.txt", "y")}}, "file_exists"},
		"update of a missing file": {runnerproto.FileChange{ID: "2", Add: []runnerproto.File{file("fresh", "x")}, Update: []runnerproto.File{file("nope", "y")}}, "file_not_found"},
		"delete of a missing file": {runnerproto.FileChange{ID: "3", Add: []runnerproto.File{file("fresh", "x")}, Delete: []string{"nope"}}, "file_not_found"},
		"FILE-3: a directory":      {runnerproto.FileChange{ID: "4", Delete: []string{"d"}}, "is_directory"},
		"a file as a directory":    {runnerproto.FileChange{ID: "5", Add: []runnerproto.File{file("n/e/w", "x"), file("b.txt/y", "y")}}, "not_a_directory"},
		"one file below another":   {runnerproto.FileChange{ID: "6", Add: []runnerproto.File{file("a", "x"), file("a/b", "y")}}, "not_a_directory"},
	} {
		err := p.w.Apply(c.change)
		var r *Refusal
		if !errors.As(err, &r) || r.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if after := p.tree(); !same(before, after) {
			t.Fatalf("%s left a trace: %v", name, after)
		}
	}
	if err := p.w.Apply(change("7")); err != nil {
		t.Fatal(err)
	}
	after := p.tree()
	if after["new/deep/a.txt"] != "A" || after["b.txt"] != "B2" || after["d/x"] != "x" {
		t.Fatalf("%v", after)
	}
	if _, there := after["c.txt"]; there {
		t.Error("c.txt was not deleted")
	}
	if err := p.w.Apply(change("7")); err != nil {
		t.Fatalf("a change that was applied is not applied again: %v", err)
	}
}

// TestFILE_1_ACrashInTheCommitIsCompleted stops after every step of the commit and opens the workspace again.
func TestFILE_1_ACrashInTheCommitIsCompleted(t *testing.T) {
	for steps := range 4 {
		p := newPlace(t, map[string]string{"b.txt": "B1", "c.txt": "C"})
		j, _, err := p.w.stage(change("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := writeDurable(p.w.journal, j); err != nil {
			t.Fatal(err)
		}
		for _, e := range j.Entries[:min(steps, len(j.Entries))] { // then the process dies
			if e.Stage == "" {
				err = p.w.root.Remove(e.Target)
			} else {
				err = p.w.root.Rename(e.Stage, e.Target)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		p.open()
		after := p.tree()
		if after["new/deep/a.txt"] != "A" || after["b.txt"] != "B2" || len(after) != 5 {
			t.Fatalf("after %d steps: %v", steps, after)
		}
		if err := p.w.Apply(change("x")); err != nil {
			t.Fatalf("the caller's repeat: %v", err)
		}
	}
}

func TestFILE_1_ACrashBeforeTheJournalLeavesNothing(t *testing.T) {
	p := newPlace(t, map[string]string{"b.txt": "B1", "c.txt": "C"})
	if _, _, err := p.w.stage(change("x")); err != nil {
		t.Fatal(err)
	}
	p.open()
	for name := range p.tree() {
		if strings.Contains(name, stagePrefix) {
			t.Errorf("%s is left", name)
		}
	}
	if p.tree()["b.txt"] != "B1" {
		t.Error("an uncommitted change took effect")
	}
}

func TestFILE_1_ADirectoryInTheWayDoesNotBlockTheAgent(t *testing.T) {
	p := newPlace(t, map[string]string{"b.txt": "B1", "c.txt": "C"})
	j, _, err := p.w.stage(change("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := writeDurable(p.w.journal, j); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.dir, "b.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(p.dir, "b.txt", "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.open() // must not fail for ever
	if p.tree()["new/deep/a.txt"] != "A" {
		t.Errorf("%v", p.tree())
	}
}

func TestFS_1_LinksDoNotLeadOutside(t *testing.T) {
	p := newPlace(t, nil)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(p.dir, "out")); err != nil {
		t.Fatal(err)
	}
	err := p.w.Apply(runnerproto.FileChange{ID: "1", Add: []runnerproto.File{file("out/x", "y")}})
	var r *Refusal
	if !errors.As(err, &r) || r.Code != "path_outside_workspace" {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("%v was written outside", left)
	}
}

func TestUsage(t *testing.T) {
	p := newPlace(t, map[string]string{"a": "12345", "d/b": "1"})
	if u := p.w.Usage(); u.TotalFiles != 2 || u.TotalBytes != 6 || u.LastModified == nil {
		t.Errorf("%+v", u)
	}
}
