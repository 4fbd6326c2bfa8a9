package process

import (
	"bufio"
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

// waiter is an agent that waits for room. It asks again from time to time; one that has stopped asking (its activation lives on
// another node now) must not keep its turn from those behind it.
type waiter struct {
	id   agent.ID
	seen time.Time
}

// forgotten is how long a waiting agent is kept without asking again: three of its looks.
const forgotten = 3 * agent.WaitingLook

// place returns where an agent waits, -1 for nowhere, and lets those go that have stopped asking. The lock is held.
func (r *Runtime) place(id agent.ID) int {
	r.queue = slices.DeleteFunc(r.queue, func(w waiter) bool { return w.id != id && r.now().Sub(w.seen) > forgotten })
	return slices.IndexFunc(r.queue, func(w waiter) bool { return w.id == id })
}

// admit takes a slot for a start, or puts the agent in the queue and asks for the place of the longest-idle warm runner.
func (r *Runtime) admit(id agent.ID) bool {
	r.mu.Lock()
	at := r.place(id)
	free := r.o.Limit - len(r.live) - r.launching
	if at < 0 && len(r.queue) < free || at >= 0 && at < free {
		if at >= 0 {
			r.queue = slices.Delete(r.queue, at, at+1)
		}
		r.launching++
		r.mu.Unlock()
		return true
	}
	if at < 0 {
		r.queue = append(r.queue, waiter{id, r.now()})
	} else {
		r.queue[at].seen = r.now()
	}
	r.mu.Unlock()
	r.room()
	return false
}

// leave takes an agent out of the queue.
func (r *Runtime) leave(id agent.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.place(id); at >= 0 {
		r.queue = slices.Delete(r.queue, at, at+1)
	}
}

// askAgain is after how long another agent is asked for its place: a hint may be lost, and what it asks for may be refused.
const askAgain = 3 * time.Second

// room hints the agents that could start now, and makes room when none can: the agent of the longest-idle warm runner is asked to give
// it up. What this node knows of idleness is a moment old, so the agent decides: it may have been given a turn.
func (r *Runtime) room() {
	r.mu.Lock()
	r.place("")
	if len(r.queue) == 0 {
		r.mu.Unlock()
		return
	}
	free := r.o.Limit - len(r.live) - r.launching
	var hints []agent.ID
	for _, w := range r.queue[:min(max(free, 0), len(r.queue))] {
		hints = append(hints, w.id)
	}
	var victim *proc
	var whose agent.ID
	if free <= 0 {
		for id, p := range r.live {
			if !p.idle.IsZero() && time.Since(p.asked) >= askAgain && (victim == nil || p.idle.Before(victim.idle)) {
				victim, whose = p, id
			}
		}
	}
	if victim != nil {
		victim.asked = time.Now()
		time.AfterFunc(askAgain, func() { // ends by itself: nobody waits any more, or the runtime is closed
			select {
			case <-r.stop:
			default:
				r.room()
			}
		})
	}
	r.mu.Unlock()
	for _, id := range hints {
		r.o.OnChange(id)
	}
	if victim != nil {
		r.o.OnRoom(whose)
	}
}
