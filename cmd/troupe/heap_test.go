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
	const mib = 1 << 20
	now := time.Date(2026, 3, 9, 10, 0, 0, 0, time.UTC)
	p, u := &pacer{last: now}, heapUse{live: 20 * mib, present: 20 * mib, allocated: 20 * mib, cycles: 1}
	// after lets time pass in periods in which so much is allocated, and says whether memory was given back.
	after := func(d time.Duration, each uint64) (given bool) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(paceEvery)
			u.allocated += each
			u.present += each
			if p.rest(u, now) {
				given = true
				u.present, u.cycles = u.live, u.cycles+1
				p.given(u)
			}
		}
		return given
	}
	for _, s := range []struct {
		name string
		pass time.Duration
		each uint64
		want bool
	}{
		{"what was collected at the start is given back", 6 * time.Second, 0, true},
		{"once", time.Minute, 0, false},
		{"a small heap may grow to the floor", 20 * time.Second, mib / 4, false},
		{"and no further", 20 * time.Second, mib / 4, true},
		{"a burst is left alone", 20 * time.Second, 2 * mib, false},
		{"until it is over", 6 * time.Second, 0, true},
		{"once as well", time.Minute, 0, false},
	} {
		if got := after(s.pass, s.each); got != s.want {
			t.Errorf("%s: %v", s.name, got)
		}
	}
	u.live, u.present = 400*mib, 400*mib
	if after(time.Minute, mib/4) || !after(2*time.Minute, mib/4) {
		t.Errorf("a large heap at rest does not grow by a third: %d MiB", u.present/mib)
	}
}
