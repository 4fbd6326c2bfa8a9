package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// TestTheDockerfilesAreLinted parses them as BuildKit does, with every rule of its linter on.
func TestTheDockerfilesAreLinted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(home, "images", "*.Dockerfile"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		tree, err := parser.Parse(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, w := range tree.Warnings {
			t.Errorf("%s: %s", name, w.Short)
		}
		lint := linter.New(&linter.Config{Warn: func(rule, _, _, text string, at []parser.Range) { t.Errorf("%s: %s: %s (%v)", name, rule, text, at) }})
		stages, _, err := instructions.Parse(tree.AST, lint)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		last, user, entry := stages[len(stages)-1], "", false
		for _, c := range last.Commands {
			switch c := c.(type) {
			case *instructions.UserCommand:
				user = c.User
			case *instructions.EntrypointCommand:
				entry = strings.HasPrefix(c.CmdLine[0], "/") && !c.PrependShell
			}
		}
		if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") || !entry {
			t.Errorf("%s: user %q, a program as entry point: %v", name, user, entry)
		}
	}
}
