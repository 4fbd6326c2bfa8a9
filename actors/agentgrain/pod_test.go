package agentgrain

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// place answers as it is told.
type place struct {
	agent.Runtime
	start, stop, resize error
	calls               []string
}

func (p *place) Start(context.Context, agent.PodSpec) error {
	p.calls = append(p.calls, "start")
	return p.start
}

func (p *place) Stop(context.Context, agent.ID, int64, time.Duration) error {
	p.calls = append(p.calls, "stop")
	return p.stop
}

func (p *place) Resize(context.Context, agent.ID, int64) error {
	p.calls = append(p.calls, "resize")
	return p.resize
}

func (p *place) Observe(_ context.Context, id agent.ID) (agent.Observation, error) {
	p.calls = append(p.calls, "observe")
	return agent.Observation{Agent: id, Incarnation: 3, Phase: agent.PhaseUp}, nil
}

// TestPOD_1_WhatIsReportedOfAnOperation: a pod is gone when that is confirmed, and not when stopping it failed.
func TestPOD_1_WhatIsReportedOfAnOperation(t *testing.T) {
	away := fault.New(fault.Unavailable, "dependency_unavailable", "the API server is away")
	refused := fault.New(fault.Invalid, "validation_failed", "no such image")
	spec := agent.PodSpec{Agent: "a", Incarnation: 3}
	for _, tt := range []struct {
		name    string
		place   place
		wish    podWish
		phase   agent.PodPhase
		reason  string
		fails   bool
		resized int64
		calls   int
	}{
		{name: "stopped", wish: podWish{phase: agent.PodStopping, spec: spec}, phase: agent.PhaseGone, reason: "stopped", calls: 1},
		{name: "stopping failed", place: place{stop: away}, wish: podWish{phase: agent.PodStopping, spec: spec}, fails: true, calls: 1},
		{name: "started", wish: podWish{phase: agent.PodStarting, spec: spec}, phase: agent.PhaseUp, calls: 2},
		{name: "starting may succeed later", place: place{start: away}, wish: podWish{phase: agent.PodStarting, spec: spec}, phase: agent.PhaseStarting, reason: away.Message, fails: true, calls: 1},
		{name: "starting cannot succeed", place: place{start: refused}, wish: podWish{phase: agent.PodStarting, spec: spec}, phase: agent.PhaseGone, reason: refused.Message, calls: 1},
		{name: "CFG-8 growing at zero", wish: podWish{resize: 5}, resized: 5, calls: 1},
		{name: "CFG-8 growing is tried again", place: place{resize: away}, wish: podWish{resize: 5}, calls: 1},
		{name: "CFG-8 what cannot grow is not asked again", place: place{resize: refused}, wish: podWish{resize: 5}, resized: 5, calls: 1},
		{name: "CFG-8 a volume that does not grow holds up no start", place: place{resize: away}, wish: podWish{phase: agent.PodStarting, spec: spec, resize: 5}, phase: agent.PhaseUp, calls: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &podChild{d: &Deps{Runtime: &tt.place, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, id: "a"}
			r := p.do(tt.wish)
			if r.obs.Phase != tt.phase || r.obs.Reason != tt.reason || (r.err != nil) != tt.fails || r.resized != tt.resized || len(tt.place.calls) != tt.calls {
				t.Errorf("%+v after %v", r, tt.place.calls)
			}
		})
	}
}
