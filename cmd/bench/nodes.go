package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// ring starts some nodes as one cluster on a Redis of its own.
func (b *bench) ring(size int) ([]*node, error) {
	url, err := b.redis("everysec")
	if err != nil {
		return nil, err
	}
	return b.ringOn(url, size)
}

// ringOn is ring on a store that is there.
func (b *bench) ringOn(url string, size int, env ...string) ([]*node, error) {
	idle, err := b.idleRunner()
	if err != nil {
		return nil, err
	}
	var out []*node
	for i := range size {
		n, err := b.node(url, append([]string{fmt.Sprint("TROUPE_NODE_NAME=n", i), "TROUPE_PROCESS_LIMIT=1", "TROUPE_SANDBOX=off", "TROUPE_START_TIMEOUT=1h", "TROUPE_RUNNER=" + idle,
			"TROUPE_MASTER_KEY=" + masterKey}, env...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var c struct{ Members []struct{ ID string } }
		if err := out[0].api.Do(context.Background(), "GET", "/v1/cluster", nil, &c); err == nil && len(c.Members) == size {
			return out, nil
		}
		if time.Now().After(end) {
			return nil, errors.New("the nodes do not find each other")
		}
	}
}

// nodes compares three nodes with one, each cluster on its own Redis, in interleaved rounds, and measures what it costs to
// ask the wrong node.
func (b *bench) nodes() error {
	var rings [2][]*node
	var ids [2][]string
	for i, size := range []int{1, 3} {
		var err error
		if rings[i], err = b.ring(size); err != nil {
			return err
		}
		if ids[i], err = rings[i][0].prepare(300); err != nil {
			return err
		}
	}
	var got [2][]figures
	for range *rounds {
		for i, ring := range rings {
			got[i] = append(got[i], loadAll(ring, ids[i]))
		}
	}
	one, three := median(got[0]), median(got[1])
	fmt.Printf("%-40s %10.0f %10s %10s %12s -, %d\n", "redis everysec, one node", one.rate, one.p50.Round(10*time.Microsecond), one.p99.Round(10*time.Microsecond), one.cpu.Round(time.Microsecond), one.failed)
	fmt.Printf("%-40s %10.0f %10s %10s %12s %.2f of one node (target 0.8 on two cores), %d failed\n", "redis everysec, three nodes", three.rate, three.p50.Round(10*time.Microsecond),
		three.p99.Round(10*time.Microsecond), three.cpu.Round(time.Microsecond), three.rate/one.rate, three.failed)
	here, there, err := hop(rings[1], ids[1])
	if err != nil {
		return err
	}
	fmt.Printf("a command to an activation: on its node p50 %s, through another p50 %s\n", here.Round(10*time.Microsecond), there.Round(10*time.Microsecond))
	for _, ring := range rings {
		for _, n := range ring {
			_ = n.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	return nil
}

// hop measures a command that reads one figure, asked on the node that holds the activation and on one that does not.
func hop(ring []*node, ids []string) (here, there time.Duration, err error) {
	var near, far []time.Duration
	for i, id := range ids[:90] {
		for k := range 4 {
			n := ring[(i+k)%len(ring)]
			var rt struct{ Node string }
			began := time.Now()
			if err := n.api.Do(context.Background(), "GET", "/v1/agent/"+id+"/runtime", nil, &rt); err != nil {
				return 0, 0, err
			}
			took := time.Since(began)
			switch {
			case k == 0: // finds the activation, or makes it
			case rt.Node == n.name:
				near = append(near, took)
			default:
				far = append(far, took)
			}
		}
	}
	if len(near) == 0 || len(far) == 0 {
		return 0, 0, errors.New("all activations are on one node")
	}
	slices.Sort(near)
	slices.Sort(far)
	return near[len(near)/2], far[len(far)/2], nil
}
