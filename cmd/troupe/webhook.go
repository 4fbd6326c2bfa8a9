package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"troupe/actors/agent"
	"troupe/http/client"
)

var deliveryColumns = []string{"id", "event", "status", "attempts", "url", "message_id", "created_at", "next_attempt_at", "last_status_code", "last_error"}

// webhookCommands manage the events that agents send.
func (c *cli) webhookCommands() *cobra.Command {
	s := &cobra.Command{Use: "webhook", Short: "Follow and repeat the events that agents send, and receive them"}
	s.AddCommand(c.webhookList(), c.webhookRotate(), c.webhookRedeliver(), c.webhookListen())
	return s
}

func deliveriesPath(id string) string {
	return "/v1/agent/" + url.PathEscape(id) + "/webhook-deliveries"
}

func (c *cli) webhookList() *cobra.Command {
	var status, event string
	var page int
	cmd := &cobra.Command{Use: "list AGENT", Short: "List deliveries, newest first", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		q := url.Values{"limit": {"100"}, "page": {fmt.Sprint(page)}}
		for name, v := range map[string]string{"status": status, "event": event} {
			if v != "" {
				q.Set(name, v)
			}
		}
		return c.call(cmd, "GET", deliveriesPath(args[0])+"?"+q.Encode(), nil, deliveryColumns...)
	}}
	cmd.Flags().StringVar(&status, "status", "", "only pending, delivered or dead ones")
	cmd.Flags().StringVar(&event, "event", "", "only those of one event: "+strings.Join(agent.WebhookEvents, ", "))
	cmd.Flags().IntVar(&page, "page", 1, "page of a hundred")
	return cmd
}

func (c *cli) webhookRotate() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{Use: "rotate AGENT", Short: "Make a new signing secret; it is shown once", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return c.call(cmd, "POST", "/v1/agent/"+url.PathEscape(args[0])+"/webhook-secret/rotate", map[string]any{"grace_seconds": int64(grace / time.Second)}, "webhook_secret", "previous_secret_expires_at")
	}}
	cmd.Flags().DurationVar(&grace, "grace", agent.DefaultGrace, "how long the former secret signs as well")
	return cmd
}

// webhookRedeliver sends one delivery again, or everything that was given up.
func (c *cli) webhookRedeliver() *cobra.Command {
	var dead bool
	cmd := &cobra.Command{Use: "redeliver AGENT (DELIVERY | --dead)", Short: "Send deliveries again", Args: cobra.RangeArgs(1, 2), RunE: func(cmd *cobra.Command, args []string) error {
		if dead == (len(args) == 2) {
			return usageError{errors.New("name one delivery, or --dead for all that were given up")}
		}
		again := func(id string) string { return deliveriesPath(args[0]) + "/" + url.PathEscape(id) + "/redeliver" }
		if !dead {
			return c.call(cmd, "POST", again(args[1]), nil, deliveryColumns...)
		}
		cl, err := c.connect()
		if err != nil {
			return err
		}
		do := func(method, path string, out any) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
			defer cancel()
			return cl.Do(ctx, method, path, nil, out)
		}
		var ids []string // all of them first: some may be given up again at once
		for page := 1; ; page++ {
			var got struct{ Deliveries []struct{ ID string } }
			if err := do("GET", fmt.Sprintf("%s?status=dead&limit=100&page=%d", deliveriesPath(args[0]), page), &got); err != nil {
				return err
			}
			for _, d := range got.Deliveries {
				ids = append(ids, d.ID)
			}
			if len(got.Deliveries) < 100 {
				break
			}
		}
		count, without := 0, 0
		for _, id := range ids {
			err := do("POST", again(id), nil)
			var refused *client.Error
			switch {
			case errors.As(err, &refused) && refused.Status == http.StatusConflict: // no URL any more, or sent again by somebody else
				without++
			case err != nil:
				return fmt.Errorf("%d sent again, then %s: %w", count, id, err)
			default:
				count++
			}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries are sent again\n", count)
		if without > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d have no URL any more, or are pending already\n", without)
		}
		return nil
	}}
	cmd.Flags().BoolVar(&dead, "dead", false, "all that were given up")
	return cmd
}

// webhookListen is a receiver for a laptop.
func (c *cli) webhookListen() *cobra.Command {
	var listen, secretFile string
	var status int
	cmd := &cobra.Command{Use: "listen", Short: "Receive events here and verify their signatures", Args: exactly(0),
		Long: "Receives events, verifies their signatures and prints them, one a line; with -o json, their bodies.\n\nThe secret is read from TROUPE_WEBHOOK_SECRET or --secret-file. An event whose signature does not hold is answered 401, others 204\nor --status. The node must be allowed to call this address: troupe dev --allow-http --egress-allow 127.0.0.1",
		RunE: func(cmd *cobra.Command, args []string) error {
			secret := os.Getenv("TROUPE_WEBHOOK_SECRET")
			if secretFile != "" {
				b, err := os.ReadFile(secretFile)
				if err != nil {
					return usageError{err}
				}
				secret = strings.TrimSpace(string(b))
			}
			h := &listener{out: printable{cmd.OutOrStdout()}, json: c.output == "json", status: status}
			if secret != "" {
				var err error
				if h.check, err = standardwebhooks.NewWebhook(secret); err != nil {
					return usageError{errors.New("the secret must be whsec_ and base64")}
				}
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "listening on http://%s\n", l.Addr())
			srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8787", "address to listen on")
	cmd.Flags().StringVar(&secretFile, "secret-file", "", "file with the signing secret")
	cmd.Flags().IntVar(&status, "status", http.StatusNoContent, "what to answer, to see what becomes of it")
	return cmd
}

// maxEvent is more than an event can have: a reply of 100000 code points, escaped, and metadata.
const maxEvent = 4 << 20

type listener struct {
	out    io.Writer
	json   bool
	status int
	check  *standardwebhooks.Webhook // nil: signatures are not checked
	mu     sync.Mutex
}

// ServeHTTP takes one event.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	verdict, status := "not verified", l.status
	if l.check != nil {
		verdict = "verified"
		if err := l.check.Verify(body, r.Header); err != nil {
			verdict, status = "REFUSED: "+err.Error(), http.StatusUnauthorized
		}
	}
	var e struct {
		Event   string
		Message string `json:"message_id"`
		Content string
		Error   string
	}
	_ = json.Unmarshal(body, &e) // what is no event shows as empty
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.json {
		fmt.Fprintln(l.out, string(body))
	} else {
		fmt.Fprintln(l.out, strings.Join([]string{time.Now().Format(time.TimeOnly), e.Event, r.Header.Get(standardwebhooks.HeaderWebhookID), verdict, e.Message, oneLine(e.Content + e.Error)}, "  "))
	}
	w.WriteHeader(status)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return s
}
