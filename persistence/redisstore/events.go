package redisstore

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
)

func eventID(at agent.EventAt) string {
	return strconv.FormatInt(at.MS, 10) + "-" + strconv.FormatInt(at.Seq, 10)
}

func eventAt(id string) agent.EventAt {
	ms, seq, _ := strings.Cut(id, "-")
	return agent.EventAt{MS: number(ms), Seq: number(seq)}
}

// Events implements agent.EventLog. The stream holds somewhat more than is retained.
func (s *Store) Events(ctx context.Context, id agent.ID, after agent.EventAt, limit int) ([]agent.EventRow, error) {
	from := "(" + eventID(after)
	if oldest := s.now().Add(-agent.MaxEventAge).UnixMilli(); after.MS < oldest {
		from = strconv.FormatInt(oldest, 10)
	}
	rows, err := s.rdb.XRangeN(ctx, keysOf(id).events(), from, "+", int64(limit)).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := make([]agent.EventRow, len(rows))
	for i, r := range rows {
		typ, _ := r.Values["t"].(string)
		data, _ := r.Values["d"].(string)
		out[i] = agent.EventRow{At: eventAt(r.ID), Event: agent.Event{Type: typ, Data: []byte(data)}}
	}
	return out, nil
}

// EventBounds implements agent.EventLog.
func (s *Store) EventBounds(ctx context.Context, id agent.ID) (oldest, newest agent.EventAt, err error) {
	k := keysOf(id)
	from := strconv.FormatInt(s.now().Add(-agent.MaxEventAge).UnixMilli(), 10)
	first := redis.NewXMessageSliceCmd(ctx, "xrange", k.events(), from, "+", "count", 1)
	head := redis.NewSliceCmd(ctx, "hmget", k.head(), "created", "last", "eseq", "deleted")
	if err := s.batch.do(ctx, shardOf(id), first, head); err != nil {
		return oldest, newest, err
	}
	if err := firstErr(first.Err(), head.Err()); err != nil {
		return oldest, newest, storeErr(err)
	}
	h := values(head.Val())
	if h.str(0) == "" || h.str(3) != "" {
		return oldest, newest, agent.Gone()
	}
	newest = agent.EventAt{MS: h.num(1), Seq: h.num(2)}
	if len(first.Val()) == 0 {
		return oldest, newest, nil
	}
	oldest = eventAt(first.Val()[0].ID)
	if keep := newest.Seq - agent.MaxEvents + 1; oldest.Seq < keep { // trimmed lazily
		rows, err := s.rdb.XRangeN(ctx, k.events(), eventID(oldest), "+", keep-oldest.Seq+1).Result()
		if err != nil || len(rows) == 0 {
			return oldest, newest, storeErr(err)
		}
		oldest = eventAt(rows[len(rows)-1].ID)
	}
	return oldest, newest, nil
}

var (
	streamScript = load("stream")
	reportScript = load("ledger", "report")
)

// OpenStream implements account.Streams.
func (s *Store) OpenStream(ctx context.Context, key, id string, limit int, ttlMS int64) (bool, error) {
	res, err := s.script(ctx, 0, streamScript, []string{"st:{" + key + "}"}, []any{id, limit, ttlMS})
	n, _ := res.(int64)
	return n == 1, err
}

// CloseStream implements account.Streams.
func (s *Store) CloseStream(ctx context.Context, key, id string) error {
	return storeErr(s.rdb.ZRem(ctx, "st:{"+key+"}", id).Err())
}

func routeKey(kind, id string) string { return "rt:{" + kind + "/" + id + "}" }

// PutRoute implements agent.Routes.
func (s *Store) PutRoute(ctx context.Context, kind, id string, to agent.ID) error {
	return s.put(ctx, redis.NewStatusCmd(ctx, "set", routeKey(kind, id), string(to)))
}

// Route implements agent.Routes.
func (s *Store) Route(ctx context.Context, kind, id string) (agent.ID, error) {
	to, err := s.rdb.Get(ctx, routeKey(kind, id)).Result()
	return agent.ID(to), storeErr(err)
}

// DropRoute implements agent.Routes.
func (s *Store) DropRoute(ctx context.Context, kind, id string, of agent.ID) error {
	_, err := s.script(ctx, shardOf(of), leaveScript, []string{routeKey(kind, id)}, []any{string(of)})
	return err
}

var leaveScript = load("leave")

// Fired implements agent.Records.
func (s *Store) Fired(ctx context.Context, id agent.ID, triggers ...string) ([]agent.Fired, error) {
	if len(triggers) == 0 {
		return nil, nil
	}
	fields := make([]string, 0, 2*len(triggers))
	for _, t := range triggers {
		fields = append(fields, t+":n", t+":at")
	}
	v, err := s.rdb.HMGet(ctx, keysOf(id).counters(), fields...).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := make([]agent.Fired, len(triggers))
	for i := range out {
		out[i] = agent.Fired{Count: values(v).num(2 * i), LastMS: values(v).num(2*i + 1)}
	}
	return out, nil
}

// Report implements agent.Ledger.
func (s *Store) Report(ctx context.Context, r *agent.Report) (bool, int64, error) {
	k := keysOf(r.Agent)
	count := "0"
	if r.Count {
		count = "1"
	}
	u := r.Usage
	res, err := s.script(ctx, shardOf(r.Agent), reportScript, []string{k.head(), k.usage(), k.reports(), k.events()}, []any{r.ID, r.Guard.Incarnation, r.Guard.Epoch,
		string(r.Turn), u.Input, u.Output, u.CacheWrite, u.CacheRead, count})
	if err != nil {
		return false, 0, err
	}
	v := reply(res)
	if v.str(0) != "ok" {
		return false, 0, agent.RefusedReport(v.str(0))
	}
	return v.num(1) == 1, v.num(2), nil
}
