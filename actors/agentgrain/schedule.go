package agentgrain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/protocol"
)

// schedule makes, changes, flips or deletes a schedule.
func (g *Grain) schedule(c actor.Context, cmd *protocol.Command, b protocol.ScheduleCommand) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if b.Key != "" {
		x, err := g.d.Store.Replay(ctx, g.id, b.Key, b.Hash)
		if err != nil {
			return nil, err
		}
		if x != nil {
			out, err := protocol.Decode[protocol.ScheduleResult](x.Result)
			out.Replayed = true
			return out, err
		}
	}
	if x, err := g.d.Store.Replay(ctx, g.id, onceKey(cmd), cmd.Kind); err != nil || x != nil { // this very command took effect before
		return json.RawMessage(x.Bytes()), err
	}
	all, err := g.d.schedules(ctx, g.id)
	if err != nil {
		return nil, err
	}
	var history []agent.Execution
	if b.Do == protocol.ScheduleDrop {
		if history, err = records[agent.Execution](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordExecution, Group: b.ID, Limit: agent.KeptExecutions + 1}); err != nil {
			return nil, err
		}
		g.slots.drop(c, b.ID)
	}
	g.slots.forgive(b.ID)
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if len(m.Schedules.All) == 0 { // else a slot was worked out, and they were read in this step
			m.Schedules.All = slices.Clone(all) // a decision may be made twice
		}
		var out protocol.ScheduleResult
		var err error
		switch b.Do {
		case protocol.ScheduleAdd:
			out.Schedule, err = m.AddSchedule(b.ID, *b.Set)
		case protocol.ScheduleChange:
			out.Schedule, err = m.ChangeSchedule(b.ID, *b.Set)
		case protocol.ScheduleToggle:
			out.Schedule, err = m.ToggleSchedule(b.ID)
		case protocol.ScheduleDrop:
			err = m.DropSchedule(b.ID, history)
		default:
			err = fmt.Errorf("unknown schedule verb %q", b.Do)
		}
		if err != nil {
			return nil, err
		}
		if b.Key != "" {
			m.C.Idem = &agent.Idempotency{Key: b.Key, Hash: b.Hash, Result: agent.Encode(out)}
		}
		return out, nil
	})
}

// records reads and decodes a page of records.
func records[T any](ctx context.Context, d *Deps, id agent.ID, p agent.RecordPage) ([]T, error) {
	bodies, _, err := d.Store.Recorded(ctx, id, p)
	if err != nil {
		return nil, err
	}
	return decode[T](id, p.Kind, bodies)
}

func decode[T any](id agent.ID, kind string, bodies [][]byte) ([]T, error) {
	out := make([]T, len(bodies))
	for i, b := range bodies {
		if err := json.Unmarshal(b, &out[i]); err != nil {
			return nil, fmt.Errorf("decode %s of agent %s: %w", kind, id, err)
		}
	}
	return out, nil
}

var allSchedules = agent.RecordPage{Kind: agent.RecordSchedule, Limit: agent.MaxSchedules}

func (d *Deps) schedules(ctx context.Context, id agent.ID) ([]agent.Schedule, error) {
	return records[agent.Schedule](ctx, d, id, allSchedules)
}

// begun is what was read before the schedules that are due were given to their children.
type begun struct {
	figures agent.Figures
	queue   []agent.Message
	at      time.Time
}

// begunLife is how long that may be taken for what is there now. Figures that change beside the activation may be as old at a commit anyway:
// reading them takes its time. What must not be old is guarded by the commit.
const begunLife = 250 * time.Millisecond

func (b *begun) fresh() bool { return b != nil && time.Since(b.at) < begunLife }

func (b *begun) peek(context.Context) (agent.Figures, []agent.Message, error) {
	return b.figures, b.queue, nil
}

// slotsFirst begins an activation that the clock has asked for with the schedules that are due: no step is made for nothing, and nothing is
// read twice. It says whether children have something to work out now.
func (g *Grain) slotsFirst(c actor.Context) bool {
	if g.loaded {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	f, queue, err := g.reload(ctx)
	if err != nil || (agent.Fence{Member: f.Member, Epoch: f.Epoch}) != g.act.Fence {
		g.loaded = false
		return false // the step finds the same
	}
	g.begun = &begun{f, queue, time.Now()}
	if _, err := g.tellSchedules(c, f.NowMS); err != nil || g.slots.busy == 0 {
		return false
	}
	g.arm(agent.SlotLook) // the first look would come in between
	return true
}

// tellSchedules gives the schedules that are due to their children, and says how many are.
func (g *Grain) tellSchedules(c actor.Context, now int64) (due int, err error) {
	if g.slots.waits() {
		return 0, nil
	}
	all, err := g.allSchedules(context.Background())
	if err != nil {
		return 0, err
	}
	for i := range all {
		if all[i].Due(now) {
			g.slots.tell(c, &all[i], now)
			due++
		}
	}
	return due, nil
}

// takeSlots commits what the children have worked out once none of them is busy: one commit for all.
func (g *Grain) takeSlots(c actor.Context) {
	if g.slots.busy == 0 && g.slots.done != nil {
		g.look(c)
	}
}

// allSchedules are those of the agent, from what was read with the state where that is at hand: whoever changes them clones them.
func (g *Grain) allSchedules(ctx context.Context) ([]agent.Schedule, error) {
	if g.schedules != nil {
		return g.schedules, nil
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	return g.d.schedules(ctx, g.id)
}

// dueSchedules reads what the machine needs to commit slots: all schedules, which of their last messages still wait, and what of a full
// history has to go.
func (g *Grain) dueSchedules(ctx context.Context, now int64) (s agent.Scheduled, err error) {
	if s.All, err = g.allSchedules(ctx); err != nil {
		return s, err
	}
	s.All = slices.Clone(s.All)
	var last []agent.MessageID
	s.Slots, s.Waiting, s.Oldest = g.slots.done, map[agent.MessageID]bool{}, map[string][]agent.Execution{}
	for i := range s.All {
		x := &s.All[i]
		if !x.Due(now) {
			continue
		}
		if x.LastID != "" {
			last = append(last, x.LastID)
		}
		if x.Kept >= agent.KeptExecutions-1 {
			if s.Oldest[x.ID], err = records[agent.Execution](ctx, g.d, g.id, agent.RecordPage{Kind: agent.RecordExecution, Group: x.ID, Limit: 2}); err != nil {
				return s, err
			}
		}
	}
	if len(last) == 0 {
		return s, nil
	}
	msgs, err := g.d.Store.ByID(ctx, g.id, last)
	for i := range msgs {
		s.Waiting[msgs[i].ID] = msgs[i].Status == agent.Pending
	}
	return s, err
}
