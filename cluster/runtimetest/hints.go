package runtimetest

import (
	"sync"

	"troupe/actors/agent"
)

// Hints collects what a runtime tells.
type Hints struct {
	mu   sync.Mutex
	cond *sync.Cond
	seen map[agent.ID]int
}

// NewHints returns an empty collection.
func NewHints() *Hints {
	h := &Hints{seen: map[agent.ID]int{}}
	h.cond = sync.NewCond(&h.mu)
	return h
}

// Changed takes a hint.
func (h *Hints) Changed(id agent.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[id]++
	h.cond.Broadcast()
}

// Wait waits for the first hint about an agent.
func (h *Hints) Wait(id agent.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.seen[id] == 0 {
		h.cond.Wait()
	}
}
