package simtest

import (
	"errors"
	"fmt"
	"slices"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Faults of the store, for one call.
const (
	storeFine   = iota
	storeDown   // the call fails and did nothing
	storeSilent // the call took effect, but no answer came
)

var errStore = fault.Store(errors.New("simulated"))

// store is everything durable of the one agent. Its clock may jump.
type store struct {
	w       *World
	clock   int64 // ms
	last    int64 // the agent's time never goes below it (GEN-1)
	fence   agent.Fence
	version int64
	f       agent.Figures
	state   []byte
	msgs    map[agent.MessageID]*agent.Message
	order   []agent.MessageID // as accepted
	queue   []int64           // sequences that wait
	bySeq   map[int64]agent.MessageID
	turns   map[string]agent.Turn // as last recorded
	out     outbox
	alarm   int64 // 0: none
	pending int64 // stamp in the pending set, 0: none
	seq     int64
	cmds    []agent.Command
	seen    *agent.State // the state as decoded last
	seenAt  int64        // and its version
}

// view is the committed state.
func (s *store) view() *agent.State {
	if s.seen == nil || s.seenAt != s.version {
		v := decode[agent.State](s.state)
		s.seen, s.seenAt = &v, s.version
	}
	return s.seen
}

func newStore(w *World, balance int64) *store {
	s := &store{w: w, clock: 1_700_000_000_000, msgs: map[agent.MessageID]*agent.Message{}, bySeq: map[int64]agent.MessageID{}, turns: map[string]agent.Turn{},
		out: outbox{map[string]agent.Delivery{}, map[string]agent.Delivery{}, map[string][]byte{}}}
	s.f = agent.Figures{Account: "account", Status: agent.Active, Balance: balance}
	s.state = agent.Encode(&agent.State{Status: agent.Active, Pod: agent.Pod{Want: true, Why: "created"}})
	s.alarm = s.clock
	return s
}

func (s *store) now() int64 { return max(s.clock, s.last) }

// accept is the acceptance of a message by any node: no fence, one step (MSG-1). Stamped is when the node put the agent into the
// pending set, before.
func (s *store) accept(id agent.MessageID, interrupt bool) error {
	if s.f.Status == agent.Stopped || s.f.Status == agent.Errored {
		return s.f.Status.Accepts("", false)
	}
	s.pending = s.clock
	s.seq++
	s.last = s.now()
	s.msgs[id] = &agent.Message{ID: id, Seq: s.seq, CreatedMS: s.last, Mark: agent.Mark{Status: agent.Pending},
		Body: agent.Body{Role: agent.RoleUser, Channel: agent.ChannelAPI, Counterparty: "owner", Content: "x", Source: "user"}}
	s.bySeq[s.seq], s.order, s.queue = id, append(s.order, id), append(s.queue, s.seq)
	if interrupt {
		s.f.Interrupt = s.seq
	}
	return nil
}

// claim is a compare-and-set on the former claim (FENCE-1).
func (s *store) claim(former agent.Fence, member string) (agent.Fence, bool) {
	if s.fence != former {
		return agent.Fence{}, false
	}
	s.fence = agent.Fence{Member: member, Epoch: former.Epoch + 1}
	return s.fence, true
}

func (s *store) figures() agent.Figures {
	f := s.f
	f.NowMS, f.ClockMS, f.Version, f.Member, f.Epoch, f.Pending, f.Messages = s.now(), s.clock, s.version, s.fence.Member, s.fence.Epoch, int64(len(s.queue)), int64(len(s.order))
	return f
}

func (s *store) waiting() (out []agent.Message) {
	for _, q := range s.queue[:min(len(s.queue), agent.MaxBatchMessages)] {
		out = append(out, *s.msgs[s.bySeq[q]])
	}
	return out
}

// commit is one atomic step: every check comes before the first write.
func (s *store) commit(c *agent.Commit) (agent.Committed, error) {
	if c.Due > 0 && (s.alarm == 0 || c.Due < s.alarm) {
		s.alarm = c.Due // armed before, whatever becomes of the commit
	}
	switch {
	case s.w.Unfenced:
		if c.Fence != s.fence {
			s.w.Refused++ // it would have been
		}
	case c.Fence != s.fence:
		s.w.Refused++
		return agent.Committed{}, fault.Lost("agent")
	case c.Version != s.version:
		return agent.Committed{}, fault.New(fault.Fenced, "store_unavailable", "moved on")
	case c.Guard != nil && c.Guard.Incarnation != s.f.Incarnation:
		return agent.Committed{}, agent.Refused("key")
	case c.Guard != nil && c.Guard.Epoch != 0 && c.Guard.Epoch != s.f.RunnerEpoch:
		return agent.Committed{}, fault.New(fault.Conflict, "stale_runner", "replaced")
	}
	s.version++
	s.last = s.now()
	if c.State != nil {
		s.state = c.State
	}
	s.head(c.Head)
	for _, a := range c.Append {
		s.seq++
		s.msgs[a.ID] = &agent.Message{ID: a.ID, Seq: s.seq, CreatedMS: s.last, Body: a.Body, Mark: a.Mark}
	}
	for _, id := range c.Take {
		i := slices.Index(s.queue, s.msgs[id].Seq)
		if i < 0 {
			s.w.broken("message %s was taken and did not wait", id)
			continue
		}
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	for id, q := range c.Requeue {
		if s.msgs[id].Seq != q.Seq || slices.Contains(s.queue, q.Seq) {
			s.w.broken("LIFE-4: message %s returned to another place", id)
		}
		s.queue = append(s.queue, q.Seq)
	}
	slices.Sort(s.queue)
	for _, m := range c.Marks {
		s.mark(m, c.Requeue)
	}
	for _, r := range c.Records {
		s.record(r)
	}
	if c.Clear {
		s.cmds = nil
	}
	for range c.Confirm {
		s.cmds = slices.DeleteFunc(s.cmds, func(x agent.Command) bool { return x.Kind == "turn.start" })
	}
	for _, x := range c.Commands {
		s.f.CommandSeq++
		x.Seq = s.f.CommandSeq
		s.cmds = append(s.cmds, x)
		s.w.sent[x.Kind]++
	}
	if c.Attach > 0 {
		s.f.RunnerEpoch++
		s.f.AttachedMS, s.f.LeaseMS, s.f.SubscribedMS = s.last, s.last+c.Attach, 0
	}
	return agent.Committed{Version: s.version, NowMS: s.last, RunnerEpoch: s.f.RunnerEpoch}, nil
}

func (s *store) head(h map[string]string) {
	for k, v := range h {
		switch k {
		case agent.HeadStatus:
			s.f.Status = agent.Status(v)
		case agent.HeadIncarnation:
			s.f.Incarnation = number(v)
		case agent.HeadLease:
			s.f.LeaseMS = number(v)
		case agent.HeadRunner:
			s.f.RunnerInfo = v
		case agent.HeadExecution:
			s.f.Execution = v
		}
	}
}

func number(v string) (n int64) {
	_, _ = fmt.Sscan(v, &n) // empty reads as zero
	return n
}

// mark checks that a message only moves forward, but for LIFE-4, and that an outcome is decided once (MSG-4, MSG-5).
func (s *store) mark(p agent.MarkPut, requeue map[agent.MessageID]agent.Place) {
	m := s.msgs[p.ID]
	rank := map[agent.MessageStatus]int{agent.Pending: 0, agent.Delivered: 1, agent.Read: 2}
	_, back := requeue[p.ID]
	if rank[p.Mark.Status] < rank[m.Status] && !back {
		s.w.broken("MSG-4: message %s went from %s to %s", p.ID, m.Status, p.Mark.Status)
	}
	if m.Outcome != "" && m.Outcome != p.Mark.Outcome {
		s.w.broken("MSG-5: message %s had outcome %s and gets %s", p.ID, m.Outcome, p.Mark.Outcome)
	}
	m.Mark = p.Mark
}

// record keeps turns, and checks that at most one runs (QUE-1).
func (s *store) record(r agent.Record) {
	if r.Kind == agent.RecordDelivery || r.Kind == agent.RecordOwed || r.Kind == agent.RecordPayload {
		s.deliver(r)
	}
	if r.Kind != agent.RecordTurn {
		return
	}
	if r.Body == nil {
		delete(s.turns, r.ID)
		return
	}
	t := decode[agent.Turn](r.Body)
	if t.Attempt > agent.MaxAttempts {
		s.w.broken("REC-5: turn %s has attempt %d", r.ID, t.Attempt)
	}
	if t.EndedMS == 0 {
		for id, other := range s.turns {
			if id != r.ID && other.EndedMS == 0 {
				s.w.broken("QUE-1: turn %s runs beside turn %s", r.ID, id)
			}
		}
	} else if late := t.EndedMS - t.DeadlineMS; late > 60_000+s.w.outage {
		s.w.broken("TURN-7: turn %s ended %d ms after its deadline", r.ID, late)
	}
	s.turns[r.ID] = t
}
