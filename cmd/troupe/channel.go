package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"troupe/actors/agent"
)

// channelCommands link chat accounts to agents.
func (c *cli) channelCommands() *cobra.Command {
	s := &cobra.Command{Use: "channel", Short: "Link chat accounts to agents"}
	one := func(use, short, method, tail string, columns ...string) *cobra.Command {
		return &cobra.Command{Use: use + " AGENT CHANNEL", Short: short, Args: exactly(2), ValidArgsFunction: channelNames, RunE: func(cmd *cobra.Command, args []string) error {
			if !agent.Channel(args[1]).Chat() {
				return usageError{fmt.Errorf("the channel must be one of %s", strings.Join(names(), ", "))}
			}
			return c.call(cmd, method, "/v1/agent/"+url.PathEscape(args[0])+"/"+args[1]+tail, nil, columns...)
		}}
	}
	set := &cobra.Command{Use: "mode AGENT BINDING collect|interrupt", Short: "Say whether messages of an account interrupt the agent", Args: exactly(3), RunE: func(cmd *cobra.Command, args []string) error {
		return c.call(cmd, "PATCH", "/v1/agent/"+url.PathEscape(args[0])+"/channels/"+url.PathEscape(args[1]), map[string]any{"queue_mode": args[2]}, "id", "channel", "queue_mode")
	}}
	s.AddCommand(set,
		&cobra.Command{Use: "list AGENT", Short: "List the bindings of an agent", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, "GET", "/v1/agent/"+url.PathEscape(args[0])+"/channels", nil, "id", "channel", "status", "queue_mode", "created_at")
		}},
		one("link", "Make a code that the person sends to the bot", "POST", "/link", "code", "expires_at", "instructions"),
		one("status", "Say who is linked", "GET", "/status", "linked", "discord_username", "slack_username", "telegram_username", "whatsapp_username", "queue_mode"),
		one("unlink", "End a binding", "DELETE", "/unlink", "message"),
	)
	return s
}

func names() (out []string) {
	for _, c := range agent.ChatChannels {
		out = append(out, string(c))
	}
	return slices.Sorted(slices.Values(out))
}

func channelNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(), cobra.ShellCompDirectiveNoFileComp
}
