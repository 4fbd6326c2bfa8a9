package agentgrain

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// brokenPlace and brokenNetwork have a defect.
type (
	brokenPlace   struct{ agent.Runtime }
	brokenNetwork struct{ agent.Chats }
)

func (brokenPlace) Start(context.Context, agent.PodSpec) error { panic("a defect") }

func (brokenNetwork) Send(context.Context, agent.Part) (agent.RelayFate, time.Duration) {
	panic("a defect")
}

// TestADefectOfAnAdapterEndsNoNode: on the goroutines of the children a panic would.
func TestADefectOfAnAdapterEndsNoNode(t *testing.T) {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	defer system.Shutdown()
	d := &Deps{Runtime: brokenPlace{}, Chats: brokenNetwork{}, Log: slog.New(slog.DiscardHandler)}
	got := make(chan any, 2)
	parent := system.Root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		switch m := c.Message().(type) {
		case *actor.Started:
			c.Send(c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &podChild{d: d, id: "a"} })), podWish{phase: agent.PodStarting})
			c.Send(c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &bindingChild{d} })), relayGo{done: make(chan relayDone, 1)})
		case podReport, relayDone:
			got <- m
		}
	}))
	for range 2 {
		select {
		case m := <-got:
			switch m := m.(type) {
			case podReport:
				if m.phase != agent.PodStarting || !fault.Is(m.err, fault.Internal) {
					t.Errorf("%+v", m)
				}
			case relayDone:
				if m.fate != agent.PartUncertain {
					t.Errorf("%+v", m)
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
	}
	if err := system.Root.StopFuture(parent).Wait(); err != nil {
		t.Error(err)
	}
}
