package serve

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCFG_11_MemoryIsEmptiedOncePerPod: the run directory lives as long as the pod, the home directory longer.
func TestCFG_11_MemoryIsEmptiedOncePerPod(t *testing.T) {
	home, pod := t.TempDir(), t.TempDir()
	note := filepath.Join(home, ".memory", "note")
	remember := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(note), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(note, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		what, runDir string
		kept         bool
	}{{"a pod starts", pod, false}, {"its container starts again", pod, true}, {"the next pod starts", t.TempDir(), false}} {
		remember()
		if err := emptyMemory(home, tt.runDir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(note); (err == nil) != tt.kept {
			t.Errorf("%s: memory kept %v", tt.what, err == nil)
		}
	}
}
