package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"troupe/actors/agent"
	"troupe/persistence/redisstore"
)

// schedules lets schedules of resting agents fall due in one minute on three nodes: some to see how late they are, then many with a node
// killed at the top of that minute, for some rounds.
func (b *bench) schedules() error {
	st, ring, ids, err := b.resting(min(1000, *many))
	if err != nil {
		return err
	}
	few, err := b.slot(st, ring, ids, nil, nil)
	_ = st.Close()
	b.close()
	if err != nil {
		return err
	}
	fmt.Printf("%d schedules due in one minute, three nodes: late by p50 %s, p99 %s, the latest %s (targets 500 ms, 2 s); %s\n", few.n, at(few.late, .5), at(few.late, .99), at(few.late, 1), few.verdict())
	wrong := few.lost + few.twice
	var ratios []float64
	for range *rounds {
		ratio, all, err := b.drain()
		if err != nil {
			return err
		}
		ratios = append(ratios, ratio)
		wrong += all.lost + all.twice
	}
	slices.Sort(ratios)
	fmt.Printf("drained at %.2f of plain acceptance, the middle of %.2f (target 0.5)\n", ratios[(len(ratios)-1)/2], ratios)
	if wrong > 0 {
		return errors.New("schedules did not fire exactly once")
	}
	return nil
}

// drain kills a node at the instant at which many schedules fall due, and compares how fast they fire with plain acceptance just before and
// just after: this machine may be another one minutes later.
func (b *bench) drain() (ratio float64, all *fired, err error) {
	st, ring, ids, err := b.resting(2 * *many)
	if err != nil {
		return 0, nil, err
	}
	defer b.close()
	defer st.Close()
	others := ids[*many:] // of the same kind: their queues fill
	plainly := func(nodes []*node) figures {
		var rates []figures
		for range *rounds {
			rates = append(rates, loadAll(nodes, others))
		}
		return median(rates)
	}
	var before figures
	all, err = b.slot(st, ring, ids[:*many], func() { before = plainly(ring) }, func() { _ = ring[2].cmd.Process.Signal(syscall.SIGKILL) })
	if err != nil {
		return 0, nil, err
	}
	after := plainly(ring[:2])
	// Nobody may touch what the dead node held before its lease is over: draining is the time before that pause and after it.
	end, plain := at(all.late, 1), (before.rate+after.rate)/2
	drained := end - all.pause
	rate := float64(all.n) / drained.Seconds()
	fmt.Printf("%d schedules, a node killed at the top of the minute: late by p50 %s, the last %s; the dead node's share begun after %s (target 10 s), the pause before it %s; drained in %s besides, %.0f/s, %.2f of plain acceptance (%.0f/s before on three nodes, %.0f/s after on two, %d failed); %s\n",
		all.n, at(all.late, .5), end, all.resumed.Round(time.Millisecond), all.pause.Round(time.Millisecond), drained.Round(time.Millisecond), rate, rate/plain, before.rate, after.rate, before.failed+after.failed, all.verdict())
	return rate / plain, all, nil
}

// resting starts three nodes and stores agents as they are after a while: paused, no pod, in nobody's memory by the time a slot is due, and
// staying in it while others fire.
func (b *bench) resting(count int) (*redisstore.Store, []*node, []string, error) {
	url, err := b.redis("everysec")
	if err != nil {
		return nil, nil, nil, err
	}
	ring, err := b.ringOn(url, 3, "TROUPE_PASSIVATE_AFTER="+passivate.String())
	if err != nil {
		return nil, nil, nil, err
	}
	st, err := redisstore.Open(context.Background(), url, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	one, err := ring[0].prepare(1)
	if err != nil {
		return nil, nil, nil, err
	}
	sn, err := st.Load(context.Background(), agent.ID(one[0]))
	if err != nil {
		return nil, nil, nil, err
	}
	made, err := rest(st, count, sn.Figures.Account)
	if err != nil {
		return nil, nil, nil, err
	}
	ids := make([]string, len(made))
	return st, ring, ids, each(len(ids), func(i int) error {
		ids[i] = string(made[i])
		return ring[i%3].api.Do(context.Background(), "POST", "/v1/agent/"+ids[i]+"/pause", nil, nil)
	})
}

// passivate is when resting agents leave memory.
const passivate = 30 * time.Second

// fired is what became of one slot of many schedules.
type fired struct {
	n, lost, twice int
	late           []time.Duration
	pause          time.Duration // the longest time in which nothing fired
	resumed        time.Duration // and when it was over
}

func (f *fired) verdict() string { return fmt.Sprintf("not fired %d, fired twice %d", f.lost, f.twice) }

func at(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(time.Millisecond)
}

// slot gives every agent a schedule for one coming minute, runs before so early that whom it wakes rests again by then, atTop at the top of
// that minute, and counts what fired.
func (b *bench) slot(st *redisstore.Store, ring []*node, ids []string, before, atTop func()) (*fired, error) {
	const spare = 10 * time.Second
	// Who was paused or given a schedule has left memory before anything is measured; who is woken by before, by the slot.
	due := time.Now().UTC().Add(time.Duration(len(ids))*time.Millisecond + 2*passivate + 3*spare).Truncate(time.Minute).Add(time.Minute)
	expression := due.Format("4 15 2 1 *")
	made := make([]string, len(ids))
	if err := each(len(ids), func(i int) error {
		var s struct{ UUID string }
		err := ring[i%len(ring)].api.Do(context.Background(), "POST", "/v1/agent/"+ids[i]+"/schedules", map[string]any{"name": "bench", "cron_expression": expression, "message_template": "{{time}}"}, &s)
		made[i] = s.UUID
		return err
	}); err != nil {
		return nil, err
	}
	if time.Until(due) < 2*passivate+3*spare {
		return nil, errors.New("the schedules were not made in time")
	}
	time.Sleep(time.Until(due) - passivate - 2*spare)
	if before != nil {
		before()
	}
	if time.Until(due) < passivate {
		return nil, errors.New("what runs before the slot took too long")
	}
	time.Sleep(time.Until(due))
	if atTop != nil {
		atTop()
	}
	out := &fired{n: len(ids), late: make([]time.Duration, len(ids))}
	look := func(i int) (int, error) {
		bodies, _, err := st.Recorded(context.Background(), agent.ID(ids[i]), agent.RecordPage{Kind: agent.RecordExecution, Group: made[i], Limit: 5})
		if err != nil || len(bodies) == 0 {
			return 0, err
		}
		var x agent.Execution
		if err := json.Unmarshal(bodies[0], &x); err != nil {
			return 0, err
		}
		if x.Status != agent.ExecSuccess {
			return 0, nil
		}
		m, err := st.Message(context.Background(), agent.ID(ids[i]), x.Message) // when it was stored, which is later than when that was decided
		if err != nil {
			return 0, err
		}
		out.late[i] = time.Duration(m.CreatedMS-due.UnixMilli()) * time.Millisecond
		return len(bodies), nil
	}
	// Reading the outcome loads the same two cores as what is measured, and every message carries the instant of its storing: a few
	// are watched until they have fired, then all of them are read.
	watched := rand.Perm(len(ids))[:min(100, len(ids))]
	for end := time.Now().Add(50 * time.Second); len(watched) > 0 && time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		var left []int
		for _, i := range watched {
			n, err := look(i)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				left = append(left, i)
			}
		}
		if watched = left; len(left) > 0 {
			continue
		}
		for i := range ids {
			n, err := look(i)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				watched = append(watched, i)
			}
		}
	}
	time.Sleep(3 * time.Second) // whoever would fire a second time
	var lost, twice atomic.Int64
	if err := each(len(ids), func(i int) error {
		n, err := look(i)
		switch {
		case n == 0:
			lost.Add(1)
		case n > 1:
			twice.Add(1)
		}
		return err
	}); err != nil {
		return nil, err
	}
	out.lost, out.twice = int(lost.Load()), int(twice.Load())
	slices.Sort(out.late)
	for i := 1; i < len(out.late); i++ {
		if d := out.late[i] - out.late[i-1]; d > out.pause {
			out.pause, out.resumed = d, out.late[i]
		}
	}
	return out, nil
}

// each runs f for 0 to n-1 on some goroutines and returns the first error.
func each(n int, f func(i int) error) error {
	var next atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)) - 1; i < n && first.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					first.Store(&err)
				}
			}
		}()
	}
	wg.Wait()
	if e := first.Load(); e != nil {
		return *e
	}
	return nil
}
