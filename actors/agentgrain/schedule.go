package agentgrain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

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
	}
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if len(m.Schedules.All) == 0 { // else a slot is due, and they were read in this step
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

// dueSchedules reads what the machine needs to fire: all schedules, which of their last messages still wait, and what of a full history
// has to go.
func (g *Grain) dueSchedules(ctx context.Context, now int64) (s agent.Scheduled, err error) {
	if len(g.schedules) > 0 {
		s.All, err = decode[agent.Schedule](g.id, agent.RecordSchedule, g.schedules)
	} else {
		s.All, err = g.d.schedules(ctx, g.id)
	}
	if err != nil {
		return s, err
	}
	var last []agent.MessageID
	s.Waiting, s.Oldest = map[agent.MessageID]bool{}, map[string][]agent.Execution{}
	for i := range s.All {
		x := &s.All[i]
		if x.NextMS == 0 || x.NextMS > now {
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
