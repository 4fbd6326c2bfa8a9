package botgrain

import (
	"context"
	"sync"
	"time"

	"troupe/actors/agent"
)

// keepEvery is how often each member asks for the bots that it should hold.
const keepEvery = 3 * time.Second

// Keeper keeps bots activated. Every member has one; it asks for those that would be placed on it.
type Keeper struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Keep starts asking. All lists the bots, rightful says which are this member's, reach finds an activation or makes one.
func Keep(all func(ctx context.Context) ([]string, error), rightful func(kind, identity string) bool, reach func(kind, identity string) bool) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{stop: cancel}
	k.wg.Add(1)
	go func() {
		defer k.wg.Done()
		t := time.NewTicker(keepEvery)
		defer t.Stop()
		for {
			asked, done := context.WithTimeout(ctx, loadTimeout)
			ids, err := all(asked)
			done()
			for _, id := range ids {
				if err != nil || ctx.Err() != nil {
					break
				}
				if rightful(agent.KindBot, id) {
					reach(agent.KindBot, id) // the next round asks again
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
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
