package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"troupe/http/client"
)

// cli is what every client command shares.
type cli struct {
	server, key, output string
	timeout             time.Duration
}

// addClientCommands adds the noun-verb commands of the API.
func addClientCommands(root *cobra.Command) {
	c := &cli{}
	f := root.PersistentFlags()
	f.StringVar(&c.server, "server", envOr("TROUPE_SERVER", "http://127.0.0.1:8080"), "base URL of the API (TROUPE_SERVER)")
	f.StringVar(&c.key, "key-file", "", "file with the platform key; TROUPE_API_KEY or the key of troupe dev otherwise")
	f.StringVarP(&c.output, "output", "o", "table", "table or json")
	f.DurationVar(&c.timeout, "timeout", 90*time.Second, "give up after this time")
	root.AddCommand(c.agentCommands(), c.messageCommands(), c.scheduleCommands(), c.triggerCommands(), c.webhookCommands(), c.channelCommands(), c.keyCommands())
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// connect finds the credential: the file that was named, TROUPE_API_KEY, or the key that troupe dev made.
func (c *cli) connect() (*client.Client, error) {
	if c.output != "table" && c.output != "json" {
		return nil, usageError{fmt.Errorf("--output must be table or json")}
	}
	path := c.key
	if path == "" {
		if k := os.Getenv("TROUPE_API_KEY"); k != "" {
			return client.New(c.server, k), nil
		}
		dir := os.Getenv("TROUPE_DATA_DIR")
		if dir == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, err
			}
			dir = filepath.Join(home, ".troupe")
		}
		path = filepath.Join(dir, "api.key")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("no platform key: set TROUPE_API_KEY or --key-file (%w)", err)}
	}
	return client.New(c.server, strings.TrimSpace(string(b))), nil
}

// timeoutError is a call that did not end in time.
type timeoutError struct{ error }

func (timeoutError) Exit() int { return exitTimeout }

// call makes one request and prints the answer: JSON as it is, or the columns of a table.
func (c *cli) call(cmd *cobra.Command, method, path string, in any, columns ...string) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	var raw []byte
	if err := cl.Do(ctx, method, path, in, &raw); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return timeoutError{err}
		}
		return err
	}
	return c.print(cmd.OutOrStdout(), raw, columns)
}

// printable keeps what others wrote (messages, names, tool results) from talking to the terminal: control characters are shown as dots.
type printable struct{ io.Writer }

// Write implements io.Writer.
func (p printable) Write(b []byte) (int, error) {
	clean := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return '·'
		}
		return r
	}, string(b))
	if _, err := io.WriteString(p.Writer, clean); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *cli) print(w io.Writer, raw []byte, columns []string) error {
	if c.output == "json" {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w, b.String())
		return err
	}
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(printable{w}, 0, 4, 2, ' ', 0)
	rows := list(doc)
	if rows == nil {
		for _, col := range columns {
			if v, ok := doc[col]; ok && v != nil {
				fmt.Fprintf(tw, "%s\t%v\n", col, cell(v))
			}
		}
		return tw.Flush()
	}
	fmt.Fprintln(tw, strings.ToUpper(strings.Join(columns, "\t")))
	for _, r := range rows {
		row, _ := r.(map[string]any)
		cells := make([]string, len(columns))
		for i, col := range columns {
			cells[i] = cell(row[col])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// list returns the one array member of an answer, nil if it has none.
func list(doc map[string]any) []any {
	for _, name := range []string{"agents", "messages", "keys", "schedules", "executions", "triggers", "deliveries", "bindings"} {
		if rows, ok := doc[name].([]any); ok {
			return rows
		}
	}
	return nil
}

func cell(v any) string {
	if v == nil {
		return "-"
	}
	s := fmt.Sprint(v)
	if m, ok := v.(map[string]any); ok {
		if content, ok := m["content"].(string); ok {
			return content
		}
		b, _ := json.Marshal(m)
		s = string(b)
	}
	s = strings.ReplaceAll(s, "\n", " ")
	if r := []rune(s); len(r) > 100 {
		s = string(r[:99]) + "…"
	}
	return s
}

// document reads a request body from a file (JSON or YAML) or from stdin.
func document(cmd *cobra.Command, file string) (map[string]any, error) {
	doc := map[string]any{}
	if file == "" {
		return doc, nil
	}
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(cmd.InOrStdin())
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, usageError{err}
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	return doc, nil
}

var agentColumns = []string{"id", "name", "status", "session_mode", "output_token_balance", "pvc_size", "created_at", "webhook_secret"}

func (c *cli) agentCommands() *cobra.Command {
	a := &cobra.Command{Use: "agent", Short: "Create, inspect and command agents"}
	one := func(use, short, method, path string, columns ...string) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, method, strings.ReplaceAll(path, "{id}", url.PathEscape(args[0])), nil, columns...)
		}}
	}
	a.AddCommand(c.agentCreate(), c.agentUpdate(), c.agentDelete(), c.agentBalance(), c.agentWatch(),
		&cobra.Command{Use: "list", Short: "List agents", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, "GET", "/v1/agent/list?limit=100", nil, "id", "name", "status", "message_count", "created_at")
		}},
		one("get", "Show an agent with its configuration", "GET", "/v1/agent/{id}", agentColumns...),
		one("summary", "Show status, tokens and counters", "GET", "/v1/agent/{id}/summary", "uuid", "name", "status", "output_token_balance", "total_output_tokens_used", "message_count"),
		one("ready", "Say whether a message would be processed right now", "GET", "/v1/agent/{id}/ready", "ready", "status", "pod_status", "last_heartbeat", "reason"),
		one("pause", "Pause an agent", "POST", "/v1/agent/{id}/pause", "message"),
		one("resume", "Bring an agent back to active", "POST", "/v1/agent/{id}/resume", "message"),
		one("stop", "Stop an agent and its pod", "POST", "/v1/agent/{id}/stop", "message"),
	)
	return a
}

func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func (c *cli) agentCreate() *cobra.Command {
	var file, prompt, mode string
	cmd := &cobra.Command{Use: "create [NAME]", Short: "Create an agent", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		doc, err := document(cmd, file)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			doc["name"] = args[0]
		}
		if prompt != "" {
			doc["system_prompt"] = prompt
		}
		if mode != "" {
			doc["session_mode"] = mode
		}
		return c.call(cmd, "POST", "/v1/agent/create", doc, agentColumns...)
	}}
	cmd.Flags().StringVarP(&file, "file", "f", "", "request body, JSON or YAML; - for stdin")
	cmd.Flags().StringVar(&prompt, "system-prompt", "", "system prompt")
	cmd.Flags().StringVar(&mode, "session-mode", "", "ephemeral or persistent")
	return cmd
}

func (c *cli) agentUpdate() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "update ID", Short: "Change an agent", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		doc, err := document(cmd, file)
		if err != nil {
			return err
		}
		return c.call(cmd, "POST", "/v1/agent/update/"+url.PathEscape(args[0]), doc, agentColumns...)
	}}
	cmd.Flags().StringVarP(&file, "file", "f", "-", "request body, JSON or YAML; - for stdin")
	return cmd
}

func (c *cli) agentDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete ID", Short: "Delete an agent for good", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return c.call(cmd, "POST", "/v1/agent/delete/"+url.PathEscape(args[0]), map[string]any{"force": force}, "message")
	}}
	cmd.Flags().BoolVar(&force, "force", false, "cancel a running turn")
	return cmd
}

func (c *cli) agentBalance() *cobra.Command {
	var set bool
	cmd := &cobra.Command{Use: "balance ID AMOUNT", Short: "Add to the token balance, or set it", Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return usageError{fmt.Errorf("AMOUNT must be an integer")}
		}
		typ := "increment"
		if set {
			typ = "set"
		}
		return c.call(cmd, "POST", "/v1/agent/"+url.PathEscape(args[0])+"/balance", map[string]any{"amount": n, "type": typ}, "previous_balance", "new_balance")
	}}
	cmd.Flags().BoolVar(&set, "set", false, "set the balance instead of adding to it")
	return cmd
}

func (c *cli) messageCommands() *cobra.Command {
	m := &cobra.Command{Use: "message", Short: "Talk to agents"}
	var wait int
	var interrupt bool
	send := &cobra.Command{Use: "send ID TEXT", Short: "Send a message; - reads it from stdin", Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
		text := args[1]
		if text == "-" {
			b, err := io.ReadAll(cmd.InOrStdin())
			if err != nil {
				return err
			}
			text = string(b)
		}
		body := map[string]any{"content": text}
		if interrupt {
			body["queue_mode"] = "interrupt"
		}
		path := "/v1/agent/" + url.PathEscape(args[0]) + "/messages"
		if wait > 0 {
			path += "?wait=" + strconv.Itoa(wait)
		}
		return c.call(cmd, "POST", path, body, "id", "status", "outcome", "failure_reason", "reply")
	}}
	send.Flags().IntVar(&wait, "wait", 0, "wait so many seconds for the reply (at most 60)")
	send.Flags().Lookup("wait").NoOptDefVal = "60"
	send.Flags().BoolVar(&interrupt, "interrupt", false, "interrupt a running turn")
	var limit int
	list := &cobra.Command{Use: "list ID", Short: "List messages", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return c.call(cmd, "GET", "/v1/agent/"+url.PathEscape(args[0])+"/messages?limit="+strconv.Itoa(limit), nil, "created_at", "role", "status", "outcome", "content")
	}}
	list.Flags().IntVar(&limit, "limit", 50, "messages per page")
	m.AddCommand(send, list)
	return m
}

// keyCommands need a login: platform keys cannot make platform keys (AUTH-2).
func (c *cli) keyCommands() *cobra.Command {
	k := &cobra.Command{Use: "key", Short: "Manage platform keys", Long: "Manages platform keys. These routes take a login only: put its token into TROUPE_API_KEY."}
	var email string
	login := &cobra.Command{Use: "login", Short: "Print a login token; the password is read from stdin", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<10))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
		defer cancel()
		var out struct{ Token string }
		if err := client.New(c.server, "").Do(ctx, "POST", "/auth/login", map[string]string{"email": email, "password": strings.TrimRight(string(b), "\r\n")}, &out); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), out.Token)
		return err
	}}
	login.Flags().StringVar(&email, "email", "", "e-mail of the account")
	k.AddCommand(login,
		&cobra.Command{Use: "create NAME", Short: "Make a key; it is shown this once", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "POST", "/auth/platform_keys", map[string]string{"name": args[0]}, "uuid", "name", "key")
		}},
		&cobra.Command{Use: "list", Short: "List keys", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, "GET", "/auth/platform_keys", nil, "uuid", "name", "prefix", "last_used_at", "status")
		}},
		&cobra.Command{Use: "delete UUID", Short: "Delete a key", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "DELETE", "/auth/platform_keys/"+url.PathEscape(args[0]), nil, "message", "deleted_at")
		}},
	)
	return k
}
