package member

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestNoActivationWaitsForAnother: whatever blocks, what is scheduled runs; few of the goroutines stay, and none outlives its member.
func TestNoActivationWaitsForAnother(t *testing.T) {
	w := newWorkers()
	for round := range 3 {
		var running, done sync.WaitGroup
		block := make(chan struct{})
		for range 5 * idleWorkers {
			running.Add(1)
			done.Add(1)
			w.Schedule(func() {
				running.Done()
				<-block
				done.Done()
			})
		}
		running.Wait() // all at once
		close(block)
		done.Wait()
		if n := settle(t, func(n int) bool { return n <= idleWorkers }); n == 0 {
			t.Errorf("nobody waits for work after round %d", round)
		}
	}
	w.close()
	settle(t, func(n int) bool { return n == 0 })
	ran := make(chan struct{})
	w.Schedule(func() { close(ran) })
	<-ran
}

// settle waits until the number of workers is as it should be.
func settle(t *testing.T, so func(int) bool) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		buf := make([]byte, 4<<20)
		n := strings.Count(string(buf[:runtime.Stack(buf, true)]), "(*workers).serve(")
		if so(n) {
			return n
		}
		if time.Now().After(end) {
			t.Fatalf("%d workers", n)
		}
	}
}
