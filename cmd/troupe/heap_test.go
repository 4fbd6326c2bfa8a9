package main

import (
	"testing"
	"time"
)

func TestTheCollectorsPace(t *testing.T) {
	for _, c := range []struct {
		name string
		live uint64
		want int
	}{
		{"nothing known", 0, 1000},
		{"there is a runway", 48 << 20, 200},
		{"which has a bound", 1 << 20, 1000},
		{"and is no less than a third", 1 << 30, 35},
	} {
		if got := heapPercent(c.live); got != c.want {
			t.Errorf("%s: %d percent, want %d", c.name, got, c.want)
		}
	}
}

func TestAHeapAtRestIsGivenBack(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	now := time.Date(2026, 3, 9, 10, 0, 0, 0, time.UTC)
	p, u := &pacer{since: now}, heapUse{live: 20 * mib, present: 20 * mib, allocated: 20 * mib, cycles: 1}
	collect := func() { u.present, u.cycles = u.live, u.cycles+1 }
	// pass lets time pass in periods in which so much is allocated, collects where the runtime would, and says how often memory was given
	// back and how large the heap was at most.
	pass := func(d time.Duration, each uint64) (given int, most uint64) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(paceEvery)
			u.allocated += each
			u.present += each
			most = max(most, u.present)
			if u.present > u.live/100*uint64(100+heapPercent(u.live)) {
				collect()
			}
			if p.rest(u, now) {
				given++
				collect()
				p.given(u)
			}
		}
		return given, most
	}
	for _, s := range []struct {
		name string
		pass time.Duration
		each uint64
		from int // times given back
		to   int
		most uint64
	}{
		{"what was collected at the start is given back", 6 * time.Second, 0, 1, 1, 20 * mib},
		{"once", time.Minute, 0, 0, 0, 20 * mib},
		{"a small heap may grow to the floor", 20 * time.Second, 256 * kib, 0, 0, 48 * mib},
		{"and little further", 15 * time.Second, 256 * kib, 1, 1, 56 * mib},
		{"what allocates just less than much is collected here, not all the time", time.Minute, 900 * kib, 4, 12, 75 * mib},
		{"a burst is left to the runtime, which has the runway", time.Minute, 8 * mib, 0, 0, 125 * mib},
		{"until it is over", 11 * time.Second, 0, 1, 1, 125 * mib},
		{"once as well", time.Minute, 0, 0, 0, 20 * mib},
	} {
		if given, most := pass(s.pass, s.each); given < s.from || given > s.to || most > s.most {
			t.Errorf("%s: given back %d times, at most %d MiB", s.name, given, most/mib)
		}
	}
	for range 12 { // something now and then on a node that rests
		pass(4*time.Second, 0)
		u.allocated += 3 * mib
		u.present += 3 * mib
	}
	if _, most := pass(time.Minute, 0); most > 56*mib {
		t.Errorf("spikes keep the heap from being given back: %d MiB", most/mib)
	}
}
