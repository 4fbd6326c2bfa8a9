package clockgrain

import (
	"context"
	"strconv"
	"sync"
	"time"

	"troupe/actors/agent"
)

// keepEvery is how often each member asks every shard whether it is there.
const keepEvery = 2 * time.Second

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
		for {
			select {
			case <-ctx.Done():
				return
			case <-wait.C:
			case <-k.now:
			}
			wait.Reset(keepEvery)
			for i := range shards {
				if ctx.Err() != nil {
					return
				}
				if !reach(agent.KindClock, strconv.Itoa(i)) { // the member is still starting, or nobody takes grains now
					wait.Reset(retryIn)
					break
				}
			}
		}
	}()
	return k
}

// Stop ends asking. It may be called twice.
func (k *Keeper) Stop() {
	k.stop()
	k.wg.Wait()
}
