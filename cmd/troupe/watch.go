package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"troupe/http/client"
)

// agentWatch shows an agent's life as it happens.
func (c *cli) agentWatch() *cobra.Command {
	var types, after string
	var count int
	cmd := &cobra.Command{Use: "watch ID", Short: "Show an agent's life as it happens", Args: exactly(1),
		Long: "Follows the agent's event stream until it is interrupted, over restarts of nodes. With -o json each event is printed as one line.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			path := "/v1/agent/" + url.PathEscape(args[0])
			w := &watcher{out: printable{cmd.OutOrStdout()}, get: func(message string) string {
				ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
				defer cancel()
				var m struct{ Content string }
				_ = cl.Do(ctx, "GET", path+"/messages/"+url.PathEscape(message), nil, &m) // without its text, then
				return m.Content
			}}
			if types != "" {
				types = "?types=" + url.QueryEscape(types)
			}
			n := 0
			err = cl.Events(cmd.Context(), path+"/events"+types, after, func(e client.Event) bool {
				n++
				if c.output == "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s\n", e.Data)
				} else {
					w.show(e)
				}
				return count == 0 || n < count
			})
			if cmd.Context().Err() != nil { // interrupted: that is how it ends
				return nil
			}
			return err
		}}
	cmd.Flags().StringVar(&types, "types", "", "only these types of events, such as turn.*,message.reply")
	cmd.Flags().StringVar(&after, "after", "", "go on after this position")
	cmd.Flags().IntVar(&count, "count", 0, "end after so many events")
	return cmd
}

// watcher renders events for people.
type watcher struct {
	out io.Writer
	get func(message string) string // the text of a message
}

// happening is what the lines are made of; what an event does not have is empty.
type happening struct {
	Status     string
	Previous   string
	PodStatus  string `json:"pod_status"`
	Mode       string
	Reason     string
	EndReason  string   `json:"end_reason"`
	TurnID     string   `json:"turn_id"`
	MessageID  string   `json:"message_id"`
	MessageIDs []string `json:"message_ids"`
	Attempt    int
	Outcome    string
	ToolName   string `json:"tool_name"`
	Summary    string
	IsError    bool `json:"is_error"`
	Role       string
	Channel    string
	Balance    int64
	Count      int `json:"message_count"`
	Message    struct{ ID, Content string }
	Usage      struct {
		Input  int64 `json:"input_tokens"`
		Output int64 `json:"output_tokens"`
	}
}

// textWidth is how much of a message is shown.
const textWidth = 160

func (w *watcher) show(e client.Event) {
	var in struct {
		At   string
		Data happening
	}
	_ = json.Unmarshal(e.Data, &in) // what does not fit is left out
	d, at := in.Data, ""
	if t, err := time.Parse(time.RFC3339, in.At); err == nil {
		at = t.Local().Format("15:04:05.000")
	}
	noun, verb, _ := strings.Cut(e.Type, ".")
	if s := w.say(e.Type, &d); s != "" {
		fmt.Fprintf(w.out, "%s  %-8s %s\n", at, noun, strings.TrimSpace(verb+" "+s))
	}
}

// say is the line of an event without its time; "" leaves it out.
func (w *watcher) say(typ string, d *happening) string {
	switch typ {
	case "agent.status":
		return fmt.Sprintf("%s → %s%s", d.Previous, d.Status, because(d.Reason))
	case "agent.pod":
		return d.PodStatus + because(d.Reason)
	case "session.started":
		return d.Mode
	case "session.ended":
		return d.EndReason
	case "turn.started":
		return fmt.Sprintf("%s with %d message(s)", short(d.TurnID), len(d.MessageIDs))
	case "turn.resumed":
		return fmt.Sprintf("%s, attempt %d", short(d.TurnID), d.Attempt)
	case "turn.ended":
		return fmt.Sprintf("%s %s%s, %d tokens in, %d out", short(d.TurnID), d.Outcome, because(d.Reason), d.Usage.Input, d.Usage.Output)
	case "message.pending":
		return fmt.Sprintf("from %s: %s", d.Channel, clip(w.get(d.MessageID)))
	case "message.reply":
		return clip(d.Message.Content)
	case "message.failed":
		return short(d.MessageID) + because(d.Reason)
	case "message.delivered", "message.read":
		return "" // turn.started and turn.ended tell the same
	case "tool.started":
		return d.ToolName
	case "tool.finished":
		return d.ToolName + " " + d.Summary
	case "balance.changed":
		return fmt.Sprint("to ", d.Balance)
	case "reminder.sent":
		return fmt.Sprintf("of %d message(s)", d.Count)
	case "stream.gap":
		return "some events are no longer kept"
	}
	return " "
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// short is the end of an id, where ids of one moment differ.
func short(id string) string { return "…" + id[max(0, len(id)-6):] }

func clip(s string) string {
	r := []rune(strings.Join(strings.Fields(s), " "))
	if len(r) > textWidth {
		return string(r[:textWidth-1]) + "…"
	}
	return string(r)
}
