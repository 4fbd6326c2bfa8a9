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
	only    = flag.String("only", "", "one part: accept, replies, memory, starts, nodes, scale, schedules, triggers or webhooks")
	fleet   = flag.Int("fleet", 100000, "agents of the scale round; one in a hundred is active")
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
	for name, tooFew := range map[string]bool{"rounds": *rounds < 1, "agents": *many < 1, "duration": *seconds <= 0, "fleet": *fleet < 100} {
		if tooFew {
			fmt.Fprintf(os.Stderr, "bench: -%s is too small: at least one round, one agent, some time and a fleet of a hundred are needed\n", name)
			os.Exit(2)
		}
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
	pid  int
	name string
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
	n.pid = n.cmd.Process.Pid
	for _, e := range env {
		if name, ok := strings.CutPrefix(e, "TROUPE_NODE_NAME="); ok {
			n.name = name
		}
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
		{"nodes", b.nodes},
		{"scale", b.scale},
		{"schedules", b.schedules},
		{"triggers", b.triggers},
		{"webhooks", b.webhooks},
	} {
		if *only == "" || *only == part.name {
			if err := part.run(); err != nil {
				return err
			}
		}
	}
	return nil
}
