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
// collections. Under load what matters is the garbage of the messages that pass by: collecting 10,000 idle activations again
// and again for it cost a third of a busy node's processor time. So from the first collection of a burst on, the heap may grow
// by a runway of fixed size before the next; when nothing was collected for a while, the memory is given back.
const (
	gcPercent = 35
	heapFloor = 48 << 20 // bytes that a heap at rest may grow to at least
	runway    = 96 << 20 // bytes of garbage between collections under load
	paceEvery = 200 * time.Millisecond
	calmAfter = 5 * time.Second // without a collection
)

// heapPercent returns the collector's percentage for so many live bytes.
func heapPercent(live uint64, busy bool) int {
	grow := 0.0
	switch {
	case live == 0: // nothing was collected yet
		return gcPercent
	case busy:
		grow = runway
	case live < heapFloor:
		grow = float64(heapFloor - live)
	}
	return max(gcPercent, int(math.Min(grow*100/float64(live), 1000)))
}

// paceHeap keeps the collector's pace until ctx ends. The operator's own GOGC wins.
func paceHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := time.NewTicker(paceEvery)
	defer t.Stop()
	samples := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	debug.SetGCPercent(gcPercent)
	present, busy, seen, last := gcPercent, false, uint64(0), time.Now()
	for {
		gometrics.Read(samples)
		switch cycles := samples[1].Value.Uint64(); {
		case cycles != seen:
			busy, seen, last = true, cycles, time.Now()
		case busy && time.Since(last) > calmAfter:
			busy = false
			debug.SetGCPercent(gcPercent)
			debug.FreeOSMemory() // collects, too
			gometrics.Read(samples)
			present, seen = gcPercent, samples[1].Value.Uint64()
		}
		if p := heapPercent(samples[0].Value.Uint64(), busy); p < present*9/10 || p > present*11/10 { // changing it stops the world for a moment
			debug.SetGCPercent(p)
			present = p
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
