package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// memory measures activated, idle agents. Their pods are kept down by stopping them; a stopped agent is an activation like any other.
func (b *bench) memory() error {
	n, err := b.node("", "TROUPE_PROCESS_LIMIT=1")
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	empty := rss(n.cmd.Process.Pid)
	st, err := n.agents(*many, true)
	if err != nil {
		return err
	}
	time.Sleep(15 * time.Second) // idle: what making them left behind is given back
	full := rss(n.cmd.Process.Pid)
	fmt.Printf("memory: empty node %.0f MiB, %d activated idle agents +%.0f MiB, %.1f KiB each (target ≤ 100 MiB for 10,000)\n", empty, len(st), full-empty, (full-empty)*1024/float64(len(st)))
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// starts measures a node's start to the first accepted message, and a runner's from exec to attach with its memory.
func (b *bench) starts() error {
	for _, sandbox := range []string{"off", "auto"} {
		began := time.Now()
		n, err := b.node("", "TROUPE_SANDBOX="+sandbox)
		if err != nil {
			return err
		}
		var a struct{ ID string }
		if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a); err != nil {
			return err
		}
		if err := n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/messages", map[string]any{"content": "!say ok"}, nil); err != nil {
			return err
		}
		first := time.Since(began)
		var attach []time.Duration
		for range 9 {
			t := time.Now()
			var x struct{ ID string }
			if err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &x); err != nil {
				return err
			}
			for {
				var r struct{ Ready bool }
				if err := n.api.Do(context.Background(), "GET", "/v1/agent/"+x.ID+"/ready", nil, &r); err != nil {
					return err
				}
				if r.Ready {
					break
				}
				time.Sleep(time.Millisecond)
			}
			attach = append(attach, time.Since(t))
		}
		slices.Sort(attach)
		fmt.Printf("sandbox %-4s start → first accept %s (target ≤ 500 ms); create → runner attached p50 %s (target ≤ 50 ms without the sandbox's own cost); runner resident %.1f MiB (target ≤ 20)\n",
			sandbox, first.Round(time.Millisecond), attach[len(attach)/2].Round(100*time.Microsecond), runnerRSS())
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
	}
	return nil
}

// runnerRSS is the median resident memory of the runners on this host.
func runnerRSS() float64 {
	var all []float64
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err == nil && strings.HasPrefix(filepath.Base(exe), "troupe-runner") {
			pid, _ := strconv.Atoi(filepath.Base(d))
			all = append(all, rss(pid))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}
