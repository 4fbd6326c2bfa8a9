package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// turnLimit is the agents' timeout; a turn may be open for a minute more (TURN-7).
const turnLimit = time.Minute

const key = "sk_shinzo_live_ChaosChaosChaosChaosChaosChaosChaosChaosCh"

// world is the cluster under test. Every way between its processes leads through a gate that can be closed.
type world struct {
	dir   string
	store *store
	nodes []*node // that are there from the start, and take the load
	guest *node   // joins and leaves
	http  *http.Client
	hooks *hooks
	slots map[string]string // agent → its schedule
}

// node is one control-plane process with its gates.
type node struct {
	*process
	name  string
	addr  string           // of the API
	redis map[string]*gate // to every server of the store
	peers *gate            // from the other nodes
}

// process is a command that can be started again.
type process struct {
	mu   sync.Mutex
	path string
	args []string
	env  []string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	done, cmd := make(chan struct{}), p.cmd
	p.done = done
	go func() { _ = cmd.Wait(); close(done) }() // ends with the process
	return nil
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// end signals and waits until the process is gone; after limit it is killed.
func (p *process) end(s syscall.Signal, limit time.Duration) {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(s)
	select {
	case <-done:
	case <-time.After(limit):
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-done
	}
}

// freeAddr finds an address for a server that is started again and again. Its port and that of a cluster's bus, 10000 above, are below those
// that a system gives to connections, so that none takes it while the server is down.
func freeAddr() (string, error) {
	for range 1000 {
		port := 10000 + mrand.IntN(10000)
		if _, twice := given[port]; twice {
			continue
		}
		given[port] = struct{}{}
		for _, p := range []int{port, port + 10000} {
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", p))
			if err != nil {
				port = 0
				break
			}
			_ = l.Close()
		}
		if port > 0 {
			return fmt.Sprint("127.0.0.1:", port), nil
		}
	}
	return "", errors.New("no port is free")
}

var given = map[int]struct{}{} // ports that freeAddr has returned

func newWorld(ctx context.Context, shape string, n int) (_ *world, err error) {
	dir, err := os.MkdirTemp("", "troupe-chaos")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, slots: map[string]string{}, http: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.hooks, err = openHooks(); err != nil {
		return nil, err
	}
	if w.store, err = newStore(ctx, shape, dir); err != nil {
		return nil, err
	}
	master := make([]byte, 32)
	_, _ = rand.Read(master)
	for i := range n + 1 {
		x := &node{name: fmt.Sprintf("node%d", i)}
		if x.addr, err = freeAddr(); err != nil {
			return nil, err
		}
		actors, err := freeAddr()
		if err != nil {
			return nil, err
		}
		if x.redis, err = w.store.gates(); err != nil {
			return nil, err
		}
		if x.peers, err = openGate(actors); err != nil {
			return nil, err
		}
		x.process = &process{path: filepath.Join(*bin, "troupe"), args: []string{"serve"}, log: filepath.Join(dir, x.name+".log"), env: []string{
			"TROUPE_LISTEN=" + x.addr, "TROUPE_NODE_NAME=" + x.name, "TROUPE_DATA_DIR=" + dir, "TROUPE_REDIS_URL=" + w.store.url(x.redis), fmt.Sprint("TROUPE_MIN_REPLICA_ACKS=", w.store.acks()),
			"TROUPE_MASTER_KEY=" + base64.StdEncoding.EncodeToString(master), "TROUPE_BOOTSTRAP_API_KEY=" + key, "TROUPE_ANTHROPIC_URL=rehearsal",
			"TROUPE_CLUSTER_LISTEN=" + actors, "TROUPE_CLUSTER_ADVERTISE=" + x.peers.addr, "TROUPE_RATE_LIMIT=0", "TROUPE_ALLOW_HTTP=true", "TROUPE_EGRESS_ALLOW=127.0.0.1", "TROUPE_LOG=info",
			"TROUPE_SANDBOX=off", "TROUPE_PROCESS_LIMIT=64", "TROUPE_PUBLIC_METRICS=true", "TROUPE_PASSIVATE_AFTER=5s"}}
		if i == n {
			x.name, w.guest = "guest", x
			break
		}
		w.nodes = append(w.nodes, x)
	}
	return w, nil
}

func (w *world) start(ctx context.Context) error {
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return fmt.Errorf("start a node: %w", err)
		}
	}
	for _, n := range w.nodes {
		if err := w.await(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a node is healthy; one that ended (Redis was not there yet) is started again.
func (w *world) await(ctx context.Context, n *node) error {
	for end := time.Now().Add(time.Minute); ; {
		if status, _, err := w.call(ctx, n, "GET", "/health", nil, ""); err == nil && status == 200 {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%s does not become healthy, see %s", n.name, n.log)
		}
		select {
		case <-n.done:
			if err := n.start(); err != nil {
				return err
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// call makes one request through a node.
func (w *world) call(ctx context.Context, n *node, method, path string, in any, idempotency string) (int, map[string]any, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = strings.NewReader(string(b))
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.addr+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	if idempotency != "" {
		req.Header.Set("Idempotency-Key", idempotency)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, err
	}
	doc := map[string]any{}
	_ = json.Unmarshal(raw, &doc) // an empty document for what is no JSON
	return res.StatusCode, doc, nil
}

// ask repeats a request through one node after the other until it is answered with a 2xx.
func (w *world) ask(ctx context.Context, method, path string, in any) (map[string]any, error) {
	last := errors.New("not asked")
	for try := 0; try < 300 && ctx.Err() == nil; try++ {
		status, doc, err := w.call(ctx, w.nodes[try%len(w.nodes)], method, path, in, "")
		if err == nil && status/100 == 2 {
			return doc, nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("%s %s: %d %v", method, path, status, doc)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, last
}

func (w *world) makeAgents(ctx context.Context, n int) (ids []string, err error) {
	for i := range n {
		doc, err := w.ask(ctx, "POST", "/v1/agent/create", map[string]any{"name": fmt.Sprintf("chaos %d", i), "output_token_balance": 1 << 40,
			"configuration": map[string]any{"timeout_seconds": turnLimit / time.Second, "webhooks": map[string]any{"message_complete": w.hooks.url, "message_failed": w.hooks.url}},
			"session_mode":  []string{"ephemeral", "persistent"}[i%2]})
		if err != nil {
			return nil, err
		}
		id, _ := doc["id"].(string)
		if doc, err = w.ask(ctx, "POST", "/v1/agent/"+id+"/schedules", map[string]any{"name": "chaos", "cron_expression": "* * * * *", "message_template": "!say {{time}}"}); err != nil {
			return nil, err
		}
		w.slots[id], _ = doc["uuid"].(string)
		ids = append(ids, id)
	}
	return ids, nil
}

// heal undoes whatever faults are left.
func (w *world) heal() {
	for _, n := range w.nodes {
		n.reach(true)
		n.peers.open(true)
		n.signal(syscall.SIGCONT)
	}
}

// reach lets the node's traffic with the store pass, or stops it.
func (n *node) reach(pass bool) {
	for _, g := range n.redis {
		g.open(pass)
	}
}

// runners returns the processes of agents that live.
func (w *world) runners() (pids []int) {
	records, _ := filepath.Glob(filepath.Join(w.dir, "agents", "*", "run", "record.json"))
	for _, r := range records {
		var rec struct{ PID int }
		b, _ := os.ReadFile(r)
		if json.Unmarshal(b, &rec) == nil && rec.PID > 1 && syscall.Kill(rec.PID, 0) == nil {
			pids = append(pids, rec.PID)
		}
	}
	return pids
}

func (w *world) close() {
	nodes := w.nodes
	if w.guest != nil {
		nodes = append(nodes[:len(nodes):len(nodes)], w.guest)
	}
	for _, n := range nodes {
		n.end(syscall.SIGKILL, time.Second)
		for _, g := range n.redis {
			g.close()
		}
		n.peers.close()
	}
	if w.hooks != nil {
		w.hooks.close()
	}
	if w.store != nil {
		w.store.close()
	}
	for _, pid := range w.runners() {
		_ = exec.Command("pkill", "-KILL", "-s", strconv.Itoa(pid)).Run()
	}
	if *keep {
		fmt.Println("logs and data are in " + w.dir)
		return
	}
	_ = os.RemoveAll(w.dir)
}
