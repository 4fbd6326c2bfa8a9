package agentgrain

import (
	"context"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/protocol"
)

// task cancels a task or takes input to it (LEG-6, LEG-8). Only this activation moves a task on, so what is checked here still
// holds when the input is accepted.
func (g *Grain) task(c actor.Context, cmd *protocol.Command, b protocol.TaskCommand) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	msgs, err := g.d.Store.ByID(ctx, g.id, []agent.MessageID{b.ID})
	if err != nil {
		return nil, err
	}
	if len(msgs) == 0 || !msgs[0].IsTask() {
		return nil, agent.NoTask()
	}
	known, err := agent.LoadTask(ctx, g.d.Store, g.id, b.ID)
	if err != nil {
		return nil, err
	}
	if b.Input == "" {
		return g.step(c, cmd, func(m *agent.Machine) (any, error) {
			at, err := m.CancelTask(msgs[0], known)
			return protocol.TaskResult{Status: string(agent.Cancelled), CancelledMS: at}, err
		})
	}
	if err := g.load(); err != nil {
		return nil, err
	}
	body, err := agent.TaskInput(msgs[0], known, b.Input)
	if err != nil {
		return nil, err
	}
	if _, err := g.d.Store.Accept(ctx, &agent.Acceptance{Agent: g.id, ID: b.As, Body: body, Limit: g.d.Settings.MaxPending}); err != nil {
		return nil, err
	}
	c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
	out := protocol.TaskResult{Status: known.StatusText()}
	if known != nil {
		out.Status = "running" // until the input is processed
	}
	return out, nil
}
