package main

import "testing"

func TestTheCollectorsPace(t *testing.T) {
	for _, c := range []struct {
		name         string
		present      int
		live, cycles uint64
		want         int
	}{
		{"nothing known", 50, 0, 0, 35},
		{"a small heap may grow to the floor", 50, 8 << 20, 1, 500},
		{"a tiny one not without bound", 50, 1 << 20, 1, 1000},
		{"a large one at rest grows by a third", 50, 1 << 30, 0, 35},
		{"and more under load", 50, 1 << 30, 5, 100},
		{"up to a bound", 250, 1 << 30, 5, 300},
		{"which is kept while it is needed", 300, 1 << 30, 1, 300},
		{"and given up at rest", 300, 1 << 30, 0, 150},
		{"from a floor that a heap has outgrown", 1000, 1 << 30, 0, 150},
	} {
		if got := heapPace(c.present, c.live, c.cycles); got != c.want {
			t.Errorf("%s: %d percent, want %d", c.name, got, c.want)
		}
	}
}
