package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// fault breaks something and repairs it. It returns when the cluster is whole again, or ctx ends.
type fault struct {
	name   string
	shapes []string // of the store it needs; none: any
	do     func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error
}

var faults = []fault{
	{"node kill -9", nil, func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		l := t.lose(ctx, w, n, false, func() { n.end(syscall.SIGKILL, time.Second) })
		defer l.repaired()
		sleep(ctx, r, 500, 10000)
		return restart(ctx, w, n)
	}},
	{"node frozen", nil, func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		l := t.lose(ctx, w, n, true, func() { n.signal(syscall.SIGSTOP) })
		defer l.repaired()
		sleep(ctx, r, 4000, 30000)
		n.signal(syscall.SIGCONT)
		return w.await(ctx, n)
	}},
	{"node stopped and started", nil, func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		n.end(syscall.SIGTERM, 30*time.Second)
		return restart(ctx, w, n)
	}},
	{"rolling restart", nil, func(ctx context.Context, w *world, _ *rand.Rand, _ *takeovers) error {
		for _, n := range w.nodes {
			n.end(syscall.SIGTERM, 30*time.Second)
			if err := restart(ctx, w, n); err != nil {
				return err
			}
		}
		return nil
	}},
	{"node joins and leaves", nil, func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.guest
		if err := restart(ctx, w, n); err != nil {
			return err
		}
		sleep(ctx, r, 5000, 20000)
		if r.IntN(2) == 0 {
			n.end(syscall.SIGTERM, 30*time.Second)
			return nil
		}
		t.lose(ctx, w, n, false, func() { n.end(syscall.SIGKILL, time.Second) }).repaired()
		return nil
	}},
	{"node cut off from Redis", nil, func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		l := t.lose(ctx, w, n, true, func() { n.reach(false) })
		defer l.repaired()
		sleep(ctx, r, 2000, 15000)
		n.reach(true)
		return w.await(ctx, n)
	}},
	{"node cut off from the others", nil, func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		n.peers.open(false)
		sleep(ctx, r, 2000, 15000)
		n.peers.open(true)
		return w.await(ctx, n)
	}},
	{"runner kill -9", nil, func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		for range 1 + r.IntN(4) {
			if pids := w.runners(); len(pids) > 0 {
				_ = syscall.Kill(pids[r.IntN(len(pids))], syscall.SIGKILL)
			}
			sleep(ctx, r, 100, 1000)
		}
		return nil
	}},
	{"Redis restart", []string{single, sentinel}, func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		s := w.store.primary(ctx, r)
		s.end([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[r.IntN(2)], 10*time.Second)
		most := 3000
		if w.store.shape == sentinel {
			most = 600 // before the Sentinels act
		}
		sleep(ctx, r, 100, most)
		return w.reopen(ctx, s)
	}},
	{"Redis primary lost, Sentinel fails over", []string{sentinel}, lostPrimary},
	{"Redis Cluster master lost", []string{clusters}, lostPrimary},
	{"clock of a Redis jumps", nil, func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		s := w.store.primary(ctx, r)
		if s.clock == nil {
			return nil
		}
		by := time.Duration(1+r.IntN(20)) * time.Second
		if r.IntN(2) == 0 {
			by = -by
		}
		if err := s.jump(by); err != nil {
			return err
		}
		sleep(ctx, r, 1000, 8000)
		if err := s.jump(0); err != nil {
			return err
		}
		return w.healthy(ctx)
	}},
}

// lostPrimary kills a server that takes writes for so long that a replica takes its place.
func lostPrimary(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
	s := w.store.primary(ctx, r)
	s.end(syscall.SIGKILL, time.Second)
	sleep(ctx, r, 5000, 9000)
	return w.reopen(ctx, s)
}

// reopen starts a server of the store again and waits until everything is whole.
func (w *world) reopen(ctx context.Context, s *server) error {
	if err := s.start(); err != nil {
		return err
	}
	if err := w.store.whole(ctx); err != nil {
		return err
	}
	return w.healthy(ctx)
}

// healthy waits until every node is.
func (w *world) healthy(ctx context.Context) error {
	for _, n := range w.nodes {
		if err := w.await(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func restart(ctx context.Context, w *world, n *node) error {
	if err := n.start(); err != nil {
		return err
	}
	return w.await(ctx, n)
}

func sleep(ctx context.Context, r *rand.Rand, lo, hi int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(lo+r.IntN(hi-lo)) * time.Millisecond):
	}
}

// drawn is what was injected.
type drawn struct {
	counts   map[string]int
	times    []time.Duration
	problems []string
}

// inject draws faults one after the other until the time is over. Every kind comes once before one comes again.
func inject(ctx context.Context, w *world, ids []string, r *rand.Rand, limit time.Duration) drawn {
	out := drawn{counts: map[string]int{}}
	t := &takeovers{ids: ids}
	pool := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		return *only != "" && f.name != *only || f.shapes != nil && !slices.Contains(f.shapes, w.store.shape)
	})
	var deck []fault
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil && len(pool) > 0; {
		sleep(ctx, r, 500, 3000)
		if len(deck) == 0 {
			deck = slices.Clone(pool)
			r.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })
		}
		f := deck[0]
		deck = deck[1:]
		fmt.Printf("%8s  %s\n", time.Until(end).Round(time.Second), f.name)
		if err := f.do(ctx, w, r, t); err != nil {
			out.problems = append(out.problems, f.name+": "+err.Error())
			fmt.Printf("          %v\n", err)
		}
		out.counts[f.name]++
		sleep(ctx, r, 500, 4000)
	}
	out.times, out.problems = t.times, append(out.problems, t.problems...)
	return out
}
