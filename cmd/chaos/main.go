// Command chaos runs a cluster under load and breaks it on purpose: nodes are killed, frozen, stopped, cut off and joined, runners
// are killed, Redis is restarted, fails over, and its clock jumps. Afterwards it reads the whole history and prints a balance
// sheet; it exits 1 if an accepted message was lost or completed twice, or a turn stayed open too long. The seed is printed:
// the same seed draws the same faults.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

var (
	bin      = flag.String("bin", "bin", "directory of troupe and troupe-runner")
	shapes   = flag.String("store", single, "shape of Redis: single, sentinel or cluster; several, separated by commas, share the time")
	nodes    = flag.Int("nodes", 3, "nodes")
	agents   = flag.Int("agents", 16, "agents")
	clients  = flag.Int("clients", 12, "concurrent senders")
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
	list := strings.Split(*shapes, ",")
	good := true
	for _, shape := range list {
		ok, err := run(ctx, shape, *duration/time.Duration(len(list)))
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
		}
		good = good && ok && err == nil
		if ctx.Err() != nil {
			break
		}
	}
	stop()
	if !good {
		os.Exit(1)
	}
}

func run(ctx context.Context, shape string, limit time.Duration) (bool, error) {
	fmt.Printf("seed %d, store %s, %d nodes, %d agents, %d senders, %s\n", *seed, shape, *nodes, *agents, *clients, limit)
	w, err := newWorld(ctx, shape, *nodes)
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
	load, refused := startLoad(w, ids, *clients), w.countRefused()
	began := time.Now()
	faults := inject(ctx, w, ids, rand.New(rand.NewPCG(*seed, 0)), limit)
	load.stop()
	w.heal()
	sheet, err := check(ctx, w, ids, load)
	if err != nil {
		return false, err
	}
	sheet.refused = refused()
	sheet.problems = append(sheet.problems, faults.problems...)
	sheet.print(faults, time.Since(began))
	return sheet.good() && len(faults.problems) == 0, nil
}
