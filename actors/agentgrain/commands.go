package agentgrain

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
)

// handler carries out one command. A nil result with a nil error is an empty answer.
type handler func(g *Grain, c actor.Context, cmd *protocol.Command) (any, error)

// with adapts a handler of a decoded body.
func with[T any](f func(g *Grain, c actor.Context, cmd *protocol.Command, body T) (any, error)) handler {
	return func(g *Grain, c actor.Context, cmd *protocol.Command) (any, error) {
		body, err := protocol.Decode[T](cmd.Body)
		if err != nil {
			return nil, err
		}
		return f(g, c, cmd, body)
	}
}

// handlers is the table of commands.
var handlers map[string]handler

func init() { // a variable initialised in place would refer to itself through Grain
	handlers = map[string]handler{
		protocol.Status:    with((*Grain).setStatus),
		protocol.Delete:    with((*Grain).delete),
		protocol.Balance:   with((*Grain).balance),
		protocol.Update:    with((*Grain).update),
		protocol.Wake:      with((*Grain).wake),
		protocol.Runtime:   with((*Grain).runtime),
		protocol.Attach:    with((*Grain).attach),
		protocol.Detach:    with((*Grain).detach),
		protocol.Progress:  with((*Grain).progress),
		protocol.End:       with((*Grain).end),
		protocol.Post:      with((*Grain).post),
		protocol.Mark:      with((*Grain).mark),
		protocol.Read:      with((*Grain).read),
		protocol.Disk:      with((*Grain).disk),
		protocol.Session:   with((*Grain).session),
		protocol.Report:    with((*Grain).report),
		protocol.Exhaust:   with((*Grain).exhaust),
		protocol.Trigger:   with((*Grain).trigger),
		protocol.Schedule:  with((*Grain).schedule),
		protocol.Link:      with((*Grain).link),
		protocol.Rotate:    with((*Grain).rotate),
		protocol.Redeliver: with((*Grain).redeliver),
		protocol.Compact:   with((*Grain).compact),
		protocol.Task:      with((*Grain).task),
		protocol.Touch:     with((*Grain).touch),
	}
}

// fromRunner makes a decision conditional on the runner that asked for it: checked before anything else about the call,
// and once more in the step of the effect (FENCE-4).
func fromRunner(g protocol.Guard, decide decision) decision {
	return func(m *agent.Machine) (any, error) {
		if err := m.CheckRunner(g.Runner()); err != nil {
			return nil, err
		}
		m.C.Guard = g.Runner()
		return decide(m)
	}
}

// pendingAnswer is the result of a command that is answered later.
type pendingAnswer struct{}

func (g *Grain) command(c actor.Context, cmd *protocol.Command) {
	if cmd.Kind == protocol.Yield {
		if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { m.Yield(); return nil, nil }); err != nil && !g.gone {
			g.arm(time.Second)
		}
		return
	}
	if cmd.Kind == protocol.Look || cmd.Kind == protocol.Due || cmd.Kind == protocol.Observe {
		g.roused = cmd.Kind == protocol.Due
		if cmd.Kind == protocol.Observe {
			g.wished = wishKey{}
		}
		g.look(c)
		g.roused = false
		return
	}
	h, ok := handlers[cmd.Kind]
	if !ok {
		c.Respond(protocol.Answer(nil, fault.Newf(fault.Unavailable, "dependency_unavailable", "This member does not know the command %q", cmd.Kind)))
		return
	}
	result, err := h(g, c, cmd)
	if _, later := result.(pendingAnswer); later && err == nil {
		return
	}
	if err != nil && fault.Of(err).Kind == fault.Internal {
		g.d.Log.Error("command failed", "agent_id", g.id, "kind", cmd.Kind, "request_id", cmd.RequestId, "err", err)
	}
	if c.Sender() != nil {
		c.Respond(protocol.Answer(result, err))
	}
}

func (g *Grain) setStatus(c actor.Context, cmd *protocol.Command, b protocol.StatusCommand) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		err := m.Command(b.Verb)
		return protocol.StatusResult{Status: m.S.Status}, err
	})
}

func (g *Grain) delete(c actor.Context, cmd *protocol.Command, b protocol.DeleteCommand) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) { return nil, m.Delete(b.Force) })
}

func (g *Grain) balance(c actor.Context, cmd *protocol.Command, b agent.BalanceChange) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if err := m.ChangeBalance(b); err != nil {
			return nil, err
		}
		before, after := m.F.Balance, b.Amount
		if !b.Set {
			after += before
		}
		if after >= 0 {
			m.F.Balance = after // so that what the new balance allows starts in the same step (BAL-5)
		}
		return committed(func(done agent.Committed) any {
			g.root.Send(g.self, &protocol.Command{Kind: protocol.Look})
			return protocol.BalanceResult{Previous: done.Previous, Balance: done.Balance}
		}), nil
	})
}

func updateRunning() error {
	return fault.New(fault.Conflict, "update_in_progress", "Another update with file operations is still running")
}

// update merges a patch. One with file operations is stored first, applied by the runner, and answered then (FILE-1).
func (g *Grain) update(c actor.Context, cmd *protocol.Command, b protocol.UpdateCommand) (any, error) {
	doc, err := field.Parse(b.Document)
	if err != nil {
		return nil, err
	}
	patch, err := agent.ReadUpdate(&doc, g.d.Settings)
	if err != nil {
		return nil, err
	}
	if patch.Files.Empty() {
		return g.step(c, cmd, func(m *agent.Machine) (any, error) {
			if m.S.Update != "" { // its fields were found to fit, and have to when its files are written (FILE-1)
				return nil, updateRunning()
			}
			return g.applyPatch(m, &patch, b)
		})
	}
	_, err = g.step(c, nil, func(m *agent.Machine) (any, error) {
		if err := m.Accessible(); err != nil {
			return nil, err
		}
		if m.S.Update == cmd.Id {
			return nil, nil // a repeat of the call that is being carried out
		}
		if m.S.Update != "" {
			return nil, updateRunning()
		}
		if _, _, err := patch.Apply(m.Spec, g.d.Sealer.SealAgent, g.d.Settings); err != nil {
			return nil, err
		}
		if !m.Wake() {
			return nil, fault.New(fault.Unavailable, "pod_not_running", "The agent's pod is starting").After(10e9)
		}
		sealed, err := g.d.Sealer.SealAgent(g.id, "update", agent.NewSecret(string(agent.Encode(b))))
		if err != nil {
			return nil, err
		}
		m.S.Update = cmd.Id
		m.C.Records = append(m.C.Records, agent.Record{Kind: agent.RecordUpdate, ID: cmd.Id, Body: agent.Encode(sealed)})
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	g.waiting[cmd.Id] = c.Sender()
	return pendingAnswer{}, nil
}

func (g *Grain) applyPatch(m *agent.Machine, patch *agent.Patch, b protocol.UpdateCommand) (any, error) {
	if m.S.Deleting {
		return nil, agent.Gone()
	}
	next, changed, err := patch.Apply(m.Spec, g.d.Sealer.SealAgent, g.d.Settings)
	if err != nil {
		return nil, err
	}
	taken := false
	if len(next.Config.Webhooks) > 0 && !next.Has(agent.SlotWebhook) && b.NewWebhookSecret != "" { // OUT-5
		if next.Sealed == nil {
			next.Sealed = map[string]string{}
		}
		next.Sealed[agent.SlotWebhook], taken = b.NewWebhookSecret, true
	}
	m.Update(next, changed, patch.Balance)
	return protocol.UpdateResult{SecretTaken: taken, Version: m.Spec.ConfigVersion}, nil
}

func (g *Grain) touch(c actor.Context, cmd *protocol.Command, _ struct{}) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) { return nil, m.Touch("mcp_servers") })
}

func (g *Grain) wake(c actor.Context, cmd *protocol.Command, _ struct{}) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if err := m.Accessible(); err != nil {
			return nil, err
		}
		return protocol.WakeResult{Ready: m.Wake(), Endpoint: agent.DecodeRunner(m.F.RunnerInfo).Endpoint, Incarnation: m.S.Pod.Incarnation}, nil
	})
}

// runtime answers with the activation's view of itself. It changes nothing (OBS-2).
func (g *Grain) runtime(c actor.Context, _ *protocol.Command, _ struct{}) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	m, queue, err := g.machine(ctx)
	if err != nil {
		return nil, g.failed(c, err)
	}
	out := protocol.RuntimeResult{Node: g.d.Node, Epoch: g.act.Fence.Epoch, ActivatedMS: g.activated.UnixMilli(), Mailbox: g.act.Depth(),
		State: m.S, Figures: m.F, Restarts: g.restarts}
	if t := m.S.Turn; t != nil {
		due := t.DeadlineMS
		if t.Cancel != nil {
			due = t.Cancel.DueMS
		}
		out.Timers = append(out.Timers, protocol.Timer{Kind: "turn_timeout", DueMS: due})
	}
	if at, _ := m.NextReminder(queue); at > 0 {
		out.Timers = append(out.Timers, protocol.Timer{Kind: "reminder", DueMS: at})
	}
	if m.S.Pod.Phase == agent.PodStarting {
		out.Timers = append(out.Timers, protocol.Timer{Kind: "pod_start", DueMS: m.S.Pod.StartedMS + g.d.Settings.StartTimeout.Milliseconds()})
	}
	if m.F.RunnerLive() {
		out.Timers = append(out.Timers, protocol.Timer{Kind: "runner_lease", DueMS: m.F.LeaseMS})
	}
	if m.S.Pod.Phase == agent.PodUp && m.S.Turn == nil && m.Spec.WarmthMS != nil {
		out.Timers = append(out.Timers, protocol.Timer{Kind: "warmth", DueMS: m.S.ActiveMS + *m.Spec.WarmthMS})
	}
	return out, nil
}

func (g *Grain) attach(c actor.Context, cmd *protocol.Command, b agent.Attach) (any, error) {
	res, err := g.step(c, cmd, func(m *agent.Machine) (any, error) {
		if err := m.Attach(b); err != nil {
			return nil, err
		}
		out := protocol.AttachResult{Epoch: g.act.Fence.Epoch, ConfigVersion: m.Spec.ConfigVersion, Session: m.S.Session}
		if t := m.S.Turn; t != nil && t.Cancel == nil && t.SentMS > 0 {
			out.Turn, out.Start = t.ID, t.Start
		}
		return committed(func(done agent.Committed) any {
			out.RunnerEpoch, out.NowMS = done.RunnerEpoch, done.NowMS
			return out
		}), nil
	})
	if err == nil {
		c.Send(c.Self(), &protocol.Command{Kind: protocol.Look}) // the lease is there now: files, then a turn
	}
	return res, err
}

func (g *Grain) detach(c actor.Context, cmd *protocol.Command, b protocol.RunnerCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		if b.Reason == "fatal" {
			m.Fail("The runner gave up: " + b.Detail)
		}
		m.Detach()
		return nil, nil
	}))
}

func (g *Grain) progress(c actor.Context, cmd *protocol.Command, b protocol.ProgressCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		seq, deadline, err := m.Progress(b.Turn, b.Entries)
		return protocol.ProgressResult{Seq: seq, DeadlineMS: deadline}, err
	}))
}

func (g *Grain) end(c actor.Context, cmd *protocol.Command, b protocol.EndCommand) (any, error) {
	older, err := g.older(b.Replies)
	if err != nil {
		return nil, err
	}
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		return m.EndTurn(b.End, older)
	}))
}

// older loads the messages that replies name, for those that are not in the batch.
func (g *Grain) older(drafts []agent.ReplyDraft) (func(agent.MessageID) (agent.Message, bool), error) {
	var ids []agent.MessageID
	for _, d := range drafts {
		if d.ReplyTo != "" {
			ids = append(ids, d.ReplyTo)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	msgs, err := g.d.Store.ByID(ctx, g.id, ids)
	if err != nil {
		return nil, err
	}
	return func(id agent.MessageID) (agent.Message, bool) {
		for _, m := range msgs {
			if m.ID == id {
				return m, true
			}
		}
		return agent.Message{}, false
	}, nil
}

func (g *Grain) post(c actor.Context, cmd *protocol.Command, b protocol.ReplyCommand) (any, error) {
	key, hash := onceKey(cmd), cmd.Kind
	if b.Key != "" {
		key, hash = b.Key, b.Hash
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	x, err := g.d.Store.Replay(ctx, g.id, key, hash)
	if err != nil {
		return nil, err
	}
	if x != nil {
		out, err := protocol.Decode[protocol.MessageResult](x.Result)
		out.Replayed = b.Key != ""
		return out, err
	}
	older, err := g.older([]agent.ReplyDraft{b.Draft})
	if err != nil {
		return nil, err
	}
	g.closed = map[agent.MessageID]error{}
	defer func() { g.closed = nil }()
	return g.sent(g.step(c, nil, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		for _, open := range m.S.Intents { // an earlier attempt of this call got so far
			if open.Key == key {
				return protocol.MessageResult{ID: open.ID, Intent: true}, nil
			}
		}
		var id agent.MessageID
		var err error
		if b.To != nil {
			id, err = m.Tell(b.Turn, *b.To)
		} else {
			id, err = m.Reply(b.Turn, b.Draft, older)
		}
		if err != nil {
			return nil, err
		}
		out := protocol.MessageResult{ID: id, Intent: m.KeyIntent(id, key, hash)}
		if !out.Intent {
			m.C.Idem = &agent.Idempotency{Key: key, Hash: hash, Result: agent.Encode(out)}
		}
		return out, nil
	})))
}

func (g *Grain) known(ids []agent.MessageID) ([]agent.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	return g.d.Store.ByID(ctx, g.id, ids)
}

func (g *Grain) mark(c actor.Context, cmd *protocol.Command, b protocol.MarkCommand) (any, error) {
	known, err := g.known(b.IDs)
	if err != nil {
		return nil, err
	}
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		n, ignored, err := m.MarkBatch(b.Turn, b.Read, known, b.IDs)
		return protocol.MarkResult{Updated: n, Ignored: ignored}, err
	}))
}

// read marks replies as read by the user (MSG-6).
func (g *Grain) read(c actor.Context, cmd *protocol.Command, b protocol.ReadCommand) (any, error) {
	known, err := g.known(b.IDs)
	if err != nil {
		return nil, err
	}
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		n, ignored := m.ReadReplies(slices.Clone(known), b.IDs) // a decision may be made twice
		return protocol.MarkResult{Updated: n, Ignored: ignored}, nil
	})
}

func (g *Grain) disk(c actor.Context, cmd *protocol.Command, b protocol.DiskCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		if !m.S.FilesDue {
			m.S.Disk = b.Usage
		}
		return nil, nil
	}))
}

func (g *Grain) session(c actor.Context, cmd *protocol.Command, b protocol.SessionCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		return nil, m.SetTranscript(b.Session, b.SDK, b.Context, b.Lost)
	}))
}

func (g *Grain) compact(c actor.Context, cmd *protocol.Command, b protocol.CompactCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) { return nil, m.Compacted(b.Session, b.CompactReport) }))
}

func (g *Grain) report(c actor.Context, cmd *protocol.Command, b protocol.ReportCommand) (any, error) {
	return g.step(c, cmd, fromRunner(b.Guard, func(m *agent.Machine) (any, error) {
		m.Report(b.Execution, b.Error, b.Fatal)
		return protocol.ReportResult{Status: m.S.Status}, nil
	}))
}

func (g *Grain) exhaust(c actor.Context, cmd *protocol.Command, b protocol.ExhaustCommand) (any, error) {
	return g.step(c, cmd, func(m *agent.Machine) (any, error) {
		m.Exhaust(b.Turn)
		return nil, nil
	})
}

// filesApplied takes in the end of a file change: initial files, or those of an update.
func (g *Grain) filesApplied(c actor.Context, r fileReport) {
	final := r.err == nil || !fault.Is(r.err, fault.Unavailable) && !fault.Is(r.err, fault.Internal)
	if !final {
		g.d.Log.Warn("file change did not get through", "agent_id", g.id, "err", r.err)
		if g.fileTries++; g.fileTries < maxFileTries {
			g.arm(time.Second)
			return
		}
	}
	g.fileTries = 0
	if r.id == initialFiles {
		_, err := g.step(c, nil, func(m *agent.Machine) (any, error) {
			if r.err != nil {
				m.Fail("Initial files could not be written: " + fault.Of(r.err).Message) // POD-9
			} else {
				m.FilesApplied(r.usage)
			}
			return nil, nil
		})
		if err == nil {
			c.Send(c.Self(), &protocol.Command{Kind: protocol.Look})
		}
		return
	}
	var refused error
	result, err := g.step(c, &protocol.Command{Id: r.id, Kind: protocol.Update}, func(m *agent.Machine) (any, error) {
		if m.S.Update != r.id {
			return nil, nil
		}
		m.S.Update = ""
		m.C.Records = append(m.C.Records, agent.Record{Kind: agent.RecordUpdate, ID: r.id})
		if r.err != nil {
			return nil, nil
		}
		m.S.Disk = r.usage
		doc, err := field.Parse(r.update.Document)
		if err != nil {
			return nil, err
		}
		patch, err := agent.ReadUpdate(&doc, g.d.Settings)
		if err != nil {
			return nil, err
		}
		out, err := g.applyPatch(m, &patch, r.update)
		if err != nil && !fault.Is(err, fault.Unavailable) { // it fitted before; it must not be tried for ever
			refused, out, err = err, nil, nil
		}
		return out, err
	})
	if err == nil {
		err = cmp.Or(r.err, refused)
	}
	if to := g.waiting[r.id]; to != nil {
		delete(g.waiting, r.id)
		c.Send(to, protocol.Answer(result, err))
	}
}

func (g *Grain) childEnded(c actor.Context, who *actor.PID) {
	switch {
	case g.pod != nil && who.Id == g.pod.Id:
		g.pod = nil
	case g.turn != nil && who.Id == g.turn.Id:
		g.turn = nil
	case g.notifier != nil && who.Id == g.notifier.Id:
		g.notifier, g.flying = nil, nil
	case g.slots.ended(who):
		g.restarts++
		g.d.Log.Warn("schedule of an agent failed", "agent_id", g.id, "child", who.Id, "restarts", g.restarts)
		g.look(c) // with what the others have worked out; this one rests
		return
	case g.relayEnded(who):
	default: // one that was stopped on purpose
		return
	}
	g.restarts++
	g.d.Log.Warn("child of an agent ended", "agent_id", g.id, "child", who.Id, "restarts", g.restarts)
	g.arm(reloadPause * time.Duration(min(g.restarts, 50))) // so that a child that keeps failing does not spin
}
