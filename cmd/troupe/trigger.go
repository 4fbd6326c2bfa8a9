package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"troupe/actors/agent"
)

var triggerColumns = []string{"uuid", "name", "enabled", "webhook_url", "trigger_count", "last_triggered_at"}

// triggerCommands manage the addresses at which the outside can wake an agent.
func (c *cli) triggerCommands() *cobra.Command {
	s := &cobra.Command{Use: "trigger", Short: "Let calls from outside become messages to agents"}
	at := func(args []string) string {
		p := "/v1/agent/" + url.PathEscape(args[0]) + "/triggers"
		if len(args) > 1 {
			p += "/" + url.PathEscape(args[1])
		}
		return p
	}
	flip := func(use, short string, on bool) *cobra.Command {
		return &cobra.Command{Use: use + " AGENT TRIGGER", Short: short, Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "PATCH", at(args), map[string]any{"enabled": on}, triggerColumns...)
		}}
	}
	s.AddCommand(c.triggerCreate(at), c.triggerUpdate(at), c.triggerSend(),
		&cobra.Command{Use: "list AGENT", Short: "List the triggers of an agent", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "GET", at(args)+"?limit=100", nil, triggerColumns...)
		}},
		flip("enable", "Switch a trigger on", true), flip("disable", "Switch a trigger off: callers get 404", false),
		&cobra.Command{Use: "delete AGENT TRIGGER", Short: "Delete a trigger", Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "DELETE", at(args), nil, "message")
		}},
	)
	return s
}

func (c *cli) triggerCreate(at func([]string) string) *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "create AGENT TEMPLATE", Short: "Make a trigger; its secret is shown once", Args: exactly(2),
		Example: `  troupe trigger create ID "Issue {{payload.issue.number}} was opened: {{payload.issue.title}}" --name github`, RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "POST", at(args[:1]), map[string]any{"name": name, "message_template": args[1]}, append(triggerColumns, "webhook_secret")...)
		}}
	cmd.Flags().StringVar(&name, "name", "trigger", "name of the trigger")
	return cmd
}

func (c *cli) triggerUpdate(at func([]string) string) *cobra.Command {
	var name, template string
	cmd := &cobra.Command{Use: "update AGENT TRIGGER", Short: "Change a trigger", Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
		body := map[string]any{}
		for member, v := range map[string]string{"name": name, "message_template": template} {
			if v != "" {
				body[member] = v
			}
		}
		if len(body) == 0 {
			return usageError{errors.New("give --name or --template")}
		}
		return c.call(cmd, "PATCH", at(args), body, triggerColumns...)
	}}
	cmd.Flags().StringVar(&name, "name", "", "new name")
	cmd.Flags().StringVar(&template, "template", "", "new template")
	return cmd
}

// triggerSend calls a trigger as a sender outside would: with a signature, no platform key.
func (c *cli) triggerSend() *cobra.Command {
	var secretFile, id string
	cmd := &cobra.Command{Use: "send URL [JSON | -]", Short: "Call a trigger with a signed body, to try it", Args: cobra.RangeArgs(1, 2),
		Long:    "Calls a trigger the way GitHub does: X-Hub-Signature-256 over the body. The secret is read from TROUPE_TRIGGER_SECRET or --secret-file,\nthe body from the second argument, or from standard input where that is - or missing.",
		Example: `  TROUPE_TRIGGER_SECRET=whs_… troupe trigger send URL '{"issue":{"number":7}}'`, RunE: func(cmd *cobra.Command, args []string) error {
			secret := os.Getenv("TROUPE_TRIGGER_SECRET")
			if secretFile != "" {
				b, err := os.ReadFile(secretFile)
				if err != nil {
					return usageError{err}
				}
				secret = strings.TrimSpace(string(b))
			}
			if secret == "" {
				return usageError{errors.New("no secret: set TROUPE_TRIGGER_SECRET or --secret-file")}
			}
			var body []byte
			if len(args) == 2 && args[1] != "-" {
				body = []byte(args[1])
			} else {
				var err error
				if body, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), agent.MaxTriggerBody+1)); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "POST", args[0], bytes.NewReader(body))
			if err != nil {
				return usageError{err}
			}
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write(body)
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
			if id != "" {
				req.Header.Set("Idempotency-Key", id)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			if err != nil {
				return err
			}
			if res.StatusCode != http.StatusAccepted {
				return fmt.Errorf("the trigger answered %d: %s", res.StatusCode, oneLine(string(answer)))
			}
			return c.print(cmd.OutOrStdout(), answer, []string{"message", "message_id"})
		}}
	cmd.Flags().StringVar(&secretFile, "secret-file", "", "file with the trigger's secret")
	cmd.Flags().StringVar(&id, "id", "", "Idempotency-Key: a repeat with the same key changes nothing")
	return cmd
}
