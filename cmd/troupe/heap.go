package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"
)

// How a node paces its garbage collector. What matters under load is the garbage of the messages that pass by: collecting 10,000 idle
// activations again and again for it cost a third of a busy node's processor time. So the heap may grow by a runway of fixed size between
// collections, also before the first one of a burst: that would come when the processor is needed most, and those who allocate would pay for
// it. At rest a heap that has grown by a third is collected here, and the memory is given back.
const (
	gcPercent = 35
	heapFloor = 48 << 20 // bytes that a heap at rest may grow to at least
	runway    = 96 << 20 // bytes of garbage between collections
	paceEvery = 200 * time.Millisecond
	calmAfter = 5 * time.Second // without a collection, and without much allocated
	much      = 25 << 20        // bytes allocated in that time
)

// heapPercent returns the collector's percentage for so many live bytes; 0: not known yet.
func heapPercent(live uint64) int {
	return max(gcPercent, int(math.Min(runway*100/float64(max(live, 1)), 1000)))
}

// heapUse is what the runtime says of the heap.
type heapUse struct {
	live, present     uint64 // bytes: after the last collection, now
	allocated, cycles uint64 // since the start: bytes, collections
}

// pacer knows when a heap is at rest.
type pacer struct {
	since time.Time // the stretch of time that is looked at began then
	began heapUse   // with this
	owed  bool      // something was collected since memory was last given back
}

// rest says whether the heap is to be collected and its memory given back now.
func (p *pacer) rest(u heapUse, now time.Time) bool {
	if u.cycles != p.began.cycles {
		p.began, p.since, p.owed = u, now, true
	}
	if now.Sub(p.since) < calmAfter {
		return false
	}
	quiet := u.allocated-p.began.allocated < much
	p.began, p.since = u, now
	return quiet && (p.owed || u.present > max(heapFloor, u.live/100*(100+gcPercent)))
}

// given notes that it was done.
func (p *pacer) given(u heapUse) { p.began, p.owed = u, false }

// paceHeap keeps the collector's pace until ctx ends. The operator's own GOGC wins.
func paceHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := time.NewTicker(paceEvery)
	defer t.Stop()
	samples := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	read := func() heapUse {
		gometrics.Read(samples)
		return heapUse{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
	}
	p, percent := &pacer{since: time.Now()}, 0
	for {
		u := read()
		if p.rest(u, time.Now()) {
			debug.FreeOSMemory() // collects, too
			u = read()
			p.given(u)
		}
		if n := heapPercent(u.live); n < percent*9/10 || n > percent*11/10 { // small changes are not worth it
			debug.SetGCPercent(n)
			percent = n
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
