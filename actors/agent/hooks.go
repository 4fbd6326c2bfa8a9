package agent

import (
	"strconv"
	"strings"
)

// Hook names one of the texts that the control plane gives to the model.
type Hook string

// The hooks of HOOK-2.
const (
	HookReceived     Hook = "channel_message_received"
	HookReminder     Hook = "unread_message_reminder"
	HookInterrupt    Hook = "interrupt"
	HookRestart      Hook = "session_restart"
	HookSummarize    Hook = "compaction_summarize"
	HookContinuation Hook = "compaction_continuation"
	HookFallback     Hook = "session_resume_fallback"
)

type hookDefault struct {
	variables []string
	text      string
}

// hooks is the table of HOOK-2: variables offered and default text.
var hooks = map[Hook]hookDefault{
	HookReceived: {[]string{"message_count", "channel_sections", "message_ids"},
		"You have {{message_count}} new message(s).\n\n{{channel_sections}}\n\nMessage ids: {{message_ids}}. Answer every sender. " +
			"With more than one sender, answer each through the reply tool and name the message id."},
	HookReminder: {[]string{"message_count"},
		"Reminder: {{message_count}} message(s) are waiting unread. Bring your present step to a good stopping point, then read them."},
	HookInterrupt: {[]string{"message_count", "channel_sections"},
		"Your work was interrupted by {{message_count}} message(s). Handle them now; go back to the earlier work only if they leave room for it.\n\n{{channel_sections}}"},
	HookRestart: {nil,
		"Your environment was restarted and the last step may be incomplete. Look at the actual state of the workspace first, then carry on from there without repeating steps that have taken effect."},
	HookSummarize: {[]string{"transcript"},
		"Condense the conversation below so that the work can continue from your summary alone. Keep: open requests with their message ids, goals, decisions with reasons, facts about files and outside systems, unfinished steps, promises made. Drop pleasantries and abandoned attempts.\n\n{{transcript}}"},
	HookContinuation: {[]string{"summary"},
		"The conversation so far was condensed to this summary:\n\n{{summary}}\n\nContinue the work from here."},
	HookFallback: {nil,
		"Continue the task you were working on. If nothing is left to do, say so in one sentence."},
}

// HookNames lists the hooks in the order of the contract.
var HookNames = []string{string(HookReceived), string(HookReminder), string(HookInterrupt), string(HookRestart),
	string(HookSummarize), string(HookContinuation), string(HookFallback)}

// HookVariables returns the placeholders that hook offers.
func HookVariables(hook Hook) []string { return hooks[hook].variables }

// HookText returns the text of hook: the owner's, else the default.
func (c *Configuration) HookText(hook Hook) string {
	if t := c.Hooks[string(hook)]; t != "" {
		return t
	}
	return hooks[hook].text
}

// Prompt renders hook for a batch. Names gives the display name of a counterparty.
func (c *Configuration) Prompt(hook Hook, batch []Message) string {
	ids := make([]string, len(batch))
	for i, m := range batch {
		ids[i] = m.ID.String()
	}
	return RenderMap(c.HookText(hook), map[string]string{
		"message_count":    strconv.Itoa(len(batch)),
		"message_ids":      strings.Join(ids, ", "),
		"channel_sections": ChannelSections(batch),
	})
}

// ChannelSections renders one section per channel and counterparty, ordered by first message (HOOK-7). Every line of
// content is indented by four spaces, so content can never look like a heading.
func ChannelSections(batch []Message) string {
	type key struct {
		channel Channel
		party   string
	}
	var order []key
	sections := map[key]*strings.Builder{}
	for _, m := range batch {
		k := key{m.Channel, m.Counterparty}
		b, seen := sections[k]
		if !seen {
			b = &strings.Builder{}
			sections[k] = b
			order = append(order, k)
			b.WriteString("## " + string(m.Channel) + " · " + oneLine(m.PartyName))
		}
		b.WriteString("\n" + m.ID.String() + " · " + Stamp(m.CreatedMS))
		for _, line := range strings.Split(strings.ReplaceAll(m.Content, "\r\n", "\n"), "\n") {
			b.WriteString("\n    " + line)
		}
	}
	parts := make([]string, len(order))
	for i, k := range order {
		parts[i] = sections[k].String()
	}
	return strings.Join(parts, "\n\n")
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '\n', '\r', '\v', '\f', '\u0085', '\u2028', '\u2029':
			return ' '
		}
		return r
	}, s)
}
