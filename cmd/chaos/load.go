package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// load is what the senders did: every message that was acknowledged, with its id.
type load struct {
	stopped  context.CancelFunc
	wg       sync.WaitGroup
	mu       sync.Mutex
	acked    map[string]map[string]bool // agent → message ids
	statuses map[int]int                // of calls that were not accepted
	retries  atomic.Int64
	open     atomic.Int64 // calls that were never answered
}

// texts are what messages ask of the rehearsal model: to say something, to use a tool, to take its time.
var texts = []string{"!say fine", "!say fine", "!tool shell {\"command\":\"echo x >> log\"}\n!say noted", "!tool shell {\"command\":\"sleep 1; echo y >> log\"}\n!say slept",
	"!tool shell {\"command\":\"sleep 3; echo z >> log\"}\n!say slept long"}

// startLoad starts senders that go on until stop: each sends one message after the other through any node, and repeats a call with
// the same idempotency key until it is acknowledged.
func startLoad(w *world, ids []string, senders int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stopped: cancel, acked: map[string]map[string]bool{}, statuses: map[int]int{}}
	for _, id := range ids {
		l.acked[id] = map[string]bool{}
	}
	for s := range senders {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			r := rand.New(rand.NewPCG(*seed, uint64(s)+1))
			for n := 0; ctx.Err() == nil; n++ {
				l.send(ctx, w, r, ids[r.IntN(len(ids))], fmt.Sprintf("chaos-%d-%d", s, n))
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(100+r.IntN(400)) * time.Millisecond):
				}
			}
		}()
	}
	return l
}

func (l *load) send(ctx context.Context, w *world, r *rand.Rand, id, idempotency string) {
	mode := "collect"
	if r.IntN(20) == 0 {
		mode = "interrupt"
	}
	in := map[string]any{"content": texts[r.IntN(len(texts))], "queue_mode": mode}
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(context.Background(), 5*time.Second) // the answer to a call that was sent counts, also after the end
		status, doc, err := w.call(call, w.nodes[r.IntN(len(w.nodes))], "POST", "/v1/agent/"+id+"/messages", in, idempotency)
		cancel()
		if err == nil && status == 201 {
			msg, _ := doc["id"].(string)
			l.mu.Lock()
			l.acked[id][msg] = true
			l.mu.Unlock()
			return
		}
		l.retries.Add(1)
		l.mu.Lock()
		l.statuses[status]++
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(50+r.IntN(200)) * time.Millisecond):
		}
	}
	l.open.Add(1)
}

func (l *load) stop() {
	l.stopped()
	l.wg.Wait()
}
