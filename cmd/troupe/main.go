// Command troupe is a node of the control plane (serve, dev) and the client of its API (agent, message, key …).
package main

import (
	_ "time/tzdata" // images without time zones know them too (SCHED-4)

	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func main() {
	root := &cobra.Command{Use: "troupe", Short: "Run and manage AI agents", Version: version, SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(serveCommand(), devCommand())
	addClientCommands(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "troupe: "+err.Error())
		os.Exit(exitCode(err))
	}
}

// Exit codes of the command line.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitAuth     = 4
	exitConflict = 5
	exitTimeout  = 6
)

type usageError struct{ error }

func exitCode(err error) int {
	var u usageError
	var c coder
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &c):
		return c.Exit()
	}
	return exitFailed
}

// coder is an error that knows its exit code.
type coder interface {
	error
	Exit() int
}
