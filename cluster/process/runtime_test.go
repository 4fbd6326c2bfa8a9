package process

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/cluster/runtimetest"
)

// script stands for a runner: it writes its environment and its child's pid, and runs until it is asked to end.
const script = `#!/bin/sh
env | sort > "$WORKSPACE_PATH/env"
echo started >> "$WORKSPACE_PATH/starts"
[ -n "$END" ] && exit 3
setsid sleep 1000 & echo $! > "$WORKSPACE_PATH/child"
trap 'exit 0' TERM
while :; do sleep 0.05; done
`

func open(t *testing.T, dir string, limit int, h *runtimetest.Hints) *Runtime {
	t.Helper()
	runner := filepath.Join(t.TempDir(), "troupe-runner")
	if err := os.WriteFile(runner, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var r *Runtime
	var asked sync.WaitGroup
	t.Cleanup(asked.Wait)
	giveUp := func(id agent.ID) { // an agent that has nothing to do
		asked.Add(1)
		go func() {
			defer asked.Done()
			if err := r.Stop(context.Background(), id, 0, 5*time.Second); err != nil {
				t.Error(err)
			}
		}()
	}
	r, err := New(Options{Dir: dir, Runner: runner, Limit: limit, Sandbox: "off", OnChange: h.Changed, OnRoom: giveUp, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func file(dir string, id agent.ID, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, "agents", string(id), "workspace", name))
	return string(b)
}

func TestContract(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) *runtimetest.Place {
		dir, h := t.TempDir(), runtimetest.NewHints()
		return &runtimetest.Place{Runtime: open(t, dir, 8, h), Changed: h.Wait,
			Volume: func(id agent.ID, name string) string { return file(dir, id, name) }}
	})
}

func podSpec() agent.PodSpec {
	id := agent.ID(agent.NewUUID())
	return agent.PodSpec{Agent: id, Incarnation: 1, Name: agent.PodName(id), Env: map[string]agent.Secret{}}
}

// until polls the outside world.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func TestARunnerOutlivesItsNodeAndIsAdopted(t *testing.T) {
	dir, h, s, ctx := t.TempDir(), runtimetest.NewHints(), podSpec(), context.Background()
	first := open(t, dir, 4, h)
	if err := first.Start(ctx, s); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs", func() bool { return file(dir, s.Agent, "child") != "" })
	first.Close()
	second := open(t, dir, 4, h)
	if o, err := second.Observe(ctx, s.Agent); err != nil || o.Phase != agent.PhaseUp || o.Incarnation != 1 {
		t.Fatalf("the next node sees %+v, %v", o, err)
	}
	if err := second.Start(ctx, s); err != nil || strings.Count(file(dir, s.Agent, "starts"), "\n") != 1 {
		t.Errorf("an adopted runner was started again: %v", err)
	}
	if err := second.Delete(ctx, s.Agent); err != nil {
		t.Fatal(err)
	}
}

func TestNothingOfARunnerIsLeft(t *testing.T) {
	t.Run("killed", func(t *testing.T) { nothingIsLeft(t, 0) })
	t.Run("ended by itself", func(t *testing.T) { nothingIsLeft(t, 20*time.Second) })
}

func nothingIsLeft(t *testing.T, grace time.Duration) {
	dir, h, s, ctx := t.TempDir(), runtimetest.NewHints(), podSpec(), context.Background()
	r := open(t, dir, 4, h)
	if err := r.Start(ctx, s); err != nil {
		t.Fatal(err)
	}
	until(t, "its child runs in a session of its own", func() bool { return strings.TrimSpace(file(dir, s.Agent, "child")) != "" })
	child, err := strconv.Atoi(strings.TrimSpace(file(dir, s.Agent, "child")))
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	pid := r.live[s.Agent].rec.PID
	r.mu.Unlock()
	if err := r.Stop(ctx, s.Agent, 1, grace); err != nil { // it ends with everything it started
		t.Fatal(err)
	}
	for _, p := range []int{pid, child} {
		until(t, "process "+strconv.Itoa(p)+" is gone", func() bool { return startTime(p) == "" })
	}
}

func TestTheLongestIdleRunnerGivesItsPlaceAway(t *testing.T) {
	dir, h, ctx := t.TempDir(), runtimetest.NewHints(), context.Background()
	r := open(t, dir, 2, h)
	var specs []agent.PodSpec
	for i := range 4 {
		specs = append(specs, podSpec())
		if err := r.Start(ctx, specs[i]); err != nil {
			t.Fatal(err)
		}
	}
	phase := func(i int) agent.PodPhase {
		o, err := r.Observe(ctx, specs[i].Agent)
		if err != nil {
			t.Fatal(err)
		}
		return o.Phase
	}
	if phase(0) != agent.PhaseUp || phase(1) != agent.PhaseUp || phase(2) != agent.PhaseWaiting || phase(3) != agent.PhaseWaiting {
		t.Fatalf("%s %s %s %s", phase(0), phase(1), phase(2), phase(3))
	}
	now := time.Now()
	r.Idle(specs[0].Agent, now.Add(-time.Minute))
	r.Idle(specs[1].Agent, now.Add(-time.Hour)) // nobody else may be asked meanwhile
	until(t, "an idle one has ended", func() bool { return phase(0) == agent.PhaseGone || phase(1) == agent.PhaseGone })
	h.Wait(specs[2].Agent) // the first in the queue is told
	if err := r.Start(ctx, specs[3]); err != nil {
		t.Fatal(err)
	}
	if phase(3) == agent.PhaseUp && r.Live() > 2 {
		t.Error("more runners than the limit")
	}
	if err := r.Start(ctx, specs[2]); err != nil {
		t.Fatal(err)
	}
	until(t, "the first in the queue runs", func() bool { return phase(2) == agent.PhaseUp })
	for _, s := range specs {
		if err := r.Delete(ctx, s.Agent); err != nil {
			t.Error(err)
		}
	}
}

// An agent that waited here and was taken over by another node must not keep those behind it waiting, and a runner that lives
// elsewhere must not be hinted for ever.
func TestOneThatStoppedAskingLosesItsTurn(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	h := runtimetest.NewHints()
	r := open(t, dir, 1, h)
	now, later := time.Now(), atomic.Int64{}
	r.now = func() time.Time { return now.Add(time.Duration(later.Load())) }
	specs := []agent.PodSpec{podSpec(), podSpec(), podSpec(), podSpec()}
	for _, s := range specs {
		if err := r.Start(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	r.Idle(specs[1].Agent, now) // it is up, but not here: it leaves the queue
	if err := r.Stop(ctx, specs[0].Agent, 1, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	h.Wait(specs[2].Agent) // it is its turn, but it never comes
	for _, wait := range []time.Duration{0, takes, time.Second} {
		later.Add(int64(wait))
		if o, err := r.Observe(ctx, specs[3].Agent); err != nil || o.Phase != agent.PhaseWaiting {
			t.Errorf("the one behind it is %s (%v)", o.Phase, err)
		}
		if err := r.Start(ctx, specs[3]); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []agent.PodPhase{agent.PhaseGone, agent.PhaseNone, agent.PhaseNone, agent.PhaseUp} {
		if o, err := r.Observe(ctx, specs[i].Agent); err != nil || o.Phase != want {
			t.Errorf("agent %d is %s, not %s (%v)", i, o.Phase, want, err)
		}
	}
	for _, s := range specs {
		if err := r.Delete(ctx, s.Agent); err != nil {
			t.Error(err)
		}
	}
}
