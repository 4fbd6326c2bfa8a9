package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func serveCommand() *cobra.Command {
	return nodeCommand("serve", "Run a node of the control plane", `Runs one node. Several nodes that share one store form a cluster.
Every option can be given as an environment variable; see --help.`, false)
}

func devCommand() *cobra.Command {
	return nodeCommand("dev", "Run everything on this machine", `Runs one node with everything embedded: the store in a directory, agents as local
processes, and the rehearsal model unless a key is given. Makes an API key at first start.`, true)
}

func nodeCommand(use, short, long string, dev bool) *cobra.Command {
	cfg, envErr := readConfig()
	cfg.dev = dev
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if envErr != nil {
			return usageError{envErr}
		}
		if err := cfg.finish(); err != nil {
			return usageError{err}
		}
		return runNode(cfg)
	}}
	configFlags(cmd.Flags(), &cfg)
	return cmd
}

// configFlags makes one flag per field of the configuration that has a name for it; secrets have none.
func configFlags(fs *pflag.FlagSet, cfg *Config) {
	v, t := reflect.ValueOf(cfg).Elem(), reflect.TypeOf(*cfg)
	for i := range t.NumField() {
		name, help := t.Field(i).Tag.Get("flag"), t.Field(i).Tag.Get("help")+" ("+t.Field(i).Tag.Get("env")+")"
		if name == "" {
			continue
		}
		switch p := v.Field(i).Addr().Interface().(type) {
		case *string:
			fs.StringVar(p, name, *p, help)
		case *int:
			fs.IntVar(p, name, *p, help)
		case *int64:
			fs.Int64Var(p, name, *p, help)
		case *bool:
			fs.BoolVar(p, name, *p, help)
		case *time.Duration:
			fs.DurationVar(p, name, *p, help)
		case *[]string:
			fs.StringSliceVar(p, name, *p, help)
		default:
			panic("no flag for " + name)
		}
	}
}

func runNode(cfg Config) error {
	level, _ := cfg.level() // checked by finish
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if !cfg.dev {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	log.Debug("configuration", cfg.redacted()...)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	pacing := make(chan struct{})
	pace, endPace := context.WithCancel(context.Background())
	go func() { defer close(pacing); paceHeap(pace) }()
	defer func() { endPace(); <-pacing }()
	for again := false; ; again = true {
		lost, err := serveOnce(ctx, cfg, log, again)
		switch {
		case err != nil && again && ctx.Err() == nil: // what took the lease may be away still
			log.Error("the node does not start anew yet", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		case err != nil || !lost:
			return err
		default:
			log.Warn("the member lease was lost; the node starts anew")
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// serveOnce runs one node until it is asked to stop, or until it has lost its lease: then everything it held in memory is
// void, and a new member takes its place in the same process (FENCE-1).
func serveOnce(ctx context.Context, cfg Config, log *slog.Logger, again bool) (lost bool, err error) {
	started := time.Now()
	open, cancel := context.WithTimeout(ctx, 15*time.Second)
	n, err := startNode(open, cfg, log)
	cancel()
	if err != nil {
		return false, err
	}
	if again {
		log.Info("listening", "addr", n.addr)
	} else {
		n.announce(time.Since(started))
	}
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case <-n.lost:
		lost = true
	}
	n.stop()
	return lost, nil
}

// announce prints where the node is and what it uses. In dev this is for people, on stdout.
func (n *node) announce(took time.Duration) {
	model := n.upstream()
	n.log.Info("listening", "addr", n.addr, "model", model, "agents", n.runtime.Describe(), "took", took.Round(time.Millisecond))
	if !n.cfg.dev {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "troupe %s is ready at %s (%s)\n", version, n.baseURL(), took.Round(time.Millisecond))
	if n.cfg.BootstrapKey == "" {
		fmt.Fprintf(&b, "  API key:  %s\n", filepath.Join(n.cfg.DataDir, "api.key"))
	}
	fmt.Fprintf(&b, "  data:     %s\n  model:    %s\n  agents:   %s\n", n.cfg.DataDir, model, n.runtime.Describe())
	fmt.Print(b.String())
}
