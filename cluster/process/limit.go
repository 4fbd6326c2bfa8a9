package process

import (
	"bufio"
	"container/list"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/actors/agent"
)

// defaultLimit derives the number of runners from half of the host's memory.
func defaultLimit() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 16
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 1 && fields[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(fields[1], 10, 64)
			return int(min(max(kb<<10/2/perRunner, 4), maxDefault))
		}
	}
	return 16
}

// waiter is an agent that waits for room.
type waiter struct {
	id      agent.ID
	offered time.Time // when it was last hinted that it could start; zero: not since there was none
}

// queue holds the agents that wait for room, in order. Its zero value is empty.
type queue struct {
	order list.List // of *waiter
	at    map[agent.ID]*list.Element
}

func (q *queue) has(id agent.ID) bool { return q.at[id] != nil }

func (q *queue) add(id agent.ID) {
	if q.at == nil {
		q.at = map[agent.ID]*list.Element{}
	}
	if !q.has(id) {
		q.at[id] = q.order.PushBack(&waiter{id: id})
	}
}

func (q *queue) remove(id agent.ID) {
	if e := q.at[id]; e != nil {
		q.order.Remove(e)
		delete(q.at, id)
	}
}

// takes is how long an agent has to take the room it is offered. One that does not (its activation lives on another node now) must not
// keep its turn from those behind it.
const takes = 10 * time.Second

// offer returns the first agents of the queue, as many as there is room for, and lets those go that did not take what they were
// offered. asking is one that takes it now. fresh says which of them do not know it yet. The lock is held.
func (r *Runtime) offer(asking agent.ID) (first, fresh []agent.ID) {
	free, now := r.o.Limit-len(r.live)-r.launching, r.now()
	for e := r.queue.order.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		switch {
		case len(first) >= free:
			if w.offered.IsZero() {
				return // nobody behind it was offered anything
			}
			w.offered = time.Time{} // there is no room any more
			continue
		case w.offered.IsZero():
			w.offered = now
			fresh = append(fresh, w.id)
		case now.Sub(w.offered) > takes && w.id != asking:
			r.queue.remove(w.id)
			continue
		}
		first = append(first, w.id)
	}
	return
}

// admit takes a slot for a start, or puts the agent in the queue and asks for the place of the longest-idle warm runner.
func (r *Runtime) admit(id agent.ID) bool {
	r.mu.Lock()
	r.queue.add(id)
	first, fresh := r.offer(id)
	mine := slices.Contains(first, id)
	if mine {
		r.queue.remove(id)
		r.launching++
	}
	r.mu.Unlock()
	r.hint(fresh, id)
	if !mine {
		r.room()
	}
	return mine
}

// hint tells agents that they can start now.
func (r *Runtime) hint(ids []agent.ID, but agent.ID) {
	for _, id := range ids {
		if id != but {
			r.o.OnChange(id)
		}
	}
}

// leave takes an agent out of the queue.
func (r *Runtime) leave(id agent.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue.remove(id)
}

// askAgain is after how long it is looked again whether those that wait can be helped: a hint may be lost, an offer not taken, and what
// another agent is asked for refused.
const askAgain = 3 * time.Second

// room hints the agents that could start now, and makes room when none can: the agent of the longest-idle warm runner is asked to give
// it up. What this node knows of idleness is a moment old, so the agent decides: it may have been given a turn.
func (r *Runtime) room() {
	r.mu.Lock()
	if len(r.queue.at) == 0 {
		r.mu.Unlock()
		return
	}
	first, fresh := r.offer("")
	var victim *proc
	var whose agent.ID
	if len(first) == 0 {
		for id, p := range r.live {
			if !p.idle.IsZero() && time.Since(p.asked) >= askAgain && (victim == nil || p.idle.Before(victim.idle)) {
				victim, whose = p, id
			}
		}
	}
	if victim != nil {
		victim.asked = time.Now()
	}
	if (victim != nil || len(first) > 0) && !r.looking {
		r.looking = true
		time.AfterFunc(askAgain, func() { // ends by itself: nobody waits any more, or the runtime is closed
			r.mu.Lock()
			r.looking = false
			r.mu.Unlock()
			select {
			case <-r.stop:
			default:
				r.room()
			}
		})
	}
	r.mu.Unlock()
	r.hint(fresh, "")
	if victim != nil {
		r.o.OnRoom(whose)
	}
}
