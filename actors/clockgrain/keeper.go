package clockgrain

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"troupe/actors/agent"
)

const (
	keepEvery = 2 * time.Second        // how often each member asks every shard whether it is there
	retryIn   = time.Second            // at the latest, where some were not
	retryOnce = 100 * time.Millisecond // at first: the others learn of a change of the topology a moment later
	askers    = 8                      // shards asked at once
)

// Keeper keeps the shards activated. Every member has one.
type Keeper struct {
	stop context.CancelFunc
	now  chan struct{}
	wg   sync.WaitGroup
}

// Hurry makes the keeper ask at once: a member may have died with its shards.
func (k *Keeper) Hurry() {
	select {
	case k.now <- struct{}{}:
	default:
	}
}

// Keep starts asking. Reach finds a grain's activation, making one if there is none; it has a deadline of its own.
func Keep(shards int, reach func(kind, identity string) bool) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{stop: cancel, now: make(chan struct{}, 1)}
	k.wg.Add(1)
	go func() {
		defer k.wg.Done()
		wait := time.NewTimer(0)
		defer wait.Stop()
		for again := retryOnce; ; {
			select {
			case <-ctx.Done():
				return
			case <-wait.C:
			case <-k.now:
				again = retryOnce
			}
			if askAll(ctx, shards, reach) {
				again = retryOnce
				wait.Reset(keepEvery)
				continue
			}
			wait.Reset(again)
			again = min(2*again, retryIn)
		}
	}()
	return k
}

// askAll asks every shard, and says whether all are there. It gives up when as many as are asked at once were not: the member is still
// starting, or nobody takes grains now.
func askAll(ctx context.Context, shards int, reach func(kind, identity string) bool) bool {
	var wg sync.WaitGroup
	var next, missed atomic.Int64
	for range askers {
		wg.Go(func() {
			for ctx.Err() == nil && missed.Load() < askers {
				i := int(next.Add(1)) - 1
				if i >= shards {
					return
				}
				if !reach(agent.KindClock, strconv.Itoa(i)) {
					missed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return missed.Load() == 0
}

// Stop ends asking. It may be called twice.
func (k *Keeper) Stop() {
	k.stop()
	k.wg.Wait()
}
