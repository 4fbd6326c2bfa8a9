package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"troupe/http/client"
)

// replies measures from sending to the stored reply, through a warm rehearsal runner; how long a message waits for its turn to be
// given to the runner (POD-10); and how long after its cause a client sees an event (EVT-2).
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
		var m struct {
			Outcome       string
			FailureReason string `json:"failure_reason"`
		}
		err := n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/messages?wait=30", map[string]any{"content": "!say ok"}, &m)
		if err == nil && m.Outcome != "completed" {
			err = fmt.Errorf("a message was not answered: %q, %q", m.Outcome, m.FailureReason)
		}
		return time.Since(start), err
	}
	stream := follow(n.api, a.ID)
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
	seen := stream()
	var page struct {
		Messages []struct {
			CreatedAt   string `json:"created_at"`
			DeliveredAt string `json:"delivered_at"`
		}
	}
	if err := n.api.Do(context.Background(), "GET", "/v1/agent/"+a.ID+"/messages?role=user&limit=100&order=desc", nil, &page); err != nil {
		return err
	}
	var starts []time.Duration
	for _, m := range page.Messages {
		starts = append(starts, since(m.CreatedAt, m.DeliveredAt))
	}
	slices.Sort(starts)
	fmt.Printf("accept → turn.start, warm runner: p50 %s p99 %s (target p50 ≤ 50 ms)\n", starts[len(starts)/2], starts[len(starts)*99/100])
	if len(seen) == 0 {
		return errors.New("no event was seen")
	}
	fmt.Printf("cause → event at a client: %d events, p50 %s p99 %s (target p50 ≤ 250 ms)\n", len(seen), seen[len(seen)/2].Round(time.Millisecond), seen[len(seen)*99/100].Round(time.Millisecond))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// since is the time between two instants of the API, which have milliseconds.
func since(from, to string) time.Duration {
	a, aerr := time.Parse(time.RFC3339, from)
	b, berr := time.Parse(time.RFC3339, to)
	if aerr != nil || berr != nil {
		return 0
	}
	return b.Sub(a)
}

// follow reads an agent's events; the function that it returns ends that and gives their ages at arrival, sorted. The store's
// clock is this machine's.
func follow(api *client.Client, id string) func() []time.Duration {
	ctx, stop := context.WithCancel(context.Background())
	var ages []time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = api.Events(ctx, "/v1/agent/"+id+"/events", "", func(e client.Event) bool { // ends with ctx
			var in struct{ At string }
			if json.Unmarshal(e.Data, &in) == nil && e.Type != "balance.changed" { // merged by the second on purpose
				if at, err := time.Parse(time.RFC3339, in.At); err == nil {
					ages = append(ages, time.Since(at))
				}
			}
			return true
		})
	}()
	return func() []time.Duration {
		stop()
		<-done
		slices.Sort(ages)
		return ages
	}
}
