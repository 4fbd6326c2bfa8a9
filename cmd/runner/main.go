// Command troupe-runner is the process inside an agent's pod: model loop, tools and file server of one agent. It is
// configured by its environment alone and holds no credential but the runtime key of its incarnation.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"troupe/cmd/runner/internal/serve"
)

// version is set by the build.
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		fmt.Println(version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "--idle" { // keeps the image on a node (deploy/chart)
		<-ctx.Done()
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := config(os.Environ())
	if err != nil {
		log.Error("configuration", "err", err)
		os.Exit(2)
	}
	cfg.Log = log
	switch err := serve.Run(ctx, cfg); {
	case errors.Is(err, serve.ErrReplaced):
		log.Info("replaced", "err", err)
		os.Exit(3)
	case err != nil && ctx.Err() == nil:
		log.Error("runner", "err", err)
		os.Exit(1)
	}
}

// config reads the environment of POD-3. The shell tool gets all of it but the runner's own credentials and settings.
func config(environ []string) (serve.Config, error) {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	c := serve.Config{API: env["SHINZO_INTERNAL_API_URL"], Key: env["SHINZO_API_KEY"], Base: env["ANTHROPIC_BASE_URL"], Home: env["HOME"],
		Workspace: env["WORKSPACE_PATH"], RunDir: env["TROUPE_RUN_DIR"], Listen: env["TROUPE_FILES_LISTEN"], EmptyMemory: env["TROUPE_EMPTY_MEMORY"] != "", Version: version, Headers: map[string]string{},
		NewID: func() string { return uuid.Must(uuid.NewV7()).String() }}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	for name, v := range map[string]string{"SHINZO_INTERNAL_API_URL": c.API, "SHINZO_API_KEY": c.Key, "ANTHROPIC_BASE_URL": c.Base, "HOME": c.Home, "WORKSPACE_PATH": c.Workspace} {
		if v == "" {
			return c, fmt.Errorf("%s is not set", name)
		}
	}
	for _, l := range strings.Split(env["ANTHROPIC_CUSTOM_HEADERS"], "\n") { // the SDK drops them when a key is set
		if k, v, ok := strings.Cut(l, ":"); ok {
			c.Headers[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	for _, kv := range environ {
		k, _, _ := strings.Cut(kv, "=")
		if k != "ANTHROPIC_API_KEY" && k != "SHINZO_API_KEY" && !strings.HasPrefix(k, "TROUPE_") {
			c.Env = append(c.Env, kv)
		}
	}
	return c, nil
}
