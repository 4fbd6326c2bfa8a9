package agentgrain

import (
	"context"
	"encoding/json"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// deliver hands open messages to other agents to their inboxes and closes them with the answer (MSG-14). Acceptance is
// one store call, idempotent by the message's id; one that fails is repeated by the next look.
func (g *Grain) deliver(c actor.Context, m *agent.Machine) {
	if g.delivering || len(m.S.Intents) == 0 || m.S.Deleting {
		return
	}
	g.delivering = true
	defer func() { g.delivering = false }()
	for _, open := range m.S.Intents {
		if err := g.deliverOne(c, m, open.ID); err != nil {
			g.d.Log.Warn("message to another agent did not get through", "agent_id", g.id, "message_id", open.ID, "err", err)
			return // the next look goes on
		}
	}
}

func (g *Grain) deliverOne(c actor.Context, m *agent.Machine, id agent.MessageID) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	body, err := g.d.Store.Record(ctx, g.id, agent.RecordIntent, string(id))
	if err != nil {
		return err
	}
	in := agent.Intent{ID: id}
	if body != nil { // else it was closed by a commit whose answer was lost
		if err := json.Unmarshal(body, &in); err != nil {
			return err
		}
	}
	got, err := g.d.Store.Accept(ctx, &agent.Acceptance{Agent: in.To, Account: m.Spec.Account, ID: in.ID, Body: in.Body, Limit: g.d.Settings.MaxPending})
	var refused error
	if err != nil {
		if refused = agent.Refusal(err); refused == nil {
			return err
		}
	}
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) {
		m.CloseIntent(in, refused)
		return nil, nil
	}); err != nil {
		return err
	}
	if g.closed != nil {
		g.closed[id] = refused
	}
	if refused == nil && got.Status == agent.Active {
		g.d.Hint(in.To)
	}
	return nil
}

// sent is the answer to a runner that posted a message: of one to another agent, what the recipient's inbox said.
func (g *Grain) sent(res any, err error) (any, error) {
	out, ok := res.(protocol.MessageResult)
	if err != nil || !ok || !out.Intent {
		return res, err
	}
	refused, done := g.closed[out.ID]
	if !done {
		return nil, fault.New(fault.Unavailable, "store_unavailable", "The recipient could not be reached; try again")
	}
	return out, refused
}
