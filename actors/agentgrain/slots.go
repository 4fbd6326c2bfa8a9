package agentgrain

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
)

// slotWork tells the child of a schedule to work out what is due.
type slotWork struct {
	schedule agent.Schedule
	now      int64 // ms
}

// slotDone is what that came to.
type slotDone struct{ slot agent.Slot }

// scheduleChild is the actor of one schedule. What it works out, its agent commits.
type scheduleChild struct {
	work func(*agent.Schedule, int64) agent.Slot
	log  *slog.Logger
}

// scheduleProps are the properties of such children. They never wait, so they run on the goroutine of whoever tells them something.
func scheduleProps(work func(*agent.Schedule, int64) agent.Slot, log *slog.Logger) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &scheduleChild{work, log} }, actor.WithDispatcher(actor.NewSynchronizedDispatcher(300)))
}

// Receive implements actor.Actor. A schedule that makes it panic costs this actor, not the agent.
func (s *scheduleChild) Receive(c actor.Context) {
	m, ok := c.Message().(slotWork)
	if !ok {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("schedule panicked", "schedule_id", m.schedule.ID, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			panic(r)
		}
	}()
	c.Send(c.Parent(), slotDone{s.work(&m.schedule, m.now)})
}

// maxSlotRest is how long a schedule rests at most after its actor has failed again and again.
const maxSlotRest = time.Minute

// slots are the children of those schedules of an agent that have come due in this activation, and what they have in hand.
type slots struct {
	props    *actor.Props
	now      func() time.Time
	told     time.Time              // when a child was last told something
	children map[string]*scheduling // by schedule
	busy     int
	done     map[string]agent.Slot // worked out and not committed; nil: nothing
}

// scheduling is one of them.
type scheduling struct {
	child  *actor.PID // nil after it has failed
	busy   bool
	failed int // in a row
	rested time.Time
}

// tell has a schedule that is due worked out, unless it rests.
func (x *slots) tell(c actor.Context, s *agent.Schedule, now int64) {
	k := x.children[s.ID]
	if k == nil {
		if x.children == nil {
			x.children = map[string]*scheduling{}
		}
		k = &scheduling{}
		x.children[s.ID] = k
	}
	if k.busy || x.now().Before(k.rested) {
		return
	}
	if k.child == nil {
		pid, err := c.SpawnNamed(x.props, "schedule/"+s.ID)
		if err != nil { // the name is taken: the former one is not gone yet
			return
		}
		k.child = pid
	}
	k.busy, x.told = true, x.now()
	x.busy++
	c.Send(k.child, slotWork{*s, now})
}

// waits says whether children have something in hand. One that has not answered for agent.SlotLook counts as free, and may be told again.
func (x *slots) waits() bool {
	if x.busy == 0 || x.now().Sub(x.told) < agent.SlotLook {
		return x.busy > 0
	}
	for _, k := range x.children {
		k.busy = false
	}
	x.busy = 0
	return false
}

// forgive lets a schedule be worked out at once: it was changed, which may have repaired it.
func (x *slots) forgive(schedule string) {
	if k := x.children[schedule]; k != nil {
		k.failed, k.rested = 0, time.Time{}
	}
}

// finished takes what a child has worked out.
func (x *slots) finished(m slotDone) {
	k := x.children[m.slot.Of.ID]
	if k == nil || !k.busy {
		return
	}
	k.busy, k.failed = false, 0
	x.busy--
	if x.done == nil {
		x.done = map[string]agent.Slot{}
	}
	x.done[m.slot.Of.ID] = m.slot
}

// ended notes that a child has failed, and says whether it was one of these: its schedule rests before it gets another.
func (x *slots) ended(who *actor.PID) bool {
	for _, k := range x.children {
		if k.child == nil || k.child.Id != who.Id {
			continue
		}
		k.child = nil
		k.rested = x.now().Add(min(time.Second<<min(k.failed, 6), maxSlotRest))
		k.failed++
		if k.busy {
			k.busy = false
			x.busy--
		}
		return true
	}
	return false
}

// drop ends the child of a schedule that was deleted.
func (x *slots) drop(c actor.Context, schedule string) {
	k := x.children[schedule]
	if k == nil {
		return
	}
	delete(x.children, schedule)
	if k.busy {
		x.busy--
	}
	if k.child != nil {
		c.Stop(k.child)
	}
}
