// Command bench prints what a message costs, each figure beside references taken in interleaved rounds of the same run:
// a bare fasthttp echo, and a bare fasthttp handler that does one unpipelined call of the accept script per request.
// Figures of one machine and minute; compare ratios.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"troupe/actors/agent"
	"troupe/http/client"
	"troupe/persistence/redisstore"
)

const key = "sk_shinzo_live_BenchBenchBenchBenchBenchBenchBenchBenchBe"

var (
	bin     = flag.String("bin", "bin", "directory of troupe and troupe-runner")
	rounds  = flag.Int("rounds", 3, "interleaved rounds of each measurement")
	seconds = flag.Duration("duration", 2*time.Second, "length of one round")
	many    = flag.Int("agents", 10000, "agents of the largest accept round and of the memory round")
	only    = flag.String("only", "", "one part: accept, replies, memory or starts")
	on      = flag.String("on", "", "accept on one store: embedded, everysec or always")
	serve   = flag.String("serve", "", "internal: run a reference server, echo or script")
	listen  = flag.String("listen", "", "internal: its address")
	store   = flag.String("store", "", "internal: its store")
)

func main() {
	flag.Parse()
	if *serve != "" {
		reference()
		return
	}
	runtime.LockOSThread() // the servers die with the thread that started them, also when this is killed
	b := &bench{}
	defer b.close()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		b.close()
		os.Exit(1)
	}
}

// reference is one of the servers that troupe is compared with.
func reference() {
	handler := func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(201); ctx.SetBody(ctx.PostBody()) }
	if *serve == "script" {
		st, err := redisstore.Open(context.Background(), *store, 0)
		if err != nil {
			panic(err)
		}
		handler = func(ctx *fasthttp.RequestCtx) {
			id := strings.Split(string(ctx.Path()), "/")[3]
			a := &agent.Acceptance{Agent: agent.ID(id), ID: agent.MessageID(agent.NewUUID()), Limit: 1 << 30,
				Body: agent.Body{Role: agent.RoleUser, Content: string(ctx.PostBody()), Channel: agent.ChannelAPI, Counterparty: "bench"}}
			if _, err := st.AcceptAlone(ctx, a); err != nil {
				ctx.SetStatusCode(500)
				return
			}
			ctx.SetStatusCode(201)
			ctx.SetBody(ctx.PostBody())
		}
	}
	if err := fasthttp.ListenAndServe(*listen, handler); err != nil {
		panic(err)
	}
}

// bench owns every process it starts.
type bench struct {
	procs []*exec.Cmd
	dirs  []string
}

func (b *bench) close() {
	for i := len(b.procs) - 1; i >= 0; i-- {
		_ = b.procs[i].Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = b.procs[i].Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = b.procs[i].Process.Kill()
		}
	}
	for _, d := range b.dirs {
		records, _ := filepath.Glob(filepath.Join(d, "agents", "*", "run", "record.json"))
		for _, r := range records {
			var rec struct{ PID int }
			raw, _ := os.ReadFile(r)
			if json.Unmarshal(raw, &rec) == nil && rec.PID > 1 {
				_ = exec.Command("pkill", "-KILL", "-s", strconv.Itoa(rec.PID)).Run()
			}
		}
		_ = os.RemoveAll(d)
	}
	b.procs, b.dirs = nil, nil
}

func (b *bench) dir() string {
	d, err := os.MkdirTemp("", "troupe-bench")
	if err != nil {
		panic(err)
	}
	b.dirs = append(b.dirs, d)
	return d
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (b *bench) start(env []string, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	log, err := os.OpenFile(filepath.Join(b.dir(), "log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.procs = append(b.procs, cmd)
	return cmd, nil
}

func (b *bench) redis(fsync string) (string, error) {
	addr := freeAddr()
	_, port, _ := net.SplitHostPort(addr)
	if _, err := b.start(nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", b.dir(), "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
		"--auto-aof-rewrite-percentage", "0"); err != nil {
		return "", fmt.Errorf("redis-server (apt-get install redis-server): %w", err)
	}
	return "redis://" + addr, dial(addr)
}

func dial(addr string) error {
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
	}
	return errors.New("nothing listens on " + addr)
}

// node is one troupe process under measurement.
type node struct {
	cmd  *exec.Cmd
	addr string
	dir  string
	api  *client.Client
}

func (b *bench) node(redis string, env ...string) (*node, error) {
	n := &node{addr: freeAddr(), dir: b.dir()}
	env = append([]string{"TROUPE_LISTEN=" + n.addr, "TROUPE_DATA_DIR=" + n.dir, "TROUPE_REDIS_URL=" + redis, "TROUPE_BOOTSTRAP_API_KEY=" + key, "TROUPE_RATE_LIMIT=0",
		"TROUPE_ANTHROPIC_URL=rehearsal", "TROUPE_LOG=error", "TROUPE_PASSIVATE_AFTER=1h", "TROUPE_PENDING_LIMIT=100000000"}, env...)
	var err error
	if n.cmd, err = b.start(env, filepath.Join(*bin, "troupe"), "dev"); err != nil {
		return nil, err
	}
	n.api = client.New("http://"+n.addr, key)
	return n, dial(n.addr)
}

// agents makes agents, and stops them if asked.
func (n *node) agents(count int, stop bool) ([]string, error) {
	ids := make([]string, count)
	var failed atomic.Pointer[error]
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				var a struct{ ID string }
				err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench", "output_token_balance": 1 << 40}, &a)
				if err == nil && stop {
					err = n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/status", map[string]any{"status": "stopped"}, nil)
				}
				ids[i] = a.ID
				if err != nil {
					failed.Store(&err)
				}
			}
		}()
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return nil, *e
	}
	return ids, nil
}

// cpu is the processor time a process has used.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rss is the resident memory of a process in MiB.
func rss(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1024
		}
	}
	return 0
}

// figures of one round.
type figures struct {
	rate     float64
	p50, p99 time.Duration
	cpu      time.Duration // of the server, per request
	failed   int
}

// load sends messages from 64 connections for one round.
func load(addr string, pid int, ids []string) figures {
	hc := &fasthttp.HostClient{Addr: addr, MaxConns: 128}
	body := []byte(`{"content":"a message of ordinary length, about as long as people write them in a chat with an agent"}`)
	var mu sync.Mutex
	var lat []time.Duration
	var failed atomic.Int64
	var wg sync.WaitGroup
	before, start := cpu(pid), time.Now()
	for w := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.Header.SetMethod("POST")
			req.Header.SetContentType("application/json")
			req.Header.Set("Authorization", "Bearer "+key)
			req.SetBody(body)
			var mine []time.Duration
			for i := w; time.Since(start) < *seconds; i += 64 {
				req.SetRequestURI("http://" + addr + "/v1/agent/" + ids[i%len(ids)] + "/messages")
				t := time.Now()
				if err := hc.Do(req, res); err != nil || res.StatusCode() != 201 {
					if failed.Add(1) == 1 {
						fmt.Fprintf(os.Stderr, "bench: the first failure: %v %d %s\n", err, res.StatusCode(), res.Body())
					}
					continue
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			lat = append(lat, mine...)
			mu.Unlock()
		}()
	}
	wg.Wait()
	took := time.Since(start)
	f := figures{rate: float64(len(lat)) / took.Seconds(), failed: int(failed.Load())}
	if len(lat) > 0 {
		slices.Sort(lat)
		f.p50, f.p99, f.cpu = lat[len(lat)/2], lat[len(lat)*99/100], (cpu(pid)-before)/time.Duration(len(lat))
	}
	return f
}

func median(fs []figures) figures {
	slices.SortFunc(fs, func(a, b figures) int { return int(a.rate - b.rate) })
	return fs[len(fs)/2]
}

func (b *bench) run() error {
	everysec, err := b.redis("everysec")
	if err != nil {
		return err
	}
	always, err := b.redis("always")
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"accept", func() error {
			fmt.Printf("%-40s %10s %10s %10s %12s %s\n", "accepted messages", "per s", "p50", "p99", "cpu/message", "ratio to the bare script handler, failed")
			for _, s := range []struct{ name, url string }{{"embedded", ""}, {"redis everysec", everysec}, {"redis always", always}} {
				if *on != "" && !strings.HasSuffix(s.name, *on) {
					continue
				}
				if err := b.accept(s.name, s.url); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			return nil
		}},
		{"replies", func() error { return b.replies(everysec) }},
		{"memory", b.memory},
		{"starts", b.starts},
	} {
		if *only == "" || *only == part.name {
			if err := part.run(); err != nil {
				return err
			}
		}
	}
	return nil
}

// accept measures the acceptance in rounds interleaved with the references.
func (b *bench) accept(name, url string) error {
	idle, err := b.idleRunner()
	if err != nil {
		return err
	}
	n, err := b.node(url, "TROUPE_PROCESS_LIMIT=1", "TROUPE_SANDBOX=off", "TROUPE_START_TIMEOUT=1h", "TROUPE_RUNNER="+idle)
	if err != nil {
		return err
	}
	counts := slices.DeleteFunc([]int{1, 100, *many}, func(c int) bool { return c > *many })
	counts = slices.Compact(counts)
	ids, err := n.prepare(counts[len(counts)-1])
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	refs := map[string]*node{}
	for _, kind := range []string{"echo", "script"} {
		if kind == "script" && url == "" {
			continue
		}
		r := &node{addr: freeAddr()}
		if r.cmd, err = b.start(nil, exe, "-serve", kind, "-listen", r.addr, "-store", url); err != nil {
			return err
		}
		if err := dial(r.addr); err != nil {
			return err
		}
		refs[kind] = r
	}
	// The references of one case see the same agents, in the same round.
	type row struct{ kind, agents string }
	var rows []row
	got := map[row][]figures{}
	for range *rounds {
		rows = rows[:0]
		for _, c := range counts {
			for _, kind := range []string{"echo", "script", "troupe"} {
				r := refs[kind]
				if kind == "troupe" {
					r = n
				}
				if r == nil || kind == "echo" && c != counts[0] {
					continue
				}
				k := row{kind, fmt.Sprintf("%d agents", c)}
				rows = append(rows, k)
				got[k] = append(got[k], load(r.addr, r.cmd.Process.Pid, ids[:c]))
			}
		}
	}
	for _, k := range rows {
		f, ratio := median(got[k]), "-"
		if base := got[row{"script", k.agents}]; len(base) > 0 {
			ratio = fmt.Sprintf("%.2f", f.rate/median(base).rate)
		}
		fmt.Printf("%-40s %10.0f %10s %10s %12s %s, %d\n", name+", "+k.kind+", "+k.agents, f.rate, f.p50.Round(10*time.Microsecond), f.p99.Round(10*time.Microsecond), f.cpu.Round(time.Microsecond), ratio, f.failed)
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// idleRunner makes a runner that never attaches. It keeps the only place, so that no pod comes or goes while acceptance is measured.
func (b *bench) idleRunner() (string, error) {
	path := filepath.Join(b.dir(), "runner")
	return path, os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o700)
}

// prepare makes paused agents: nothing but the acceptance is measured.
func (n *node) prepare(count int) ([]string, error) {
	ids := make([]string, count)
	var next atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				var a struct{ ID string }
				err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a)
				if err == nil {
					err = n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/pause", nil, nil)
				}
				if err != nil {
					first.Store(&err)
					return
				}
				ids[i] = a.ID
			}
		}()
	}
	wg.Wait()
	if e := first.Load(); e != nil {
		return nil, *e
	}
	return ids, nil
}

// replies measures from sending to the stored reply, through a warm rehearsal runner.
func (b *bench) replies(url string) error {
	n, err := b.node(url)
	if err != nil {
		return err
	}
	var a struct{ ID string }
	if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a); err != nil {
		return err
	}
	send := func() (time.Duration, error) {
		start := time.Now()
		var m struct{ Outcome *string }
		err := n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/messages?wait=30", map[string]any{"content": "!say ok"}, &m)
		if err == nil && (m.Outcome == nil || *m.Outcome != "completed") {
			err = errors.New("a message was not answered")
		}
		return time.Since(start), err
	}
	var lat []time.Duration
	for i := range 220 {
		d, err := send()
		if err != nil {
			return err
		}
		if i >= 20 { // warm
			lat = append(lat, d)
		}
	}
	slices.Sort(lat)
	fmt.Printf("accept → reply, warm runner: p50 %s p99 %s (target p50 ≤ 25 ms)\n", lat[len(lat)/2].Round(10*time.Microsecond), lat[len(lat)*99/100].Round(10*time.Microsecond))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// memory measures activated, idle agents. Their pods are kept down by stopping them; a stopped agent is an activation like any other.
func (b *bench) memory() error {
	n, err := b.node("", "TROUPE_PROCESS_LIMIT=1")
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	empty := rss(n.cmd.Process.Pid)
	st, err := n.agents(*many, true)
	if err != nil {
		return err
	}
	time.Sleep(15 * time.Second) // idle: what making them left behind is given back
	full := rss(n.cmd.Process.Pid)
	fmt.Printf("memory: empty node %.0f MiB, %d activated idle agents +%.0f MiB, %.1f KiB each (target ≤ 100 MiB for 10,000)\n", empty, len(st), full-empty, (full-empty)*1024/float64(len(st)))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// starts measures a node's start to the first accepted message, and a runner's from exec to attach with its memory.
func (b *bench) starts() error {
	for _, sandbox := range []string{"off", "auto"} {
		began := time.Now()
		n, err := b.node("", "TROUPE_SANDBOX="+sandbox)
		if err != nil {
			return err
		}
		var a struct{ ID string }
		if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a); err != nil {
			return err
		}
		if err := n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/messages", map[string]any{"content": "!say ok"}, nil); err != nil {
			return err
		}
		first := time.Since(began)
		var attach []time.Duration
		for range 9 {
			t := time.Now()
			var x struct{ ID string }
			if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &x); err != nil {
				return err
			}
			for {
				var r struct{ Ready bool }
				if err := n.api.Do(context.Background(), "GET", "/v1/agent/"+x.ID+"/ready", nil, &r); err != nil {
					return err
				}
				if r.Ready {
					break
				}
				time.Sleep(time.Millisecond)
			}
			attach = append(attach, time.Since(t))
		}
		slices.Sort(attach)
		fmt.Printf("sandbox %-4s start → first accept %s (target ≤ 500 ms); create → runner attached p50 %s (target ≤ 50 ms without the sandbox's own cost); runner resident %.1f MiB (target ≤ 20)\n",
			sandbox, first.Round(time.Millisecond), attach[len(attach)/2].Round(100*time.Microsecond), runnerRSS())
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
	}
	return nil
}

// runnerRSS is the median resident memory of the runners on this host.
func runnerRSS() float64 {
	var all []float64
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err == nil && strings.HasPrefix(filepath.Base(exe), "troupe-runner") {
			pid, _ := strconv.Atoi(filepath.Base(d))
			all = append(all, rss(pid))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}
