package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"troupe/actors/cron"
)

var scheduleColumns = []string{"uuid", "name", "cron_expression", "timezone", "enabled", "next_run_at", "last_run_at", "execution_count"}

// scheduleCommands manage the schedules of an agent.
func (c *cli) scheduleCommands() *cobra.Command {
	s := &cobra.Command{Use: "schedule", Short: "Let agents get messages at times"}
	at := func(args []string) string {
		p := "/v1/agent/" + url.PathEscape(args[0]) + "/schedules"
		if len(args) > 1 {
			p += "/" + url.PathEscape(args[1])
		}
		return p
	}
	one := func(use, short, method, tail string, columns ...string) *cobra.Command {
		return &cobra.Command{Use: use + " AGENT SCHEDULE", Short: short, Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, method, at(args)+tail, nil, columns...)
		}}
	}
	s.AddCommand(c.scheduleCreate(at), c.scheduleNext(at),
		&cobra.Command{Use: "list AGENT", Short: "List the schedules of an agent", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "GET", at(args)+"?limit=100", nil, scheduleColumns...)
		}},
		one("get", "Show a schedule", "GET", "", append(scheduleColumns, "message_template", "created_at", "updated_at")...),
		one("toggle", "Switch a schedule off or on", "POST", "/toggle", "uuid", "name", "enabled", "next_run_at"),
		one("delete", "Delete a schedule with its history", "DELETE", "", "message"),
		one("runs", "List what became of its slots, newest first", "GET", "/executions?limit=100", "scheduled_for", "executed_at", "status", "message_uuid", "missed_count", "error"),
	)
	return s
}

func (c *cli) scheduleCreate(at func([]string) string) *cobra.Command {
	var zone, name string
	cmd := &cobra.Command{Use: "create AGENT EXPRESSION MESSAGE", Short: "Make a schedule", Args: exactly(3),
		Example: `  troupe schedule create ID "0 9 * * 1-5" "Write the digest for {{date}}." --timezone Europe/Berlin`, RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{"name": name, "cron_expression": args[1], "message_template": args[2], "timezone": zone}
			if name == "" {
				body["name"] = args[1]
			}
			return c.call(cmd, "POST", at(args[:1]), body, scheduleColumns...)
		}}
	cmd.Flags().StringVar(&zone, "timezone", "UTC", "IANA time zone of the expression")
	cmd.Flags().StringVar(&name, "name", "", "name; the expression if empty")
	return cmd
}

// scheduleNext shows coming slots: of a schedule, or of an expression that is none yet.
func (c *cli) scheduleNext(at func([]string) string) *cobra.Command {
	var zone string
	var n int
	cmd := &cobra.Command{Use: "next (AGENT SCHEDULE | EXPRESSION)", Short: "Show the coming slots", Args: cobra.RangeArgs(1, 2),
		Example: "  troupe schedule next \"30 2 * * *\" --timezone Europe/Berlin -n 10", RunE: func(cmd *cobra.Command, args []string) error {
			expression := args[0]
			if len(args) == 2 {
				cl, err := c.connect()
				if err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
				defer cancel()
				var got struct {
					Cron string `json:"cron_expression"`
					Zone string `json:"timezone"`
				}
				if err := cl.Do(ctx, "GET", at(args), nil, &got); err != nil {
					return err
				}
				expression, zone = got.Cron, got.Zone
			}
			expr, err := cron.Parse(expression)
			if err != nil {
				return usageError{fmt.Errorf("%q %w", expression, err)}
			}
			z, err := cron.Zone(zone)
			if err != nil {
				return usageError{fmt.Errorf("--timezone %w", err)}
			}
			if n < 1 || n > 1000 {
				return usageError{fmt.Errorf("-n must be from 1 to 1000, not %s", strconv.Itoa(n))}
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for x := expr.Next(time.Now(), z); !x.IsZero() && n > 0; x = expr.Next(x, z) {
				fmt.Fprintln(tw, strings.Join([]string{x.In(z).Format("Mon 2006-01-02 15:04 MST"), x.UTC().Format(time.RFC3339), "in " + time.Until(x).Round(time.Minute).String()}, "\t"))
				n--
			}
			return tw.Flush()
		}}
	cmd.Flags().StringVar(&zone, "timezone", "UTC", "IANA time zone of an expression")
	cmd.Flags().IntVarP(&n, "count", "n", 5, "how many")
	return cmd
}
