package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// accept measures the acceptance in rounds interleaved with the references.
func (b *bench) accept(name, url string) error {
	idle, err := b.idleRunner()
	if err != nil {
		return err
	}
	n, err := b.node(url, "TROUPE_PROCESS_LIMIT=1", "TROUPE_SANDBOX=off", "TROUPE_START_TIMEOUT=1h", "TROUPE_RUNNER="+idle)
	if err != nil {
		return err
	}
	counts := slices.DeleteFunc([]int{1, 100, *many}, func(c int) bool { return c > *many })
	counts = slices.Compact(counts)
	ids, err := n.prepare(counts[len(counts)-1])
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	refs := map[string]*node{}
	for _, kind := range []string{"echo", "script"} {
		if kind == "script" && url == "" {
			continue
		}
		r := &node{addr: freeAddr()}
		if r.cmd, err = b.start(nil, exe, "-serve", kind, "-listen", r.addr, "-store", url); err != nil {
			return err
		}
		if err := dial(r.addr); err != nil {
			return err
		}
		refs[kind] = r
	}
	// The references of one case see the same agents, in the same round.
	type row struct{ kind, agents string }
	var rows []row
	got := map[row][]figures{}
	for range *rounds {
		rows = rows[:0]
		for _, c := range counts {
			for _, kind := range []string{"echo", "script", "troupe"} {
				r := refs[kind]
				if kind == "troupe" {
					r = n
				}
				if r == nil || kind == "echo" && c != counts[0] {
					continue
				}
				k := row{kind, fmt.Sprintf("%d agents", c)}
				rows = append(rows, k)
				got[k] = append(got[k], load(r.addr, r.cmd.Process.Pid, ids[:c]))
			}
		}
	}
	for _, k := range rows {
		f, ratio := median(got[k]), "-"
		if base := got[row{"script", k.agents}]; len(base) > 0 {
			ratio = fmt.Sprintf("%.2f", f.rate/median(base).rate)
		}
		fmt.Printf("%-40s %10.0f %10s %10s %12s %s, %d\n", name+", "+k.kind+", "+k.agents, f.rate, f.p50.Round(10*time.Microsecond), f.p99.Round(10*time.Microsecond), f.cpu.Round(time.Microsecond), ratio, f.failed)
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	return nil
}

// idleRunner makes a runner that never attaches. It keeps the only place, so that no pod comes or goes while acceptance is measured.
func (b *bench) idleRunner() (string, error) {
	path := filepath.Join(b.dir(), "runner")
	return path, os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o700)
}

// prepare makes paused agents: nothing but the acceptance is measured.
func (n *node) prepare(count int) ([]string, error) {
	ids := make([]string, count)
	return ids, each(count, func(i int) error {
		var a struct{ ID string }
		err := n.api.Do(context.Background(), "POST", "/v1/agent/create", map[string]any{"name": "bench"}, &a)
		if err == nil {
			err = n.api.Do(context.Background(), "POST", "/v1/agent/"+a.ID+"/pause", nil, nil)
		}
		ids[i] = a.ID
		return err
	})
}
