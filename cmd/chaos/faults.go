package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// fault breaks something and repairs it. It returns when the cluster is whole again, or ctx ends.
type fault struct {
	name string
	do   func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error
}

var faults = []fault{
	{"node kill -9", func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		t.watch(ctx, w, n, func() { n.end(syscall.SIGKILL, time.Second) })
		sleep(ctx, r, 500, 4000)
		return restart(ctx, w, n)
	}},
	{"node frozen", func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		t.watch(ctx, w, n, func() { n.signal(syscall.SIGSTOP) })
		sleep(ctx, r, 4000, 30000)
		n.signal(syscall.SIGCONT)
		return w.await(ctx, n)
	}},
	{"node stopped and started", func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		n.end(syscall.SIGTERM, 30*time.Second)
		return restart(ctx, w, n)
	}},
	{"rolling restart", func(ctx context.Context, w *world, _ *rand.Rand, _ *takeovers) error {
		for _, n := range w.nodes {
			n.end(syscall.SIGTERM, 30*time.Second)
			if err := restart(ctx, w, n); err != nil {
				return err
			}
		}
		return nil
	}},
	{"node cut off from Redis", func(ctx context.Context, w *world, r *rand.Rand, t *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		t.watch(ctx, w, n, func() { n.store.open(false) })
		sleep(ctx, r, 2000, 15000)
		n.store.open(true)
		return w.await(ctx, n)
	}},
	{"node cut off from the others", func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		n := w.nodes[r.IntN(len(w.nodes))]
		n.peers.open(false)
		sleep(ctx, r, 2000, 15000)
		n.peers.open(true)
		return w.await(ctx, n)
	}},
	{"runner kill -9", func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		for range 1 + r.IntN(4) {
			if pids := w.runners(); len(pids) > 0 {
				_ = syscall.Kill(pids[r.IntN(len(pids))], syscall.SIGKILL)
			}
			sleep(ctx, r, 100, 1000)
		}
		return nil
	}},
	{"Redis restart", func(ctx context.Context, w *world, r *rand.Rand, _ *takeovers) error {
		w.redis.end([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[r.IntN(2)], 10*time.Second)
		sleep(ctx, r, 100, 3000)
		if err := w.redis.start(); err != nil {
			return err
		}
		for _, n := range w.nodes {
			if err := w.await(ctx, n); err != nil {
				return err
			}
		}
		return nil
	}},
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

// takeovers measures how long the agents of a node could not be commanded after it was lost.
type takeovers struct {
	mu    sync.Mutex
	ids   []string
	times []time.Duration
	wg    sync.WaitGroup
}

// watch notes which agents n holds, breaks it, and measures until another node answers for each.
func (t *takeovers) watch(ctx context.Context, w *world, n *node, breakIt func()) {
	i := slices.Index(w.nodes, n)
	others := append(slices.Clone(w.nodes[:i]), w.nodes[i+1:]...)
	var lost []string
	for _, id := range t.ids {
		if status, doc, err := w.call(ctx, others[0], "GET", "/v1/agent/"+id+"/runtime", nil, ""); err == nil && status == 200 && doc["node"] == n.name {
			lost = append(lost, id)
		}
	}
	breakIt()
	began := time.Now()
	for k, id := range lost {
		t.wg.Add(1)
		go func() {
			defer t.wg.Done()
			for ctx.Err() == nil && time.Since(began) < time.Minute {
				status, doc, err := w.call(ctx, others[k%len(others)], "GET", "/v1/agent/"+id+"/runtime", nil, "")
				if err == nil && status == 200 && doc["node"] != n.name {
					break
				}
				if err == nil && status == 200 && time.Since(began) > 20*time.Second {
					return // the node came back before anybody had to take over
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.mu.Lock()
			t.times = append(t.times, time.Since(began))
			t.mu.Unlock()
		}()
	}
}

// drawn is what was injected.
type drawn struct {
	counts map[string]int
	times  []time.Duration
}

// inject draws faults one after the other until the time is over.
func inject(ctx context.Context, w *world, ids []string, r *rand.Rand, limit time.Duration) drawn {
	out := drawn{counts: map[string]int{}}
	t := &takeovers{ids: ids}
	pool := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return *only != "" && f.name != *only })
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil && len(pool) > 0; {
		sleep(ctx, r, 500, 3000)
		f := pool[r.IntN(len(pool))]
		fmt.Printf("%8s  %s\n", time.Until(end).Round(time.Second), f.name)
		if err := f.do(ctx, w, r, t); err != nil {
			fmt.Printf("          %v\n", err)
		}
		out.counts[f.name]++
		sleep(ctx, r, 500, 4000)
	}
	t.wg.Wait()
	out.times = t.times
	return out
}
