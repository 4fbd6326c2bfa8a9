package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// giveUp is how long a takeover is waited for.
const giveUp = 40 * time.Second

// takeovers measures how long agents with work stay without a living owner after their node was lost. It looks at the claims
// in the store and asks no node, since asking is what activates an agent.
type takeovers struct {
	ids      []string
	mu       sync.Mutex
	times    []time.Duration
	problems []string
}

// owned is an agent's claim, and whether the agent has something to do.
type owned struct {
	member, epoch string
	work          bool
}

func head(id string) string { return "a:{" + id + "}:h" }

func (w *world) owned(ctx context.Context, id string) (o owned, ok bool) {
	v, err := w.store.rdb.HMGet(ctx, head(id), "member", "epoch", "turn").Result()
	if err != nil {
		return o, false
	}
	waiting, err := w.store.rdb.ZCard(ctx, "a:{"+id+"}:p").Result()
	if err != nil {
		return o, false
	}
	o.member, _ = v[0].(string)
	o.epoch, _ = v[1].(string)
	turn, _ := v[2].(string)
	o.work = turn != "" || waiting > 0
	return o, true
}

// member is the id under which a node holds its lease now.
func (w *world) member(ctx context.Context, n *node) string {
	records, _ := w.store.rdb.HGetAll(ctx, "mem:{m}:records").Result()
	for id, raw := range records {
		var m struct{ Name string }
		if json.Unmarshal([]byte(raw), &m) == nil && m.Name == n.name {
			return id
		}
	}
	return ""
}

// loss is a node that was lost, and the agents with work that it held.
type loss struct {
	t      *takeovers
	w      *world
	member string
	agents map[string]owned
	began  time.Time
	lives  bool          // the process is not dead: it may come back under its lease
	whole  chan struct{} // closed when the fault is repaired
	wg     sync.WaitGroup
}

// lose notes what n holds, breaks it and watches until every agent with work has a new owner. Lives says that the process is
// not dead and may come back under its lease.
func (t *takeovers) lose(ctx context.Context, w *world, n *node, lives bool, breakIt func()) *loss {
	l := &loss{t: t, w: w, lives: lives, member: w.member(ctx, n), agents: map[string]owned{}, whole: make(chan struct{})}
	for _, id := range t.ids {
		if o, ok := w.owned(ctx, id); ok && o.work && o.member == l.member && l.member != "" {
			l.agents[id] = o
		}
	}
	breakIt()
	l.began = time.Now()
	for id, was := range l.agents {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.follow(ctx, id, was)
		}()
	}
	return l
}

// repaired says that the fault is over, and waits for the takeovers that are still to come.
func (l *loss) repaired() {
	close(l.whole)
	l.wg.Wait()
}

func (l *loss) follow(ctx context.Context, id string, was owned) {
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		took := time.Since(l.began)
		o, ok := l.w.owned(ctx, id)
		if ok && o.epoch != was.epoch {
			l.note(took, "")
			return
		}
		if ok && !o.work { // what it had was ended by the fault itself, or the node still acts: it was not lost to this agent
			return
		}
		select {
		case <-l.whole: // a node that came back in time keeps its agents
			if _, err := l.w.store.rdb.ZScore(ctx, "mem:{m}:leases", l.member).Result(); err == nil && ok && l.lives {
				return
			}
		default:
		}
		if took > giveUp {
			l.note(took, fmt.Sprintf("agent %s had work and no owner for %s", id, giveUp))
			return
		}
	}
}

func (l *loss) note(took time.Duration, problem string) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.t.times = append(l.t.times, took)
	if problem != "" {
		l.t.problems = append(l.t.problems, problem)
	}
}
