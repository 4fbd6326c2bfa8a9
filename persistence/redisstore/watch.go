package redisstore

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
)

// hub shares one subscriber connection between all watchers of this node. What it tells are hints: after a lost
// connection every watcher is told once, since it may have missed something.
type hub struct {
	sub  *redis.PubSub
	mu   sync.Mutex
	subs map[string]map[int]func()
	next int
	wg   sync.WaitGroup
}

func newHub(rdb redis.UniversalClient) *hub {
	h := &hub{sub: rdb.Subscribe(context.Background()), subs: map[string]map[int]func(){}}
	h.wg.Add(1)
	go h.run()
	return h
}

func (h *hub) close() {
	_ = h.sub.Close()
	h.wg.Wait()
}

func (h *hub) run() {
	defer h.wg.Done()
	for m := range h.sub.ChannelWithSubscriptions(redis.WithChannelSize(1024)) {
		switch m := m.(type) {
		case *redis.Message:
			h.notify(m.Channel)
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				h.notify(m.Channel)
			}
		}
	}
}

func (h *hub) notify(topic string) {
	h.mu.Lock()
	fns := make([]func(), 0, len(h.subs[topic]))
	for _, fn := range h.subs[topic] {
		fns = append(fns, fn)
	}
	h.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

func (h *hub) watch(topic string, fn func()) (cancel func()) {
	h.mu.Lock()
	h.next++
	n := h.next
	first := h.subs[topic] == nil
	if first {
		h.subs[topic] = map[int]func(){}
	}
	h.subs[topic][n] = fn
	if first { // under the lock, so that it cannot be overtaken by the former watcher's leaving
		_ = h.sub.Subscribe(context.Background(), topic) // repeated by the library after a reconnect
	}
	h.mu.Unlock()
	return sync.OnceFunc(func() {
		h.mu.Lock()
		delete(h.subs[topic], n)
		last := len(h.subs[topic]) == 0
		if last {
			delete(h.subs, topic)
			_ = h.sub.Unsubscribe(context.Background(), topic)
		}
		h.mu.Unlock()
	})
}

// Watch implements agent.Watcher by the channel that every commit publishes on.
func (s *Store) Watch(id agent.ID, notify func()) (cancel func()) {
	return s.hub.watch(keysOf(id).topic(), notify)
}
