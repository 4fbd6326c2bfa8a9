// Package runtimetest is the contract of agent.Runtime: one suite that every place where agents run must pass.
package runtimetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Place is a runtime under test.
type Place struct {
	Runtime agent.Runtime
	// Volume reads a file of an agent's workspace; "" for none.
	Volume func(id agent.ID, name string) string
	// Changed waits for the next hint about an agent.
	Changed func(id agent.ID)
}

// Run proves the contract. Pods of open write their environment, sorted, to the file env of the workspace, append a line to the
// file starts, and run until they are asked to end.
func Run(t *testing.T, open func(t *testing.T) *Place) {
	for name, test := range map[string]func(*testing.T, *Place){
		"POD-1 one incarnation at a time":       testOne,
		"POD-3 the environment":                 testEnvironment,
		"POD-2 the volume outlives the pod":     testVolume,
		"REC-2 an end is observed":              testEnd,
		"many causes start one pod":             testManyCauses,
		"nothing is left of a deleted agent":    testDelete,
		"an older owner's stop changes nothing": testOldStop,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func spec(incarnation int64) agent.PodSpec {
	id := agent.ID(agent.NewUUID())
	return agent.PodSpec{Agent: id, Incarnation: incarnation, Name: agent.PodName(id),
		Env: map[string]agent.Secret{"AGENT_UUID": agent.NewSecret(string(id)), "CUSTOM": agent.NewSecret("with space")}, SizeBytes: 1 << 30}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait waits until what is observed fits.
func (p *Place) wait(t *testing.T, id agent.ID, what string, ok func(agent.Observation) bool) agent.Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		o, err := p.Runtime.Observe(ctx, id)
		must(t, err)
		if ok(o) {
			return o
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still %+v", what, o)
		case <-time.After(20 * time.Millisecond): // the outside world, polled
		}
	}
}

func up(o agent.Observation) bool { return o.Phase == agent.PhaseUp }
func gone(o agent.Observation) bool {
	return o.Phase == agent.PhaseGone || o.Phase == agent.PhaseNone
}

func (p *Place) started(id agent.ID) int { return strings.Count(p.Volume(id, "starts"), "\n") }

func testOne(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	if o, err := p.Runtime.Observe(ctx, s.Agent); err != nil || o.Phase != agent.PhaseNone {
		t.Fatalf("before its first start: %+v, %v", o, err)
	}
	must(t, p.Runtime.Start(ctx, s))
	o := p.wait(t, s.Agent, "it runs", up)
	if o.Incarnation != 1 || o.Name != s.Name {
		t.Errorf("%+v", o)
	}
	must(t, p.Runtime.Start(ctx, s)) // repeatable
	next := s
	next.Incarnation = 2
	if err := p.Runtime.Start(ctx, next); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second incarnation beside the first: %v", err)
	}
	must(t, p.Runtime.Stop(ctx, s.Agent, 1, 5*time.Second))
	p.wait(t, s.Agent, "it is gone", gone)
	must(t, p.Runtime.Stop(ctx, s.Agent, 1, time.Second)) // repeatable
	must(t, p.Runtime.Start(ctx, next))
	if o := p.wait(t, s.Agent, "the next runs", up); o.Incarnation != 2 {
		t.Errorf("%+v", o)
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}

func testEnvironment(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	must(t, p.Runtime.Start(ctx, s))
	p.wait(t, s.Agent, "it has written its environment", func(agent.Observation) bool { return p.started(s.Agent) == 1 })
	lines := strings.Split(p.Volume(s.Agent, "env"), "\n")
	for _, want := range []string{"AGENT_UUID=" + string(s.Agent), "CUSTOM=with space"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in %q", want, lines)
		}
	}
	for _, l := range lines {
		if name, _, _ := strings.Cut(l, "="); name == "DATABASE_URL" || strings.HasPrefix(name, "TROUPE_MASTER") {
			t.Errorf("%s leaked into the pod", name)
		}
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}

func testVolume(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	for n := range 3 {
		s.Incarnation = int64(n + 1)
		must(t, p.Runtime.Start(ctx, s))
		p.wait(t, s.Agent, fmt.Sprintf("start %d", n+1), func(agent.Observation) bool { return p.started(s.Agent) == n+1 })
		must(t, p.Runtime.Stop(ctx, s.Agent, s.Incarnation, 5*time.Second))
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}

func testEnd(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	s.Env["END"] = agent.NewSecret("1")
	must(t, p.Runtime.Start(ctx, s))
	p.Changed(s.Agent)
	o := p.wait(t, s.Agent, "it has ended", func(o agent.Observation) bool { return o.Phase == agent.PhaseGone })
	if o.Incarnation != 1 {
		t.Errorf("%+v", o)
	}
	must(t, p.Runtime.Start(ctx, s)) // it was started: only another incarnation starts anew
	if n := p.started(s.Agent); n != 1 {
		t.Errorf("one incarnation started %d times", n)
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}

func testManyCauses(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := p.Runtime.Start(ctx, s); err != nil && !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	p.wait(t, s.Agent, "it has started", func(agent.Observation) bool { return p.started(s.Agent) > 0 })
	must(t, p.Runtime.Stop(ctx, s.Agent, 1, 5*time.Second))
	if n := p.started(s.Agent); n != 1 {
		t.Errorf("%d pods were started", n)
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}

func testDelete(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(1)
	must(t, p.Runtime.Start(ctx, s))
	p.wait(t, s.Agent, "it has started", func(agent.Observation) bool { return p.started(s.Agent) == 1 })
	must(t, p.Runtime.Delete(ctx, s.Agent))
	if o, err := p.Runtime.Observe(ctx, s.Agent); err != nil || o.Phase != agent.PhaseNone || p.Volume(s.Agent, "starts") != "" {
		t.Errorf("%+v, %v, %q", o, err, p.Volume(s.Agent, "starts"))
	}
	must(t, p.Runtime.Delete(ctx, s.Agent)) // repeatable
}

func testOldStop(t *testing.T, p *Place) {
	ctx, s := context.Background(), spec(5)
	must(t, p.Runtime.Start(ctx, s))
	p.wait(t, s.Agent, "it runs", up)
	must(t, p.Runtime.Stop(ctx, s.Agent, 4, time.Second))
	if o, err := p.Runtime.Observe(ctx, s.Agent); err != nil || !up(o) {
		t.Errorf("%+v, %v", o, err)
	}
	must(t, p.Runtime.Delete(ctx, s.Agent))
}
