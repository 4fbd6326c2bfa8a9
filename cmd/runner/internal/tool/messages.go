package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"troupe/actors/agent"
	"troupe/http/runnerproto"
)

func messageTools() []Tool {
	return []Tool{
		{"list_messages", "List messages of your history, or those still waiting in your queue.",
			schema(nil, `{"pending":{"type":"boolean"},"limit":{"type":"integer","minimum":1,"maximum":100},"before":{"type":"string"},"counterparty_uuid":{"type":"string"}}`), of(listMessages)},
		{"read_message", "Read one message in full.", schema([]string{"id"}, `{"id":{"type":"string"}}`), of(readMessage)},
		{"mark_messages", "Take waiting messages into the present turn, or mark messages as read.",
			schema([]string{"ids"}, `{"ids":{"type":"array","items":{"type":"string"}},"read":{"type":"boolean"}}`), of(markMessages)},
		{"reply", "Answer one message now. Without this tool, your final text answers the last message.",
			schema([]string{"message_id", "content"}, `{"message_id":{"type":"string"},"content":{"type":"string"}}`), of(sendReply)},
		{"send_message", "Send a message to a user or agent listed by list_entities.",
			schema([]string{"type", "uuid", "content"}, `{"type":{"type":"string","enum":["user","agent"]},"uuid":{"type":"string"},"content":{"type":"string"},"interrupt":{"type":"boolean"}}`), of(sendMessage)},
		{"list_entities", "List the users and agents whom you may message.", schema(nil, `{}`), of(listEntities)},
		{"ask_for_input", "Ask the user for something you cannot go on without. The turn ends with your question; the answer comes as a new message.",
			schema([]string{"question"}, `{"question":{"type":"string"}}`), of(askForInput)},
		{"report_step", "Tell how far a long piece of work has come. People who wait for it see the newest report.",
			schema([]string{"current_step"}, `{"current_step":{"type":"string","maxLength":500},"steps_completed":{"type":"integer","minimum":0},"total_steps":{"type":"integer","minimum":0}}`), of(reportStep)},
		{"set_result", "Set the structured result of the present work, for the program that asked for it. Your final text is still the reply.",
			schema([]string{"result"}, `{"result":{"type":"object"}}`), of(setResult)},
	}
}

type listMessagesInput struct {
	Pending bool   `json:"pending"`
	Limit   int    `json:"limit"`
	Before  string `json:"before"`
	Party   string `json:"counterparty_uuid"`
}

func listMessages(h *Host, ctx context.Context, _ *Call, in listMessagesInput) (string, error) {
	var list runnerproto.MessageList
	var err error
	if in.Pending {
		list, err = h.Client.Pending(ctx)
	} else {
		q := url.Values{"order": {"desc"}, "limit": {strconv.Itoa(max(in.Limit, 20))}}
		if in.Before != "" {
			q.Set("before", in.Before)
		}
		if in.Party != "" {
			q.Set("counterparty_uuid", in.Party)
		}
		list, err = h.Client.Messages(ctx, q)
	}
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range list.Messages {
		text := []rune(strings.ReplaceAll(m.Content, "\n", " "))
		if len(text) > 200 {
			text = append(text[:200], '…')
		}
		fmt.Fprintf(&b, "%s %s %s from %s (%s): %s\n", m.ID, m.CreatedAt, m.Status, m.SenderName, m.Channel, string(text))
	}
	if list.HasMore {
		b.WriteString("… more\n")
	}
	return b.String(), nil
}

func readMessage(h *Host, ctx context.Context, _ *Call, in struct{ ID string }) (string, error) {
	m, err := h.Client.Message(ctx, in.ID)
	if err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(m, "", " ")
	return string(b), err
}

func markMessages(h *Host, ctx context.Context, c *Call, in struct {
	IDs  []string `json:"ids"`
	Read bool     `json:"read"`
}) (string, error) {
	r, err := h.Client.Mark(ctx, runnerproto.MarkRequest{MessageIDs: in.IDs, TurnID: c.Turn}, in.Read)
	return fmt.Sprintf("%d changed, ignored: %v", r.Updated, r.Ignored), err
}

func sendReply(h *Host, ctx context.Context, c *Call, in struct {
	MessageID string `json:"message_id"`
	Content   string `json:"content"`
}) (string, error) {
	m, err := h.Client.Send(ctx, runnerproto.SendRequest{Content: in.Content, ReplyToID: in.MessageID, TurnID: c.Turn}, c.key())
	if err != nil {
		return "", err
	}
	return "Sent as " + m.ID, nil
}

func sendMessage(h *Host, ctx context.Context, c *Call, in struct {
	Type, UUID, Content string
	Interrupt           bool
}) (string, error) {
	r := runnerproto.SendRequest{Content: in.Content, Recipient: &runnerproto.Recipient{Type: in.Type, UUID: in.UUID}, TurnID: c.Turn}
	if in.Interrupt {
		r.QueueMode = "interrupt"
	}
	m, err := h.Client.Send(ctx, r, c.key())
	if err != nil {
		return "", err
	}
	return "Sent as " + m.ID, nil
}

func listEntities(h *Host, ctx context.Context, _ *Call, _ struct{}) (string, error) {
	list, err := h.Client.Entities(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s %s %q on %s\n", e.Type, e.UUID, e.Name, e.Channel)
	}
	return b.String(), nil
}

func reportStep(_ *Host, _ context.Context, c *Call, in struct {
	Current   string `json:"current_step"`
	Completed *int64 `json:"steps_completed"`
	Total     *int64 `json:"total_steps"`
}) (string, error) {
	if strings.TrimSpace(in.Current) == "" || len([]rune(in.Current)) > 500 || in.Completed != nil && *in.Completed < 0 || in.Total != nil && *in.Total < 0 {
		return "", errors.New("current_step needs 1 to 500 characters, and the numbers must not be negative")
	}
	if c.Step != nil {
		c.Step(in.Current, in.Completed, in.Total)
	}
	return "Noted", nil
}

func setResult(_ *Host, _ context.Context, c *Call, in struct {
	Result map[string]json.RawMessage `json:"result"`
}) (string, error) {
	b, err := json.Marshal(in.Result)
	if err != nil || in.Result == nil {
		return "", errors.New("result must be an object")
	}
	if len(b) > agent.MaxResult {
		return "", fmt.Errorf("result has %d bytes, %d are allowed", len(b), agent.MaxResult)
	}
	c.Result = b
	return "Set", nil
}

func askForInput(_ *Host, _ context.Context, c *Call, in struct{ Question string }) (string, error) {
	if strings.TrimSpace(in.Question) == "" {
		return "", errors.New("question is needed")
	}
	c.Await = true
	return in.Question, nil
}
