package channels

import (
	"context"
	"log/slog"
	"testing"
)

// TestCHAN_3_OneWhoIsStuckHoldsUpNobody: everybody's messages are in order, and nobody waits for another, or loses more than itself.
func TestCHAN_3_OneWhoIsStuckHoldsUpNobody(t *testing.T) {
	l := NewLanes(4, 8, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	free, got := make(chan struct{}), make(chan string, 10)
	l.Add(ctx, "a", func() { <-free; got <- "a1" })
	l.Add(ctx, "a", func() { got <- "a2" })
	l.Add(ctx, "b", func() { panic("a defect") })
	l.Add(ctx, "b", func() { got <- "b1" })
	if x := <-got; x != "b1" {
		t.Error(x)
	}
	close(free)
	if x, y := <-got, <-got; x != "a1" || y != "a2" {
		t.Error(x, y)
	}
	l.Wait()
	if len(l.of) != 0 || l.n != 0 {
		t.Errorf("%v, %d", l.of, l.n)
	}
	cancel()
	l.Add(ctx, "c", func() {})
	l.Wait()
}
