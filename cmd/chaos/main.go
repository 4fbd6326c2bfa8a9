// Command chaos runs a cluster under load and breaks it on purpose: nodes are killed, frozen, stopped and cut off, runners are
// killed, Redis is restarted. Afterwards it reads the whole history and prints a balance sheet; it exits 1 if an accepted
// message was lost or completed twice, or a turn stayed open. The seed is printed: the same seed draws the same faults.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

var (
	bin      = flag.String("bin", "bin", "directory of troupe and troupe-runner")
	nodes    = flag.Int("nodes", 3, "nodes")
	agents   = flag.Int("agents", 12, "agents")
	clients  = flag.Int("clients", 8, "concurrent senders")
	duration = flag.Duration("duration", time.Minute, "how long faults are injected")
	seed     = flag.Uint64("seed", 0, "of the faults; 0: by the clock")
	only     = flag.String("only", "", "one kind of fault")
	keep     = flag.Bool("keep", false, "keep the directory with logs and data")
)

func main() {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	runtime.LockOSThread() // the processes die with the thread that started them, also when this is killed
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ok, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context) (bool, error) {
	fmt.Printf("seed %d, %d nodes, %d agents, %d senders, %s\n", *seed, *nodes, *agents, *clients, *duration)
	w, err := newWorld(*nodes)
	if err != nil {
		return false, err
	}
	defer w.close()
	if err := w.start(ctx); err != nil {
		return false, err
	}
	ids, err := w.makeAgents(ctx, *agents)
	if err != nil {
		return false, err
	}
	load := startLoad(w, ids, *clients)
	began := time.Now()
	faults := inject(ctx, w, ids, rand.New(rand.NewPCG(*seed, 0)), *duration)
	load.stop()
	w.heal()
	sheet, err := check(ctx, w, ids, load)
	if err != nil {
		return false, err
	}
	sheet.print(faults, time.Since(began))
	return sheet.good(), nil
}
