package simtest

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSchedulesOfFaults plays many schedules, each from its own seed. TROUPE_TEST_SCHEDULES sets how many.
func TestSchedulesOfFaults(t *testing.T) {
	count := 4000
	if n, err := strconv.Atoi(os.Getenv("TROUPE_TEST_SCHEDULES")); err == nil {
		count = n
	}
	var next, faults, accepted, commits, refused, stale, failed atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for seed := next.Add(1); seed <= int64(count) && failed.Load() < 5; seed = next.Add(1) {
				w := New(uint64(seed))
				w.Blind = seed%3 == 0 // the fence alone must do
				w.Play(60)
				w.Settle()
				faults.Add(int64(w.Faults))
				accepted.Add(int64(w.Accepted))
				commits.Add(int64(w.Commits))
				refused.Add(int64(w.Refused))
				stale.Add(int64(w.Stale))
				if len(w.Problems) > 0 {
					failed.Add(1)
					t.Errorf("seed %d: %s", seed, w.Problems[0])
				}
			}
		}()
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d schedules in %s (%.0f/s): %d faults, %d messages, %d commits, %d stale writes refused, %d stale activations stopped before they decided",
		count, took.Round(time.Millisecond), float64(count)/took.Seconds(), faults.Load(), accepted.Load(), commits.Load(), refused.Load(), stale.Load())
	if refused.Load() == 0 || stale.Load() == 0 {
		t.Error("no schedule made a stale activation write: the simulation proves nothing")
	}
}

// TestWithoutAFenceTheSimulationSeesIt takes the fence away: a simulation that notices nothing then proves nothing.
func TestWithoutAFenceTheSimulationSeesIt(t *testing.T) {
	for seed := uint64(1); seed <= 500; seed++ {
		w := New(seed)
		w.Blind, w.Unfenced = true, true
		if sees(w) {
			t.Logf("seen at seed %d", seed)
			return
		}
	}
	t.Error("500 schedules without a fence broke no rule")
}

// sees plays a schedule and says whether a rule was broken; a decision on a state that cannot be is one, too.
func sees(w *World) (broken bool) {
	defer func() { broken = recover() != nil || broken }()
	w.Play(60)
	w.Settle()
	return len(w.Problems) > 0
}
