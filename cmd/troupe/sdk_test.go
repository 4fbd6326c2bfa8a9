package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// TestTheGoSDKAgainstTheGateway drives the gateway with the official Go SDK, unmodified: streaming, tool use, errors.
func TestTheGoSDKAgainstTheGateway(t *testing.T) {
	w := startWorld(t, func(c *Config) { c.Sandbox = "off" })
	id := w.agent(nil)
	key := w.runtimeKey(id)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	connect := func(key string) anthropic.Client {
		return anthropic.NewClient(option.WithBaseURL(w.base+"/v1/llm/anthropic"), option.WithAPIKey(key), option.WithMaxRetries(0))
	}
	client := connect(key)
	ask := func(text string) anthropic.MessageNewParams {
		return anthropic.MessageNewParams{Model: "claude-sonnet-4-5", MaxTokens: 500, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))}}
	}
	msg, err := client.Messages.New(ctx, ask("!say plain"))
	if err != nil || msg.Content[0].Text != "[rehearsal model] plain" || msg.StopReason != anthropic.StopReasonEndTurn || msg.Usage.OutputTokens == 0 {
		t.Fatalf("%+v %v", msg, err)
	}
	stream := client.Messages.NewStreaming(ctx, ask("!say streamed\n!tokens 80"))
	var whole anthropic.Message
	var text strings.Builder
	for stream.Next() {
		e := stream.Current()
		if err := whole.Accumulate(e); err != nil {
			t.Fatal(err)
		}
		if d, ok := e.AsAny().(anthropic.ContentBlockDeltaEvent); ok {
			text.WriteString(d.Delta.Text)
		}
	}
	if err := stream.Err(); err != nil || whole.Content[0].Text != text.String() || whole.Usage.OutputTokens != 80 {
		t.Errorf("%v %q %+v", err, text.String(), whole.Usage)
	}

	tools := ask("!tool lookup {\"id\":7}\n!say found it")
	tools.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "lookup", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"id": map[string]any{"type": "integer"}}}}}}
	first, err := client.Messages.New(ctx, tools)
	if err != nil || first.StopReason != anthropic.StopReasonToolUse || first.Content[0].Name != "lookup" || string(first.Content[0].Input) != `{"id":7}` {
		t.Fatalf("%+v %v", first, err)
	}
	tools.Messages = append(tools.Messages, first.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(first.Content[0].ID, "seven", false)))
	if second, err := client.Messages.New(ctx, tools); err != nil || second.Content[0].Text != "[rehearsal model] found it" {
		t.Errorf("%+v %v", second, err)
	}
	count, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: "claude-sonnet-4-5", Messages: tools.Messages})
	if err != nil || count.InputTokens == 0 {
		t.Errorf("%+v %v", count, err)
	}
	refused := func(err error, status int, kind string) {
		t.Helper()
		var e *anthropic.Error
		var body struct{ Error struct{ Type string } }
		if !errors.As(err, &e) || e.StatusCode != status || json.Unmarshal([]byte(e.RawJSON()), &body) != nil || body.Error.Type != kind {
			t.Errorf("%v, not %d %s", err, status, kind)
		}
	}
	wrong := connect("trk_wrong")
	_, err = wrong.Messages.New(ctx, ask("!say x"))
	refused(err, 401, "authentication_error")
	_, err = client.Messages.New(ctx, ask("!fail 429"))
	refused(err, 429, "rate_limit_error")
	_, err = client.Messages.New(ctx, ask("!overflow"))
	refused(err, 400, "invalid_request_error")
	broken := client.Messages.NewStreaming(ctx, ask("!fail 529"))
	for broken.Next() {
	}
	refused(broken.Err(), 529, "overloaded_error")
	w.want(w.call("POST", "/v1/agent/"+id+"/balance", map[string]any{"type": "set", "amount": 0}), 200)
	_, err = client.Messages.New(ctx, ask("!say x"))
	refused(err, 402, "billing_error")
}
