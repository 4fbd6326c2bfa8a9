package agentgrain

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// trigger makes, changes or deletes a trigger. The route to it is made before the commit and dropped after it: a route
// without its trigger leads nowhere.
func (g *Grain) trigger(c actor.Context, cmd *protocol.Command, b protocol.TriggerCommand) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if b.Add != nil {
		return g.addTrigger(ctx, c, cmd, b)
	}
	body, err := g.d.Store.Record(ctx, g.id, agent.RecordTrigger, b.ID)
	if err != nil {
		return nil, err
	}
	if body == nil {
		if x, err := g.d.Store.Replay(ctx, g.id, onceKey(cmd), cmd.Kind); err != nil || x != nil { // this very command deleted it before
			return json.RawMessage(x.Bytes()), err
		}
		return nil, fault.New(fault.NotFound, "not_found", "Trigger not found")
	}
	var t agent.InboundTrigger
	if err := json.Unmarshal(body, &t); err != nil {
		return nil, fmt.Errorf("decode trigger %s: %w", b.ID, err)
	}
	if b.Set != nil {
		return g.step(c, cmd, func(m *agent.Machine) (any, error) { return m.ChangeTrigger(t, *b.Set) })
	}
	res, err := g.step(c, cmd, func(m *agent.Machine) (any, error) { return t, m.DropTrigger(b.ID) })
	if err == nil {
		_ = g.d.Store.DropRoute(ctx, agent.RecordTrigger, b.ID, g.id) // else it leads nowhere until the agent is deleted
	}
	return res, err
}

func (g *Grain) addTrigger(ctx context.Context, c actor.Context, cmd *protocol.Command, b protocol.TriggerCommand) (any, error) {
	if b.Key != "" {
		x, err := g.d.Store.Replay(ctx, g.id, b.Key, b.Hash)
		if err != nil {
			return nil, err
		}
		if x != nil {
			out, err := protocol.Decode[protocol.TriggerResult](x.Result)
			out.Replayed = true
			return out, err
		}
	}
	_, count, err := g.d.Store.Recorded(ctx, g.id, agent.RecordPage{Kind: agent.RecordTrigger, Limit: 1})
	if err != nil {
		return nil, err
	}
	if err := g.d.Store.PutRoute(ctx, agent.RecordTrigger, b.Add.ID, g.id); err != nil {
		return nil, err
	}
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		t, err := m.AddTrigger(*b.Add, count)
		if err != nil {
			return nil, err
		}
		out := protocol.TriggerResult{InboundTrigger: t}
		if b.Key != "" {
			m.C.Idem = &agent.Idempotency{Key: b.Key, Hash: b.Hash, Result: agent.Encode(out)}
		}
		return out, nil
	})
}
