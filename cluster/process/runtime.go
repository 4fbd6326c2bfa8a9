package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Options configure a runtime.
type Options struct {
	Dir      string // data directory
	Runner   string // path of the runner binary
	Limit    int    // runners at once; 0: by memory
	Sandbox  Mode
	OnChange func(agent.ID) // a hint that something about the agent's process has changed; must not block
	OnRoom   func(agent.ID) // a hint that another agent needs the place of this idle one; must not block
	Log      *slog.Logger
	Env      []string         // additional environment of every runner
	Now      func() time.Time // nil: time.Now
}

// Runtime implements agent.Runtime on local processes.
type Runtime struct {
	o     Options
	now   func() time.Time
	box   sandbox
	mu    sync.Mutex
	live  map[agent.ID]*proc
	queue queue
	// launching counts starts that were admitted and are not in live yet.
	launching int
	looking   bool // room looks again in a moment
	stop      chan struct{}
	wg        sync.WaitGroup
	once      sync.Once
}

// proc is one runner that this node knows.
type proc struct {
	rec   record
	idle  time.Time // since when it is unused; zero: in use
	asked time.Time // when its agent was asked for its place last
	done  chan struct{}
}

// record is what a later node needs to find a runner again.
type record struct {
	PID         int    `json:"pid"`
	Started     string `json:"started"` // start time of the process as the kernel tells it, so that a reused pid is not mistaken
	Incarnation int64  `json:"incarnation"`
	Name        string `json:"name"`
	StartedMS   int64  `json:"started_ms"`
}

const (
	pollExit   = 200 * time.Millisecond
	perRunner  = 64 << 20 // bytes assumed per runner when the limit is derived from memory
	killWait   = 5 * time.Second
	maxDefault = 512
)

// New returns a runtime. It finds out once whether the sandbox works here.
func New(o Options) (*Runtime, error) {
	if _, err := exec.LookPath(o.Runner); err != nil {
		return nil, fmt.Errorf("the runner binary is missing: %w", err)
	}
	if o.Limit == 0 {
		o.Limit = defaultLimit()
	}
	if o.OnChange == nil {
		o.OnChange = func(agent.ID) {}
	}
	if o.OnRoom == nil {
		o.OnRoom = func(agent.ID) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Runtime{o: o, now: o.Now, live: map[agent.ID]*proc{}, stop: make(chan struct{})}
	var err error
	if r.box, err = detect(o.Sandbox); err != nil {
		return nil, err
	}
	o.Log.Info("process runtime", "sandbox", r.box.name(), "limit", o.Limit, "runner", o.Runner)
	return r, os.MkdirAll(filepath.Join(o.Dir, "agents"), 0o700)
}

// Close stops watching. Runners go on: the next node adopts them.
func (r *Runtime) Close() {
	r.once.Do(func() { close(r.stop) })
	r.wg.Wait()
}

func (r *Runtime) dir(id agent.ID, part string) string {
	return filepath.Join(r.o.Dir, "agents", string(id), part)
}

func (r *Runtime) recordPath(id agent.ID) string {
	return filepath.Join(r.dir(id, "run"), "record.json")
}

// held says whether a runner holds the agent's lock.
func (r *Runtime) held(id agent.ID) bool {
	f, err := os.OpenFile(filepath.Join(r.dir(id, "run"), "lock"), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// find returns the runner of an agent, adopting one that an earlier node started. nil: none lives.
func (r *Runtime) find(id agent.ID) *proc {
	r.mu.Lock()
	p := r.live[id]
	r.mu.Unlock()
	if p != nil {
		return p
	}
	b, err := os.ReadFile(r.recordPath(id))
	if err != nil {
		return nil
	}
	var rec record
	if json.Unmarshal(b, &rec) != nil || rec.PID == 0 || startTime(rec.PID) != rec.Started || rec.Started == "" {
		return nil
	}
	p = &proc{rec: rec, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.live[id]; known != nil {
		return known
	}
	r.live[id] = p
	r.watch(id, p, nil)
	r.o.Log.Info("runner adopted", "agent_id", id, "pid", rec.PID, "incarnation", rec.Incarnation)
	return p
}

// watch waits for the end of a runner and tells. Cmd is nil for one that is no child of this process.
func (r *Runtime) watch(id agent.ID, p *proc, cmd *exec.Cmd) {
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		if !r.gone(p, cmd) {
			return // this node stops; the runner lives on
		}
		killSession(p.rec.PID) // whatever it left behind
		r.mu.Lock()
		if r.live[id] == p {
			delete(r.live, id)
		}
		r.mu.Unlock()
		close(p.done)
		r.o.OnChange(id)
		r.room()
	}()
}

func (r *Runtime) gone(p *proc, cmd *exec.Cmd) bool {
	if cmd != nil {
		ended := make(chan struct{})
		go func() { // ends with the child, at the latest with this process
			_ = cmd.Wait()
			close(ended)
		}()
		select {
		case <-ended:
			return true
		case <-r.stop:
			return false
		}
	}
	t := time.NewTicker(pollExit)
	defer t.Stop()
	for {
		select {
		case <-r.stop:
			return false
		case <-t.C:
			if startTime(p.rec.PID) != p.rec.Started {
				return true
			}
		}
	}
}

// alone keeps other starts of the same agent out, on this node and on others that share the directory (POD-1).
func (r *Runtime) alone(id agent.ID) (release func(), err error) {
	if err := os.MkdirAll(r.dir(id, "run"), 0o700); err != nil {
		return nil, fault.New(fault.Unavailable, "dependency_unavailable", "The agent's directory could not be made").Because(err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir(id, "run"), "start.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "dependency_unavailable", "The agent's directory could not be locked").Because(err)
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		_ = f.Close()
		return nil, fault.New(fault.Conflict, "pod_not_running", "Another start is running")
	}
	return func() { _ = f.Close() }, nil
}

// Start implements agent.Runtime.
func (r *Runtime) Start(_ context.Context, spec agent.PodSpec) error {
	release, err := r.alone(spec.Agent)
	if err != nil {
		return err
	}
	defer release()
	if p := r.find(spec.Agent); p != nil {
		if p.rec.Incarnation == spec.Incarnation {
			return nil
		}
		return fault.New(fault.Conflict, "pod_not_running", "An older runner still lives")
	}
	if r.held(spec.Agent) {
		return fault.New(fault.Conflict, "pod_not_running", "The agent's directory is still locked")
	}
	if b, err := os.ReadFile(r.recordPath(spec.Agent)); err == nil {
		var rec record
		if json.Unmarshal(b, &rec) == nil && rec.Incarnation == spec.Incarnation {
			return nil // it was started and has ended: Observe tells
		}
		if rec.PID > 1 && startTime(rec.PID) == "" {
			killSession(rec.PID) // what a runner that ended with its node left behind
		}
	}
	if !r.admit(spec.Agent) {
		return nil // it waits; Observe tells
	}
	err = r.launch(spec)
	r.mu.Lock()
	r.launching--
	r.mu.Unlock()
	return err
}

func (r *Runtime) launch(spec agent.PodSpec) error {
	for _, part := range []string{"workspace", "home", "run"} {
		if err := os.MkdirAll(r.dir(spec.Agent, part), 0o700); err != nil {
			return fault.New(fault.Unavailable, "dependency_unavailable", "The agent's directory could not be made").Because(err)
		}
	}
	if spec.Ephemeral {
		if err := os.RemoveAll(filepath.Join(r.dir(spec.Agent, "home"), ".memory")); err != nil {
			return err
		}
	}
	cmd := r.box.command(r.o.Runner, r.dir(spec.Agent, ""), r.o.Dir)
	for name, v := range spec.Env {
		cmd.Env = append(cmd.Env, name+"="+v.Reveal())
	}
	cmd.Env = append(cmd.Env, r.o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // its own session: it outlives this node, and can be killed whole
	log, err := os.OpenFile(filepath.Join(r.dir(spec.Agent, "run"), "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fault.New(fault.Unavailable, "dependency_unavailable", "The runner could not be started").Because(err)
	}
	p := &proc{rec: record{PID: cmd.Process.Pid, Started: startTime(cmd.Process.Pid), Incarnation: spec.Incarnation, Name: spec.Name, StartedMS: time.Now().UnixMilli()}, done: make(chan struct{})}
	if err := writeRecord(r.recordPath(spec.Agent), p.rec); err != nil {
		killSession(p.rec.PID)
		_ = cmd.Wait()
		return err
	}
	r.mu.Lock()
	r.live[spec.Agent] = p
	r.mu.Unlock()
	r.watch(spec.Agent, p, cmd)
	return nil
}

func writeRecord(path string, rec record) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, agent.Encode(rec), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Stop implements agent.Runtime: it asks with SIGTERM, waits for grace, then kills the session and what hung on it when it was asked.
func (r *Runtime) Stop(ctx context.Context, id agent.ID, incarnation int64, grace time.Duration) error {
	r.leave(id)
	p := r.find(id)
	if p != nil && incarnation != 0 && p.rec.Incarnation > incarnation {
		return nil // the one that was meant is gone; this one is another owner's
	}
	if p == nil {
		if r.held(id) {
			return fault.New(fault.Unavailable, "dependency_unavailable", "The agent's directory is locked by an unknown process")
		}
		return nil
	}
	members := family(p.rec.PID)
	defer killLeft(members)
	_ = signalLeader(p.rec.PID, syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
	case <-ctx.Done():
	}
	killSession(p.rec.PID)
	select {
	case <-p.done:
		return nil
	case <-time.After(killWait):
		return fault.New(fault.Unavailable, "dependency_unavailable", "The runner does not end")
	case <-r.stop:
		return errors.New("the runtime is closed")
	}
}

// Delete implements agent.Runtime.
func (r *Runtime) Delete(ctx context.Context, id agent.ID) error {
	if err := r.Stop(ctx, id, 0, 0); err != nil {
		return err
	}
	if !filepath.IsLocal(string(id)) || len(id) < 8 {
		return fmt.Errorf("refuse to delete the directory of %q", id)
	}
	return os.RemoveAll(r.dir(id, ""))
}

// Observe implements agent.Runtime.
func (r *Runtime) Observe(_ context.Context, id agent.ID) (agent.Observation, error) {
	o := agent.Observation{Agent: id, Phase: agent.PhaseNone}
	if p := r.find(id); p != nil {
		o.Phase, o.Incarnation, o.Name = agent.PhaseUp, p.rec.Incarnation, p.rec.Name
		o.Node, _ = os.Hostname()
		return o, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue.has(id) {
		o.Phase = agent.PhaseWaiting
		return o, nil
	}
	if b, err := os.ReadFile(r.recordPath(id)); err == nil {
		var rec record
		if json.Unmarshal(b, &rec) == nil {
			o.Phase, o.Incarnation, o.Reason = agent.PhaseGone, rec.Incarnation, "crashed"
		}
	}
	return o, nil
}

// Idle implements agent.Runtime.
func (r *Runtime) Idle(id agent.ID, since time.Time) {
	r.mu.Lock()
	p := r.live[id]
	if p != nil {
		p.idle = since
	}
	r.mu.Unlock()
	if p == nil { // its runner is elsewhere; here it waits for nothing
		r.leave(id)
	}
	r.room()
}

// Live is how many runners this node knows.
func (r *Runtime) Live() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// Resizable implements agent.Runtime: a directory grows by itself.
func (r *Runtime) Resizable(context.Context, agent.ID) error { return nil }

// Resize implements agent.Runtime.
func (r *Runtime) Resize(context.Context, agent.ID, int64) error { return nil }

// Serves implements agent.Runtime: local runners live on this host.
func (r *Runtime) Serves(_ agent.ID, _ int64, endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Port() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback()
}

// Describe says in a word where agents run.
func (r *Runtime) Describe() string { return "local processes, sandbox " + r.box.name() }
