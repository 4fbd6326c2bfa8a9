// Package tool holds the tools that the model may call: the shell, files, memory, and messages. A tool returns text for
// the model and whether it is an error; it never fails the turn. Output is bounded.
package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"troupe/cmd/runner/internal/workspace"
	"troupe/http/runnerproto"
)

// Limits of what a tool gives back to the model.
const (
	MaxOutput    = 64 << 10 // bytes
	shellDefault = 2 * time.Minute
	shellLongest = 30 * time.Minute
)

// Host is what the tools work on.
type Host struct {
	Workspace   *workspace.Workspace
	Home        string
	Client      *runnerproto.Client
	Env         []string
	MemoryBytes int64 // limit of the memory directory
	FlatMemory  bool
}

// Call is one call of a tool within a turn.
type Call struct {
	Turn string // id of the turn
	ID   string // id of the tool call, used to make repeats safe
	// Await is set by ask_for_input: the turn ends waiting for the user.
	Await bool
	// Result is set by set_result: the structured result of the turn, a JSON object.
	Result json.RawMessage
	// Step, if not nil, reports how far the work has come.
	Step func(current string, completed, total *int64)
}

// key makes a message that the call sends safe to repeat. A model may use the same id again in another turn.
func (c *Call) key() string { return c.Turn + "/" + c.ID }

// Tool is one tool.
type Tool struct {
	Name        string
	Description string
	Schema      json.RawMessage // of the input: properties and required
	run         func(h *Host, ctx context.Context, c *Call, in json.RawMessage) (string, error)
}

// New returns a tool that comes from outside this package.
func New(name, description string, schema json.RawMessage, run func(ctx context.Context, in json.RawMessage) (out string, failed bool)) Tool {
	return Tool{name, description, schema, func(_ *Host, ctx context.Context, _ *Call, in json.RawMessage) (string, error) {
		out, failed := run(ctx, in)
		if failed {
			return "", failure(out)
		}
		return out, nil
	}}
}

// failure is a text for the model that says itself that it is an error.
type failure string

func (f failure) Error() string { return string(f) }

// Run calls the tool.
func (t *Tool) Run(ctx context.Context, h *Host, c *Call, in json.RawMessage) (out string, isError bool) {
	text, err := t.run(h, ctx, c, in)
	if err != nil {
		if f, told := err.(failure); told {
			return clip(string(f)), true
		}
		return clip("Error: " + err.Error()), true
	}
	if text == "" {
		text = "(no output)"
	}
	return clip(text), false
}

// clip keeps the beginning and the end of a long text.
func clip(s string) string {
	if len(s) <= MaxOutput {
		return s
	}
	half := MaxOutput/2 - 64
	return s[:half] + fmt.Sprintf("\n… [%d bytes left out] …\n", len(s)-2*half) + s[len(s)-half:]
}

// of adapts a function with typed input.
func of[T any](f func(h *Host, ctx context.Context, c *Call, in T) (string, error)) func(*Host, context.Context, *Call, json.RawMessage) (string, error) {
	return func(h *Host, ctx context.Context, c *Call, raw json.RawMessage) (string, error) {
		var in T
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &in); err != nil {
				return "", fmt.Errorf("the input does not fit the schema: %w", err)
			}
		}
		return f(h, ctx, c, in)
	}
}

func schema(required []string, properties string) json.RawMessage {
	req, _ := json.Marshal(required)
	if required == nil {
		req = []byte("[]")
	}
	return json.RawMessage(`{"type":"object","properties":` + properties + `,"required":` + string(req) + `}`)
}

// All lists the tools in the order in which the model sees them.
func All() []Tool {
	return append(append(shellAndFiles(), memoryTools()...), messageTools()...)
}
