package rest

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/http/api"
	"troupe/http/route"
)

// Bounds of event streams.
const (
	streamsPerAgent   = 20 // RATE-4
	streamsPerAccount = 100
	streamLease       = 60 * time.Second // renewed with every comment line
	streamPage        = 200              // events read at once
	streamLook        = 2 * time.Second  // covers hints that were lost
	streamRead        = 5 * time.Second  // one round of reading
	balanceEvery      = time.Second      // EVT-5
	maxEventTypes     = 32
)

var (
	eventPosition = regexp.MustCompile(`^(\d{1,15})-(\d{1,15})$`)
	eventType     = regexp.MustCompile(`^[a-z]+\.([a-z_]+|\*)$`)
)

// readPosition reads the place to go on from; nil: from now on (EVT-3).
func readPosition(c *route.Call) (*agent.EventAt, error) {
	raw := c.Header("Last-Event-ID")
	if raw == "" {
		raw = string(c.QueryArgs().Peek("last_event_id"))
	}
	if raw == "" {
		return nil, nil
	}
	m := eventPosition.FindStringSubmatch(raw)
	if m == nil {
		return nil, fault.New(fault.Invalid, "invalid_cursor", "The position is none of this stream")
	}
	ms, _ := strconv.ParseInt(m[1], 10, 64) // digits, few enough
	seq, _ := strconv.ParseInt(m[2], 10, 64)
	return &agent.EventAt{MS: ms, Seq: seq}, nil
}

// readTypes reads the filter; nil lets everything through.
func readTypes(c *route.Call) ([]string, error) {
	q := c.Query()
	raw := q.String("types", "", field.Text{Max: maxEventTypes * 41})
	if raw == "" {
		return nil, q.Err()
	}
	types := strings.Split(raw, ",")
	if len(types) > maxEventTypes {
		q.Fail("types", "must have at most 32 entries")
	}
	for i, t := range types {
		if len(t) > 40 || !eventType.MatchString(t) {
			q.Fail("types["+strconv.Itoa(i)+"]", "must be an event type such as turn.started, or a prefix such as turn.*")
		}
	}
	return types, q.Err()
}

// events serves the life of an agent as server-sent events (§27). Any node serves any agent: it reads the log in the store.
func (r *rest) events(c *route.Call) (route.Response, error) {
	v, err := r.load(c)
	if err != nil {
		return route.Response{}, err
	}
	at, err := readPosition(c)
	if err != nil {
		return route.Response{}, err
	}
	types, err := readTypes(c)
	if err != nil {
		return route.Response{}, err
	}
	oldest, newest, err := r.Store.EventBounds(c.Ctx, v.Spec.ID)
	if err != nil {
		return route.Response{}, err
	}
	s := &eventStream{r: r, id: v.Spec.ID, account: c.Caller.Account.ID, name: agent.NewUUID(), types: types, at: newest, changed: make(chan struct{}, 1)}
	if at != nil {
		s.at = *at
		if oldest.Seq == 0 && at.Seq < newest.Seq || at.Seq < oldest.Seq-1 {
			s.gap = &gap{requested: *at, oldest: oldest}
			s.at = agent.EventAt{}
		}
	}
	if err := s.hold(c.Ctx); err != nil {
		return route.Response{}, err
	}
	return route.Stream(s.run), nil
}

type gap struct{ requested, oldest agent.EventAt }

// eventStream is one open stream of an agent's events.
type eventStream struct {
	r       *rest
	id      agent.ID
	account account.ID
	name    string // its place among the open streams
	types   []string
	at      agent.EventAt // everything up to here was sent or filtered out
	gap     *gap
	changed chan struct{}
	balance *api.AgentEvent // the newest that was held back
	told    time.Time       // when a balance was sent last
}

// hold takes or renews the stream's places (RATE-4). Places that cannot be counted are given.
func (s *eventStream) hold(ctx context.Context) error {
	for _, p := range []struct {
		key, of string
		limit   int
	}{{"agent/" + string(s.id), "this agent", streamsPerAgent}, {"account/" + string(s.account), "this account", streamsPerAccount}} {
		ok, err := s.r.Store.OpenStream(ctx, p.key, s.name, p.limit, streamLease.Milliseconds())
		if err == nil && !ok {
			s.release()
			return fault.Newf(fault.Limited, "rate_limited", "%d event streams of %s are open, which is the limit", p.limit, p.of).After(5 * time.Second)
		}
	}
	return nil
}

func (s *eventStream) release() {
	ctx, cancel := context.WithTimeout(context.Background(), streamRead)
	defer cancel()
	for _, key := range []string{"agent/" + string(s.id), "account/" + string(s.account)} {
		_ = s.r.Store.CloseStream(ctx, key, s.name) // else its lease ends it
	}
}

func (s *eventStream) run(w *route.Events) {
	defer s.release()
	stop := s.r.Store.Watch(s.id, func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	ping, look := time.NewTicker(route.StreamPing), time.NewTicker(streamLook)
	defer ping.Stop()
	defer look.Stop()
	held := time.NewTimer(0)
	defer held.Stop()
	if s.gap != nil {
		s.tell(w, s.at, "stream.gap", map[string]any{"requested": position(s.gap.requested), "oldest": positionOrNil(s.gap.oldest)})
	}
	if w.Ping() != nil { // headers go out at once
		return
	}
	for {
		if !s.round(w) {
			return
		}
		if s.balance != nil {
			held.Reset(max(0, balanceEvery-time.Since(s.told)))
		}
		select {
		case <-s.r.Done:
			return
		case <-w.Gone():
			return
		case <-s.changed:
		case <-look.C:
		case <-held.C:
		case <-ping.C:
			ctx, cancel := context.WithTimeout(context.Background(), streamRead)
			err := s.hold(ctx)
			cancel()
			if err != nil || w.Ping() != nil {
				return
			}
		}
	}
}

// round sends what is new. It returns false when the stream has ended: the agent or the reader is gone, or the store.
func (s *eventStream) round(w *route.Events) bool {
	ctx, cancel := context.WithTimeout(context.Background(), streamRead)
	defer cancel()
	for {
		rows, err := s.r.Store.Events(ctx, s.id, s.at, streamPage)
		if err != nil {
			return false
		}
		if err := s.send(ctx, w, rows); err != nil {
			return false
		}
		if len(rows) < streamPage {
			break
		}
	}
	if s.balance != nil && time.Since(s.told) >= balanceEvery {
		w.Send(s.balance.ID, s.balance.Type, route.JSON(s.balance))
		s.balance, s.told = nil, time.Now()
	}
	if w.Flush() != nil {
		return false
	}
	_, _, err := s.r.Store.EventBounds(ctx, s.id)
	return !fault.Is(err, fault.NotFound)
}

// send renders events. What a reply says and what a turn has cost are read now, not stored twice.
func (s *eventStream) send(ctx context.Context, w *route.Events, rows []agent.EventRow) error {
	for _, row := range rows {
		s.at = row.At
		if !s.wanted(row.Type) {
			continue
		}
		data := map[string]any{}
		if err := json.Unmarshal(row.Data, &data); err != nil {
			return err
		}
		switch row.Type {
		case "message.reply":
			id, _ := data["message_id"].(string)
			msg, ok := agent.ParseMessageID(id)
			if !ok {
				continue
			}
			m, err := s.r.Store.Message(ctx, s.id, msg)
			if fault.Is(err, fault.NotFound) {
				continue
			}
			if err != nil {
				return err
			}
			data = map[string]any{"message": MessageBody(&m)}
		case "turn.ended":
			id, _ := data["turn_id"].(string)
			u, err := s.r.Store.Usage(ctx, s.id, "t/"+id)
			if err != nil {
				return err
			}
			data["usage"] = usage(u[0])
		case "balance.changed":
			if s.balance != nil { // merged with the one that waits
				var older map[string]any
				if json.Unmarshal(s.balance.Data, &older) == nil {
					data["previous"] = older["previous"]
				}
			}
			s.balance = s.event(row.At, row.Type, data)
			continue
		}
		s.tell(w, row.At, row.Type, data)
	}
	return nil
}

func (s *eventStream) wanted(typ string) bool {
	return s.types == nil || slices.ContainsFunc(s.types, func(t string) bool {
		prefix, open := strings.CutSuffix(t, "*")
		return t == typ || open && strings.HasPrefix(typ, prefix)
	})
}

func (s *eventStream) event(at agent.EventAt, typ string, data any) *api.AgentEvent {
	ms := at.MS
	if ms == 0 {
		ms = time.Now().UnixMilli()
	}
	return &api.AgentEvent{ID: position(at), Type: typ, AgentID: string(s.id), At: agent.Stamp(ms), Data: route.JSON(data)}
}

func (s *eventStream) tell(w *route.Events, at agent.EventAt, typ string, data any) {
	e := s.event(at, typ, data)
	w.Send(e.ID, typ, route.JSON(e))
}

func position(at agent.EventAt) string {
	return strconv.FormatInt(at.MS, 10) + "-" + strconv.FormatInt(at.Seq, 10)
}

func positionOrNil(at agent.EventAt) *string {
	if at.Seq == 0 {
		return nil
	}
	return text(position(at))
}
