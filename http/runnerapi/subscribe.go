package runnerapi

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

const (
	lookEvery  = 5 * time.Second // covers hints that were lost
	readWithin = 5 * time.Second // one round of reading from the store
)

// subscribe serves the commands of a runner: first sync, a statement of what should run, then every command that is not
// confirmed (RUN-4, RUN-5). A newer attach ends the stream, since the epoch is checked at every round.
func (a *api) subscribe(c *route.Call) (route.Response, error) {
	var last int64
	if raw := c.Header("Last-Event-ID"); raw != "" {
		n, err := strconv.ParseInt(raw, 10, 64)
		if err != nil || n < 0 {
			return route.Response{}, fault.New(fault.Invalid, "invalid_cursor", "Last-Event-ID is no position of this stream")
		}
		last = n
	}
	b := &agent.Heartbeat{Agent: c.Runner.Agent, Guard: agent.RunnerGuard{Incarnation: c.Runner.Incarnation, Epoch: c.Runner.Epoch}, Subscribe: true}
	if _, _, err := a.Store.Beat(c.Ctx, b); err != nil {
		return route.Response{}, err
	}
	s := &stream{a: a, id: c.Runner.Agent, inc: c.Runner.Incarnation, epoch: c.Runner.Epoch, sent: last, changed: make(chan struct{}, 1)}
	return route.Stream(s.run), nil
}

// stream is one open command stream.
type stream struct {
	a       *api
	id      agent.ID
	inc     int64
	epoch   int64
	sent    int64
	changed chan struct{}
}

func (s *stream) run(w *route.Events) {
	stop := s.a.Store.Watch(s.id, func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	ping, look := time.NewTicker(route.StreamPing), time.NewTicker(lookEvery)
	defer ping.Stop()
	defer look.Stop()
	for first := true; ; first = false {
		if !s.round(w, first) {
			return
		}
		select {
		case <-s.a.Done:
			return
		case <-w.Gone():
			return
		case <-s.changed:
		case <-look.C:
		case <-ping.C:
			if w.Ping() != nil {
				return
			}
		}
	}
}

// round sends what is new. It returns false when the stream has ended.
func (s *stream) round(w *route.Events, first bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	cmds, err := s.a.Store.Commands(ctx, s.id, 0)
	if err != nil {
		return false
	}
	fresh := cmds[:0:0]
	for _, c := range cmds {
		if c.Seq > s.sent || first {
			fresh = append(fresh, c)
		}
	}
	if len(fresh) == 0 && !first {
		return s.current(ctx)
	}
	v, err := s.view(ctx)
	if err != nil || v.f.Incarnation != s.inc || v.f.RunnerEpoch != s.epoch {
		return false
	}
	if first {
		seq := max(v.f.CommandSeq, s.sent)
		if len(fresh) > 0 {
			seq = fresh[0].Seq - 1
		}
		e := runnerproto.Event{Event: "sync", Seq: seq, Status: string(v.state.Status), Config: v.spec.ConfigVersion}
		if e.Turn, err = s.turn(ctx, v); err != nil {
			return false
		}
		if c := v.state.Compaction; c != nil && c.SentMS > 0 {
			e.CompactionID = c.ID
		}
		if v.state.Session != nil {
			e.OpenSession = session(v.state.Session, "")
		}
		s.write(w, v, e)
	}
	for _, c := range fresh {
		s.sent = c.Seq
		e, ok, err := s.event(ctx, v, c)
		if err != nil {
			return false
		}
		if ok {
			s.write(w, v, e)
		}
	}
	return w.Flush() == nil
}

// current says whether this runner is still the newest.
func (s *stream) current(ctx context.Context) bool {
	v, err := s.view(ctx)
	return err == nil && v.f.Incarnation == s.inc && v.f.RunnerEpoch == s.epoch
}

func (s *stream) view(ctx context.Context) (*view, error) {
	sn, err := s.a.Store.Load(ctx, s.id)
	if err != nil {
		return nil, err
	}
	v := &view{f: sn.Figures}
	if err := json.Unmarshal(sn.Spec, &v.spec); err != nil {
		return nil, err
	}
	return v, json.Unmarshal(sn.State, &v.state)
}

func (s *stream) write(w *route.Events, v *view, e runnerproto.Event) {
	e.Epoch, e.AgentID, e.At = max(v.f.Epoch, 1), string(s.id), agent.Stamp(v.f.NowMS)
	w.SendSeq(e.Seq, e.Event, route.JSON(e))
}

// event renders one command. A turn.start of a turn or attempt that is no longer the running one says nothing any more.
func (s *stream) event(ctx context.Context, v *view, c agent.Command) (e runnerproto.Event, ok bool, err error) {
	if err := json.Unmarshal(c.Body, &e); err != nil {
		return e, false, err
	}
	e.Event, e.Seq = c.Kind, c.Seq
	if c.Kind != "turn.start" {
		return e, true, nil
	}
	id := e.TurnID
	e.TurnID = ""
	e.Turn, err = s.turn(ctx, v)
	return e, err == nil && e.Turn != nil && e.Turn.TurnID == id, err
}

// turn renders the running turn for the runner, nil if it has none to work on.
func (s *stream) turn(ctx context.Context, v *view) (*runnerproto.Turn, error) {
	t := v.state.Turn
	if t == nil || t.SentMS == 0 || t.Cancel != nil && (!t.Accepted || t.Epoch != s.epoch) {
		return nil, nil // a cancelled turn is named only to the runner that works on it; turn.cancel follows
	}
	var ids []agent.MessageID
	for _, e := range t.Batch {
		if !e.Late {
			ids = append(ids, e.ID)
		}
	}
	batch, err := s.a.Store.ByID(ctx, s.id, ids)
	if err != nil {
		return nil, err
	}
	sess := &agent.Session{ID: t.Session, Mode: v.spec.SessionMode}
	if v.state.Session != nil && v.state.Session.ID == t.Session {
		sess = v.state.Session
	}
	trigger := map[string]any{"type": t.Trigger.Type, "uuid": text(t.Trigger.UUID)}
	if t.Trigger.Message != "" {
		trigger["message_id"] = t.Trigger.Message.String()
	}
	out := &runnerproto.Turn{TurnID: string(t.ID), Attempt: t.Attempt, Session: *session(sess, t.Start), Trigger: route.JSON(trigger), Hook: string(t.Hook),
		Prompt: v.spec.Config.TurnPrompt(t, batch), Messages: []runnerproto.Message{}, DeadlineAt: agent.Stamp(t.DeadlineMS)}
	for i := range batch {
		out.Messages = append(out.Messages, v.body(&batch[i]))
	}
	return out, nil
}
