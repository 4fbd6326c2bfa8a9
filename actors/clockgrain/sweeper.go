// Package clockgrain wakes agents that have something due. Each member sweeps the durable clock; what it finds are
// hints, so that two members that find the same entry do no harm.
package clockgrain

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"troupe/actors/agent"
	"troupe/actors/fault"
)

const (
	period = 500 * time.Millisecond
	perRun = 200 // entries of each kind and shard handed out at once
)

// Store is what the sweeper reads.
type Store interface {
	agent.Clock
	Peek(ctx context.Context, id agent.ID, limit int) (agent.Figures, []agent.Message, error)
}

// Sweeper wakes agents on one member.
type Sweeper struct {
	store Store
	wake  func(agent.ID)
	log   *slog.Logger
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// Start begins sweeping; wake hints one agent.
func Start(store Store, wake func(agent.ID), log *slog.Logger) *Sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sweeper{store: store, wake: wake, log: log, stop: cancel}
	s.wg.Add(1)
	go s.run(ctx)
	return s
}

// Stop ends sweeping. It may be called twice.
func (s *Sweeper) Stop() {
	s.stop()
	s.wg.Wait()
}

func (s *Sweeper) run(ctx context.Context) {
	defer s.wg.Done()
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("sweep of the clock failed", "err", err)
			}
		}
	}
}

func (s *Sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	alarms, err := s.store.Sweep(ctx, perRun)
	if err != nil {
		return err
	}
	var settled []agent.Alarm
	for _, a := range alarms {
		if !a.Pending {
			s.wake(a.ID)
			continue
		}
		// An entry stays until nothing waits, or nothing that waits could start.
		f, _, err := s.store.Peek(ctx, a.ID, 1)
		switch {
		case err != nil && !fault.Is(err, fault.NotFound): // not known: the entry comes again
		case err == nil && f.Status == agent.Active && f.Pending > 0 && f.Balance > 0:
			s.wake(a.ID)
		default:
			settled = append(settled, a)
		}
	}
	if len(settled) == 0 {
		return nil
	}
	return s.store.Clear(ctx, settled)
}
