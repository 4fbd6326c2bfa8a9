package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/rogpeppe/go-internal/testscript"

	"troupe/cluster/member"
	"troupe/http/api"
	"troupe/persistence/redistest"
)

const testKey = "sk_shinzo_live_ExampleExampleExampleExampleExampleExample"

// runnerBinary is the runner, built once for all tests.
var runnerBinary string

func TestMain(m *testing.M) {
	if os.Getenv("TROUPE_TEST_NODE") != "" {
		main() // this binary as a node of its own, see nodeProcess
		return
	}
	testscript.Main(tests{m}, map[string]func(){"troupe": main})
}

// tests runs all tests with the runner built.
type tests struct{ *testing.M }

func (m tests) Run() int {
	dir, err := os.MkdirTemp("", "troupe-test")
	if err != nil {
		panic(err)
	}
	runnerBinary = filepath.Join(dir, "troupe-runner")
	if out, err := exec.Command("go", "build", "-o", runnerBinary, "../runner").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the runner: %v\n%s", err, out)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.M.Run()
}

// contract loads the document once.
var contract = sync.OnceValue(func() *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		panic(err)
	}
	return doc
})

// world is one node under test and a client whose every response is checked against the contract.
type world struct {
	t    testing.TB
	n    *node
	base string
	key  string
	dir  string
}

// testConfig is a node that needs nothing from outside.
func testConfig(t testing.TB) Config {
	t.Helper()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.dev, cfg.DataDir, cfg.Listen, cfg.BootstrapKey, cfg.Runner = true, t.TempDir(), "127.0.0.1:0", testKey, runnerBinary
	cfg.RateLimit, cfg.GuestLimit, cfg.RedisURL, cfg.AnthropicURL, cfg.ProcessLimit = 0, 0, "", "", 64
	if err := cfg.finish(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// member is the node's place in its cluster, once it has one.
func (w *world) member() *member.Node {
	w.t.Helper()
	select {
	case <-w.n.cluster.Provider.Ready():
	case <-time.After(30 * time.Second):
		w.t.Fatal("the node has not joined")
	}
	return w.n.cluster
}

func startWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	cfg := testConfig(t)
	if change != nil {
		change(&cfg)
	}
	return openWorld(t, cfg)
}

func openWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(logTo{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	n, err := startNode(ctx, cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, n: n, base: "http://" + n.addr, key: testKey, dir: cfg.DataDir}
	t.Cleanup(func() {
		n.stop()
		killRunners(t, cfg.DataDir)
	})
	return w
}

// killRunners ends the runners that a test left behind: they outlive their node on purpose.
func killRunners(t testing.TB, dir string) {
	records, _ := filepath.Glob(filepath.Join(dir, "agents", "*", "run", "record.json"))
	for _, r := range records {
		var rec struct{ PID int }
		b, _ := os.ReadFile(r)
		if json.Unmarshal(b, &rec) == nil && rec.PID > 1 {
			if p, err := os.FindProcess(-rec.PID); err == nil {
				_ = p.Kill()
			}
			_ = exec.Command("pkill", "-KILL", "-s", fmt.Sprint(rec.PID)).Run()
		}
	}
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	defer func() { _ = recover() }() // a line after the end of the test has no place to go
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// answer is a response that fits the contract.
type answer struct {
	status int
	header http.Header
	body   []byte
	doc    map[string]any
}

func (a *answer) str(path string) string {
	s, _ := a.get(path).(string)
	return s
}

func (a *answer) num(path string) float64 {
	f, _ := a.get(path).(float64)
	return f
}

func (a *answer) get(path string) any {
	var v any = a.doc
	for _, p := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// call makes a request and checks the response. Body may be nil, a string sent as it is, or anything JSON.
func (w *world) call(method, path string, body any, header ...string) *answer {
	w.t.Helper()
	a, err := w.try(method, path, body, header...)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// stay is a client that shows redirects instead of following them.
var stay = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (w *world) try(method, path string, body any, header ...string) (*answer, error) {
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		raw, _ = json.Marshal(b)
	}
	req, err := http.NewRequest(method, w.base+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if w.key != "" {
		req.Header.Set("Authorization", "Bearer "+w.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	res, err := stay.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	_ = json.Unmarshal(a.body, &a.doc)
	if method == "HEAD" || method == "OPTIONS" {
		return a, nil
	}
	return a, validate(req, a)
}

// validate checks a response against the contract. An unknown path has only the error body to fit.
func validate(req *http.Request, a *answer) error {
	route, params := find(req.Method, req.URL.Path)
	if route == nil {
		if a.str("code") == "" || a.str("error") == "" || a.str("request_id") == "" {
			return fmt.Errorf("status %d without an error body: %s", a.status, a.body)
		}
		return nil
	}
	if typ := a.header.Get("Content-Type"); a.status == 200 && (a.header.Get("Content-Disposition") != "" || strings.HasPrefix(typ, "application/yaml") || strings.HasPrefix(typ, "text/plain")) {
		return nil // a document of its own, not JSON
	}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: a.status, Header: a.header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}
	out.SetBodyBytes(a.body)
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		return fmt.Errorf("status %d does not fit the contract: %w\n%s", a.status, err, a.body)
	}
	return nil
}

// find matches a path against the document, static segments first (GEN-3).
func find(method, path string) (*routers.Route, map[string]string) {
	got := strings.Split(strings.TrimRight(path, "/"), "/")
	var best *routers.Route
	var params map[string]string
	static := -1
	for pattern, item := range contract().Paths.Map() {
		op := item.GetOperation(method)
		want, got := strings.Split(pattern, "/"), got
		if strings.HasSuffix(pattern, "/{path}") && len(got) >= len(want) { // the rest of the path (FS-1)
			got = append(got[:len(want)-1:len(want)-1], strings.Join(got[len(want)-1:], "/"))
		}
		if op == nil || len(want) != len(got) {
			continue
		}
		p, n, ok := map[string]string{}, 0, true
		for i := range want {
			if strings.HasPrefix(want[i], "{") {
				p[strings.Trim(want[i], "{}")] = got[i]
			} else if want[i] == got[i] {
				n += 1 << (len(want) - i) // an earlier static segment wins
			} else {
				ok = false
			}
		}
		if ok && n > static {
			static, params = n, p
			best = &routers.Route{Spec: contract(), Path: pattern, PathItem: item, Method: method, Operation: op}
		}
	}
	return best, params
}

// want fails the test unless the answer has this status.
func (w *world) want(a *answer, status int) *answer {
	w.t.Helper()
	if a.status != status {
		w.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

// refused fails the test unless the answer is this error.
func (w *world) refused(a *answer, status int, code string) *answer {
	w.t.Helper()
	if a.status != status || a.str("code") != code {
		w.t.Fatalf("got %d %s, want %d %s: %s", a.status, a.str("code"), status, code, a.body)
	}
	return a
}

// agent creates an agent and returns its id.
func (w *world) agent(body map[string]any) string {
	w.t.Helper()
	if body == nil {
		body = map[string]any{}
	}
	if body["name"] == nil {
		body["name"] = "probe"
	}
	return w.want(w.call("POST", "/v1/agent/create", body), 201).str("id")
}

// ask sends a message and waits for its outcome.
func (w *world) ask(id, content string) *answer {
	w.t.Helper()
	return w.want(w.call("POST", "/v1/agent/"+id+"/messages?wait=30", map[string]any{"content": content}), 201)
}

// until polls until ok holds.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// explain shows where an agent stands if the test has failed, with what else there is to say.
func (w *world) explain(id string, more func() string) {
	w.t.Cleanup(func() {
		if !w.t.Failed() {
			return
		}
		w.t.Log(more())
		for _, path := range []string{"/runtime", "/messages?limit=10", "/sessions"} {
			if a, err := w.try("GET", "/v1/agent/"+id+path, nil); err == nil {
				w.t.Logf("%s: %s", path, a.body)
			}
		}
		stacks := make([]byte, 1<<20)
		w.t.Logf("%s", stacks[:goruntime.Stack(stacks, true)])
	})
}

// stores runs a test on both stores.
func stores(t *testing.T, test func(t *testing.T, change func(*Config))) {
	t.Run("embedded", func(t *testing.T) { test(t, func(*Config) {}) })
	t.Run("redis", func(t *testing.T) {
		srv := redistest.Start(t)
		test(t, func(c *Config) { c.RedisURL = srv.URL() })
	})
}

// startRedisFor starts a Redis of the test's own.
func startRedisFor(t *testing.T) *redistest.Server { return redistest.Start(t) }

// freePort finds a port for a process that is started later.
func freePort(t testing.TB) string { return redistest.FreeAddr(t) }
