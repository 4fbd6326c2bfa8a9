package agentgrain

import (
	"context"
	"encoding/json"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
)

// Retention of sessions (OBS-3) is enforced when they are read; what is not kept is dropped now and then.
const (
	forgetEvery = 50 // sessions opened by this activation between two looks
	forgetBatch = 20 // sessions dropped in one commit
	forgetTurns = 200
)

// forget drops sessions beyond the retention, with their turns, the oldest first. What a crash leaves is found again.
func (g *Grain) forget(c actor.Context, now int64) {
	if g.opened++; g.opened%forgetEvery != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	oldest, total, err := g.d.Store.Recorded(ctx, g.id, agent.RecordPage{Kind: agent.RecordSession, Limit: forgetBatch})
	if err != nil {
		return // the next look finds it again
	}
	var gone []agent.Record
	full := true
	for i, body := range oldest {
		var s agent.Session
		if json.Unmarshal(body, &s) != nil {
			continue
		}
		if !s.Forgotten(now, total-i) {
			full = false
			break
		}
		more := false
		for _, kind := range agent.SessionRecords {
			parts, n, err := g.d.Store.Recorded(ctx, g.id, agent.RecordPage{Kind: kind, Group: string(s.ID), Limit: forgetTurns})
			if err != nil {
				return
			}
			for _, body := range parts {
				var part struct{ ID string }
				if json.Unmarshal(body, &part) == nil {
					gone = append(gone, agent.Record{Kind: kind, Group: string(s.ID), ID: part.ID})
				}
			}
			more = more || n > len(parts)
		}
		if more { // a long session goes in several looks
			break
		}
		gone = append(gone, agent.Record{Kind: agent.RecordSession, ID: string(s.ID)})
	}
	if len(gone) == 0 {
		return
	}
	_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
		m.C.Records = append(m.C.Records, gone...)
		return nil, nil
	})
	if err == nil && full {
		g.opened = 0 // there is more
	}
}
