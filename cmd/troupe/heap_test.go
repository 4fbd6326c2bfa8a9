package main

import "testing"

func TestTheCollectorsPace(t *testing.T) {
	for _, c := range []struct {
		name string
		live uint64
		busy bool
		want int
	}{
		{"nothing known", 0, false, 35},
		{"a small heap may grow to the floor", 8 << 20, false, 500},
		{"a tiny one not without bound", 1 << 20, false, 1000},
		{"a large one at rest grows by a third", 1 << 30, false, 35},
		{"under load there is a runway", 48 << 20, true, 200},
		{"which is no less than at rest", 1 << 30, true, 35},
		{"and has a bound", 1 << 20, true, 1000},
	} {
		if got := heapPercent(c.live, c.busy); got != c.want {
			t.Errorf("%s: %d percent, want %d", c.name, got, c.want)
		}
	}
}
