package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"troupe/actors/agent"
	"troupe/http/api"
	"troupe/http/client"
)

// TestScripts runs the stories of testdata/script: the command line as people use it, against a node of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			addr, hook := freePort(t), freePort(t)
			data := filepath.Join(e.WorkDir, "data")
			for name, v := range map[string]string{"ADDR": addr, "HOOK": hook, "TROUPE_SERVER": "http://" + addr, "TROUPE_DATA_DIR": data, "TROUPE_RUNNER": runnerBinary, "HOME": e.WorkDir, "TROUPE_LOG": "error"} {
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
			// secret sets a variable to a member that the last command printed.
			"secret": func(ts *testscript.TestScript, _ bool, args []string) {
				var doc map[string]any
				ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
				ts.Setenv(args[0], fmt.Sprint(doc[args[1]]))
			},
			// fill puts variables into a file.
			"fill": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
			},
			"settled": settled,
			// agent sets AGENT to the id that the last command printed.
			"agent": func(ts *testscript.TestScript, _ bool, _ []string) {
				var a struct{ ID string }
				ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &a))
				ts.Setenv("AGENT", a.ID)
			},
		},
	})
}

// settled waits until so many deliveries of AGENT have arrived and every other one was tried.
func settled(ts *testscript.TestScript, _ bool, args []string) {
	key, err := os.ReadFile(filepath.Join(ts.Getenv("TROUPE_DATA_DIR"), "api.key"))
	ts.Check(err)
	cl := client.New(ts.Getenv("TROUPE_SERVER"), strings.TrimSpace(string(key)))
	var got api.WebhookDeliveryList
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		ts.Check(cl.Do(context.Background(), "GET", "/v1/agent/"+ts.Getenv("AGENT")+"/webhook-deliveries", nil, &got))
		delivered, fresh := 0, 0
		for _, d := range got.Deliveries {
			if d.Status == agent.DeliveryDone {
				delivered++
			} else if d.Attempts == 0 {
				fresh++
			}
		}
		if fmt.Sprint(delivered) == args[0] && fresh == 0 && (len(args) == 1 || len(got.Deliveries) > delivered) {
			return
		}
	}
	ts.Fatalf("deliveries: %+v", got)
}

func TestPeopleSeeNoControlCharacters(t *testing.T) {
	var out strings.Builder
	if _, err := fmt.Fprint(printable{&out}, "a\x1b]52;c;ZXZpbA==\x07b\tc\nd\u009b31m é"); err != nil || out.String() != "a·]52;c;ZXZpbA==·b\tc\nd·31m é" {
		t.Errorf("%q %v", out.String(), err)
	}
}
