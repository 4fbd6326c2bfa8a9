// Package serve is the life of a runner process: lock, file server, attach, command stream, heartbeats, turns, goodbye.
//
//	start ─ lock ─ attach ─┬─ stream: sync and commands ─▶ turns, one at a time
//	                       ├─ heartbeat every 10 s
//	                       └─ SIGTERM or shutdown ─▶ turn left open or finished ─ detach ─ exit 0
//
// A runner that the control plane has replaced stops at once. One that hears nothing for a whole lease stops its turn,
// keeps the transcript and attaches again.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"troupe/cmd/runner/internal/mcp"
	"troupe/cmd/runner/internal/tool"
	"troupe/cmd/runner/internal/turn"
	"troupe/cmd/runner/internal/workspace"
	"troupe/http/runnerproto"
)

// Config is the runner's environment (POD-3).
type Config struct {
	API       string // SHINZO_INTERNAL_API_URL
	Key       string // SHINZO_API_KEY
	Base      string // ANTHROPIC_BASE_URL
	Headers   map[string]string
	Home      string
	Workspace string
	RunDir    string // holds the lock; "": none is taken
	Listen    string // of the file server
	// EmptyMemory removes the memory when the pod starts, not when only this process does (CFG-11): RunDir lives as long as the pod.
	EmptyMemory bool
	Version     string
	Env         []string // of the shell tool
	NewID       func() string
	Log         *slog.Logger
}

// ErrReplaced ends a runner that the control plane has replaced.
var ErrReplaced = errors.New("this runner has been replaced")

const (
	stopGrace     = 25 * time.Second // after SIGTERM (RUN-11)
	diskEvery     = 5 * time.Minute
	reconnectLast = 2 * time.Second
)

type runner struct {
	cfg    Config
	client *runnerproto.Client
	nodes  *runnerproto.Nodes
	ws     *workspace.Workspace
	files  *workspace.Server
	turns  *turn.Runner
	host   *tool.Host

	mu      sync.Mutex
	current *work  // the running turn
	epoch   int64  // highest epoch of an activation seen (FENCE-6)
	lastID  string // position in the command stream
	config  int64  // newest configuration version heard of
	self    *runnerproto.Self
	resync  context.CancelFunc // ends the command stream, so that a fresh sync comes
	alive   time.Time          // last success of a heartbeat
	wg      sync.WaitGroup
}

type work struct {
	turn   *runnerproto.Turn // empty while a session is condensed between turns
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// Run is the whole life of the process. It returns nil after an orderly end.
func Run(ctx context.Context, cfg Config) error {
	unlock, err := lock(cfg.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, d := range []string{cfg.Home, cfg.Workspace} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if cfg.EmptyMemory {
		if err := emptyMemory(cfg.Home, cfg.RunDir); err != nil {
			return err
		}
	}
	ws, err := workspace.Open(cfg.Workspace, cfg.Home)
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	files, err := workspace.Serve(ws, cfg.Listen, cfg.Key)
	if err != nil {
		return err
	}
	defer files.Close()
	nodes := runnerproto.NewNodes(cfg.API)
	client := runnerproto.NewClient(nodes, cfg.Key)
	host := &tool.Host{Workspace: ws, Home: cfg.Home, Client: client, Env: cfg.Env, MemoryBytes: 1 << 30}
	manager := &mcp.Manager{From: client, Env: cfg.Env, Dir: cfg.Workspace, Version: cfg.Version, Log: cfg.Log}
	defer manager.Close()
	r := &runner{cfg: cfg, client: client, nodes: nodes, ws: ws, files: files, host: host,
		turns: &turn.Runner{Client: client, Nodes: nodes, Host: host, Key: cfg.Key, Base: cfg.Base, Header: cfg.Headers, Log: cfg.Log, NewID: cfg.NewID, Outside: manager.Tools}}
	return r.run(ctx)
}

// lock takes the exclusive lock of the run directory; the process holds it until it ends.
func lock(dir string) (func(), error) {
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.New("another runner holds the lock of this agent")
	}
	return func() { _ = f.Close() }, nil
}

// emptyMemory removes the memory, once per life of the run directory.
func emptyMemory(home, runDir string) error {
	mark := filepath.Join(runDir, "memory-emptied")
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(home, ".memory")); err != nil {
		return err
	}
	return os.WriteFile(mark, nil, 0o600)
}

func (r *runner) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if err := r.attach(parent, ""); err != nil {
		return err
	}
	r.wg.Add(3)
	go r.heartbeats(ctx, cancel)
	go r.measure(ctx)
	go r.stream(ctx, cancel)
	var err error
	select {
	case <-parent.Done(): // SIGTERM: an unfinished turn is left open for the next runner
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	shutdown := errors.Is(err, errShutdown)
	cancel(err)
	r.drop(err)
	r.wg.Wait()
	if errors.Is(err, ErrReplaced) {
		return err
	}
	bye, stop := context.WithTimeout(context.Background(), stopGrace)
	defer stop()
	if derr := r.client.Detach(bye, "shutdown", ""); derr != nil && !runnerproto.Refused(derr) {
		r.cfg.Log.Warn("detach", "err", derr)
	}
	if err != nil && !shutdown && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

var errShutdown = errors.New("shutdown")

// attach announces this process until it is let in. Current is the turn it still works on.
func (r *runner) attach(ctx context.Context, current string) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, reconnectLast) {
		res, err := r.client.Attach(ctx, runnerproto.AttachRequest{ProtocolVersion: runnerproto.Version, RunnerVersion: r.cfg.Version,
			SDKName: "anthropic-sdk-go", SDKVersion: "1.84.0", Metering: "gateway", CurrentTurnID: current, WorkspaceEndpoint: r.files.Endpoint()})
		if err == nil {
			r.mu.Lock()
			r.alive, r.epoch, r.lastID, r.config = time.Now(), max(r.epoch, res.Epoch), "", res.ConfigVersion
			r.mu.Unlock()
			r.cfg.Log.Info("attached", "runner_epoch", res.RunnerEpoch, "incarnation", res.Incarnation)
			return nil
		}
		if runnerproto.Refused(err) {
			return errors.Join(ErrReplaced, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (r *runner) heartbeats(ctx context.Context, stop context.CancelCauseFunc) {
	defer r.wg.Done()
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	missing := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		req := runnerproto.HeartbeatRequest{ExecutionStatus: "idle", MemoryBytes: int64(ms.Sys)}
		if id := r.working(); id != "" {
			req.ExecutionStatus, req.TurnID = "working", &id
		}
		res, err := r.client.Heartbeat(ctx, req)
		switch {
		case err == nil:
			r.mu.Lock()
			r.alive, r.epoch, r.config = time.Now(), max(r.epoch, res.Epoch), max(r.config, res.ConfigVersion)
			resync := r.resync
			r.mu.Unlock()
			if missing++; res.CurrentTurnID == nil || r.working() == *res.CurrentTurnID {
				missing = 0
			}
			if missing >= 2 && resync != nil { // the control plane names a turn that does not run here (RUN-3)
				missing = 0
				resync()
			}
		case runnerproto.Stale(err):
			stop(errors.Join(ErrReplaced, err))
			return
		case time.Since(r.lastAlive()) > 45*time.Second: // a whole lease without success (RUN-2)
			r.drop(err)
			if err := r.attach(ctx, ""); err != nil {
				stop(err)
				return
			}
		}
	}
}

// measure reports the size of the workspace, apart from the heartbeats: walking a large one takes its time.
func (r *runner) measure(ctx context.Context) {
	defer r.wg.Done()
	t := time.NewTicker(diskEvery)
	defer t.Stop()
	for {
		r.reportDisk(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *runner) lastAlive() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alive
}

func (r *runner) reportDisk(ctx context.Context) {
	if err := r.client.Disk(ctx, r.ws.Usage()); err != nil && ctx.Err() == nil {
		r.cfg.Log.Warn("disk usage not reported", "err", err)
	}
}

func (r *runner) working() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return ""
	}
	return r.current.turn.TurnID
}

// stream keeps the command stream open.
func (r *runner) stream(ctx context.Context, stop context.CancelCauseFunc) {
	defer r.wg.Done()
	for pause := 20 * time.Millisecond; ctx.Err() == nil; {
		r.mu.Lock()
		last := r.lastID
		r.mu.Unlock()
		opened := time.Now()
		sctx, resync := context.WithCancel(ctx)
		r.mu.Lock()
		r.resync = resync
		r.mu.Unlock()
		err := r.client.Subscribe(sctx, last, func(e runnerproto.Event) { r.handle(ctx, e, stop) })
		resync()
		if runnerproto.Stale(err) {
			stop(errors.Join(ErrReplaced, err))
			return
		}
		if time.Since(opened) > 5*time.Second {
			pause = 20 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, reconnectLast)
	}
}

// handle obeys one event; those of an older activation are ignored (FENCE-6).
func (r *runner) handle(ctx context.Context, e runnerproto.Event, stop context.CancelCauseFunc) {
	r.mu.Lock()
	if e.Epoch < r.epoch {
		r.mu.Unlock()
		return
	}
	r.epoch, r.lastID = e.Epoch, strconv.FormatInt(e.Seq, 10)
	if e.Config > r.config {
		r.config = e.Config
	}
	r.mu.Unlock()
	switch e.Event {
	case "sync":
		if e.Turn != nil || e.CompactionID == "" || !r.turns.InHand(e.CompactionID) {
			r.reconcile(ctx, e.Turn)
		}
	case "turn.start":
		r.reconcile(ctx, e.Turn)
	case "turn.cancel":
		r.cancel(e.TurnID)
	case "session.compact":
		r.compact(ctx, e)
	case "reminder":
		if r.working() == e.TurnID {
			r.turns.Remind(e.Prompt)
		}
	case "shutdown":
		stop(errShutdown)
	}
}

// compact hands a compaction to the running turn, which does it between two model calls, or does it when none runs.
func (r *runner) compact(ctx context.Context, e runnerproto.Event) {
	r.turns.RequestCompaction(turn.Condense{Session: e.SessionID, ID: e.CompactionID, Model: e.Model, SDK: e.SDKSessionID, Summarize: e.Summarize, Continuation: e.Continuation, Before: e.ContextTokens})
	r.condense(ctx)
}

// condense does a compaction that waits, unless something is being worked on: then it is called again at its end.
func (r *runner) condense(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil || ctx.Err() != nil || !r.turns.Waiting() {
		return
	}
	tctx, cancel := context.WithCancelCause(ctx)
	w := &work{turn: &runnerproto.Turn{}, cancel: cancel, ended: make(chan struct{})} // it has the transcript to itself
	r.current = w
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer close(w.ended)
		defer w.cancel(nil)
		r.turns.CompactIdle(tctx)
		r.finished(ctx, w)
	}()
}

// finished gives the place of what is worked on free.
func (r *runner) finished(ctx context.Context, w *work) {
	r.mu.Lock()
	mine := r.current == w
	if mine {
		r.current = nil
	}
	r.mu.Unlock()
	if mine {
		r.condense(ctx)
	}
}

// reconcile brings what runs here in line with what should run (RUN-5).
func (r *runner) reconcile(ctx context.Context, t *runnerproto.Turn) {
	r.mu.Lock()
	cur := r.current
	same := cur != nil && t != nil && cur.turn.TurnID == t.TurnID && cur.turn.Attempt == t.Attempt
	r.mu.Unlock()
	if same {
		return
	}
	if cur != nil {
		r.drop(errors.New("the control plane names another turn"))
	}
	if t != nil {
		r.start(ctx, t)
	}
}

// start works on a turn. One that was ended here before is only reported again: its transcript knows the end.
func (r *runner) start(ctx context.Context, t *runnerproto.Turn) {
	r.mu.Lock()
	tctx, cancel := context.WithCancelCause(ctx)
	w := &work{turn: t, cancel: cancel, ended: make(chan struct{})}
	r.current = w
	r.mu.Unlock()
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		defer close(w.ended)
		defer cancel(nil)
		if self, err := r.configuration(tctx); err == nil {
			r.turns.Run(tctx, t, self)
		} else {
			r.cfg.Log.Error("configuration not read", "err", err)
		}
		r.finished(ctx, w)
		if tctx.Err() == nil {
			r.reportDisk(ctx)
		}
	}()
}

// configuration returns the agent's configuration, read anew when it has changed (CFG-7).
func (r *runner) configuration(ctx context.Context) (*runnerproto.Self, error) {
	r.mu.Lock()
	self, want := r.self, r.config
	r.mu.Unlock()
	if self != nil && self.ConfigVersion >= want {
		return self, nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, reconnectLast) {
		fresh, err := r.client.Self(ctx)
		if err == nil {
			r.mu.Lock()
			r.self = &fresh
			r.mu.Unlock()
			r.host.SetMemory(fresh.Configuration.Memory)
			return &fresh, nil
		}
		if runnerproto.Refused(err) || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// cancel obeys turn.cancel: the turn ends as cancelled and is reported (RUN-7).
func (r *runner) cancel(id string) {
	r.mu.Lock()
	w := r.current
	r.mu.Unlock()
	if w != nil && w.turn.TurnID == id {
		w.cancel(turn.ErrCancelled)
	}
}

// drop ends the running turn here without reporting it, and waits for it.
func (r *runner) drop(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	r.mu.Lock()
	w := r.current
	r.current = nil
	r.mu.Unlock()
	if w != nil {
		w.cancel(cause)
		<-w.ended
	}
}
