package clockgrain

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestTheKeeperAsksForEveryShard: one that cannot be had holds up none of the others and is asked for again soon; where none can be had,
// few are asked for.
func TestTheKeeperAsksForEveryShard(t *testing.T) {
	var mu sync.Mutex
	var once sync.Once
	asked, at, most, fives := map[string]int{}, 0, 0, 0
	none := true
	all := make(chan struct{})
	k := Keep(64, func(_, shard string) bool {
		mu.Lock()
		asked[shard]++
		at++
		most = max(most, at)
		if !none && shard == "5" {
			fives++
		}
		there := !none && (shard != "5" || fives > 3)
		if there && shard == "5" {
			once.Do(func() { close(all) })
		}
		mu.Unlock()
		runtime.Gosched()
		mu.Lock()
		defer mu.Unlock()
		at--
		return there
	})
	defer k.Stop()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		n := len(asked)
		if n >= askers {
			if none = false; n > 2*askers {
				t.Errorf("%d were asked although none is there", n)
			}
			mu.Unlock()
			break
		}
		mu.Unlock()
		if time.Now().After(end) {
			t.Fatal("nobody was asked")
		}
	}
	k.Hurry()
	<-all
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 64 || most > askers {
		t.Errorf("%d shards were asked, %d at once", len(asked), most)
	}
}
