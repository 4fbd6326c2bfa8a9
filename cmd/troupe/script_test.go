package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the stories of testdata/script: the command line as people use it, against a node of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			addr := freePort(t)
			data := filepath.Join(e.WorkDir, "data")
			for name, v := range map[string]string{"ADDR": addr, "TROUPE_SERVER": "http://" + addr, "TROUPE_DATA_DIR": data, "TROUPE_RUNNER": runnerBinary, "HOME": e.WorkDir, "TROUPE_LOG": "error"} {
				e.Setenv(name, v)
			}
			e.Defer(func() { killRunners(t, data) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// ready waits until the node answers.
			"ready": func(ts *testscript.TestScript, _ bool, _ []string) {
				for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					res, err := http.Get(ts.Getenv("TROUPE_SERVER") + "/health")
					if err == nil {
						_ = res.Body.Close()
						if res.StatusCode == 200 {
							return
						}
					}
					if time.Now().After(end) {
						ts.Fatalf("the node does not answer: %v", err)
					}
				}
			},
			// agent sets AGENT to the id that the last command printed.
			"agent": func(ts *testscript.TestScript, _ bool, _ []string) {
				var a struct{ ID string }
				ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &a))
				ts.Setenv("AGENT", a.ID)
			},
		},
	})
}

func TestPeopleSeeNoControlCharacters(t *testing.T) {
	var out strings.Builder
	if _, err := fmt.Fprint(printable{&out}, "a\x1b]52;c;ZXZpbA==\x07b\tc\nd\u009b31m é"); err != nil || out.String() != "a·]52;c;ZXZpbA==·b\tc\nd·31m é" {
		t.Errorf("%q %v", out.String(), err)
	}
}
