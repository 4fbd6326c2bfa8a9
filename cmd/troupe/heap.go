package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"
)

// How a node paces its garbage collector. At rest the heap is mostly idle activations, so it may grow by a third between
// collections. A small heap may grow to heapFloor first, and under load a heap may grow more, up to maxPercent, as long as
// the collector would run more than once a second: collecting 10,000 idle activations again and again for the garbage of
// the messages that pass by cost a third of a busy node's processor time. When the load is over it gives the memory back.
const (
	gcPercent  = 35
	maxPercent = 300
	heapFloor  = 48 << 20 // bytes
	paceEvery  = time.Second
)

// heapPace returns the collector's next percentage, from the present one, the live bytes and the collections since the last look.
func heapPace(present int, live, collections uint64) int {
	rest := gcPercent
	if live > 0 && live < heapFloor {
		rest = max(rest, int(math.Min(float64(heapFloor-live)*100/float64(live), 1000)))
	}
	switch {
	case collections > 1:
		return max(rest, min(2*present, maxPercent))
	case collections == 0:
		return max(rest, min(present, maxPercent)/2)
	}
	return max(rest, min(present, maxPercent))
}

// paceHeap keeps the collector's pace until ctx ends. The operator's own GOGC wins.
func paceHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := time.NewTicker(paceEvery)
	defer t.Stop()
	samples := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	present, seen := gcPercent, uint64(0)
	for {
		gometrics.Read(samples)
		cycles := samples[1].Value.Uint64()
		if p := heapPace(present, samples[0].Value.Uint64(), cycles-seen); p < present*9/10 || p > present*11/10 || p == gcPercent && p != present { // changing it stops the world for a moment
			debug.SetGCPercent(p)
			if p < present && p == gcPercent {
				debug.FreeOSMemory()
			}
			present = p
		}
		seen = cycles
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
