package agentgrain

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
)

// keeper is an agent as far as its schedules go.
type keeper struct {
	slots slots
	ended chan string // names of children
	done  chan []string
}

type due []agent.Schedule

type drop string

func (k *keeper) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case due:
		for i := range m {
			k.slots.tell(c, &m[i], 7)
		}
	case drop:
		k.slots.drop(c, string(m))
	case slotDone:
		k.slots.finished(m)
	case *actor.Terminated:
		name := m.Who.Id[len(c.Self().Id)+1:]
		if !k.slots.ended(m.Who) {
			name = "unknown " + name
		}
		k.ended <- name
	default:
		return
	}
	if k.slots.busy == 0 && k.slots.done != nil {
		var ids []string
		for id, x := range k.slots.done {
			if x.Of.ID == id && x.NextMS == 8 {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		k.slots.done = nil
		k.done <- ids
	}
}

// TestAScheduleThatPanicsKeepsNobody: its actor is stopped and its schedule rests; the others of the same agent go on.
func TestAScheduleThatPanicsKeepsNobody(t *testing.T) {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	defer system.Shutdown()
	k := &keeper{ended: make(chan string, 9), done: make(chan []string, 9)}
	k.slots.now = func() time.Time { return time.Unix(1e9, 0) } // what rests does so for the whole test
	k.slots.props = scheduleProps(func(s *agent.Schedule, now int64) agent.Slot {
		if s.ID == "bad" {
			panic("a defect")
		}
		return agent.Slot{Of: *s, NextMS: now + 1}
	}, slog.New(slog.DiscardHandler))
	pid := system.Root.Spawn(Props(&Deps{}).Configure(actor.WithProducer(func() actor.Actor { return k })))
	take := func(want ...string) {
		t.Helper()
		select {
		case got := <-k.done:
			if !slices.Equal(got, want) {
				t.Errorf("worked out: %v, want %v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was worked out")
		}
	}
	all := due{{ID: "a"}, {ID: "bad"}, {ID: "b"}}
	system.Root.Send(pid, all)
	take("a", "b")
	if got := <-k.ended; got != "schedule/bad" {
		t.Errorf("%s ended", got)
	}
	system.Root.Send(pid, all) // while it rests
	take("a", "b")
	system.Root.Send(pid, drop("a"))
	if got := <-k.ended; got != "unknown schedule/a" {
		t.Errorf("%s ended", got)
	}
	system.Root.Send(pid, due{{ID: "a"}, {ID: "b"}}) // made anew
	take("a", "b")
	if err := system.Root.StopFuture(pid).Wait(); err != nil {
		t.Fatal(err)
	}
	if len(k.ended) != 2 || k.slots.children["bad"].failed != 1 || k.slots.children["bad"].child != nil {
		t.Errorf("%d children ended at the end, %+v", len(k.ended), k.slots.children["bad"])
	}
}
