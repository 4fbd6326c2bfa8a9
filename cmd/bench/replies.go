package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// replies measures from sending to the stored reply, through a warm rehearsal runner.
func (b *bench) replies(url string) error {
	n, err := b.node(url)
	if err != nil {
		return err
	}
	var a struct{ ID string }
	if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a); err != nil {
		return err
	}
	send := func() (time.Duration, error) {
		start := time.Now()
		var m struct{ Outcome *string }
		err := n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/messages?wait=30", map[string]any{"content": "!say ok"}, &m)
		if err == nil && (m.Outcome == nil || *m.Outcome != "completed") {
			err = errors.New("a message was not answered")
		}
		return time.Since(start), err
	}
	var lat []time.Duration
	for i := range 220 {
		d, err := send()
		if err != nil {
			return err
		}
		if i >= 20 { // warm
			lat = append(lat, d)
		}
	}
	slices.Sort(lat)
	fmt.Printf("accept → reply, warm runner: p50 %s p99 %s (target p50 ≤ 25 ms)\n", lat[len(lat)/2].Round(10*time.Microsecond), lat[len(lat)*99/100].Round(10*time.Microsecond))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}
