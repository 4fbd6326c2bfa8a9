// Package turn runs one turn: it gives the prompt to the model, carries out the tools it asks for, and reports the end.
//
// Everything that matters is in the transcript before it has an effect, so a turn that was cut is gone on with by the
// next process: an answer that was complete is reported, not asked for again; a tool call that was cut is told to the
// model as interrupted.
package turn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"

	"troupe/actors/agent"
	"troupe/cmd/runner/internal/tool"
	"troupe/cmd/runner/internal/transcript"
	"troupe/http/runnerproto"
)

// Limits of one turn.
const (
	maxSteps     = 500
	maxTokens    = 16384
	previewRunes = 4000
	maxReply     = 100000 // code points of one message
	summaryRunes = 500
	sdkRetries   = 4
	// waitForGateway is how long a broken model call is repeated before the turn fails.
	waitForGateway = 5 * time.Minute
)

// Runner runs turns one after another.
type Runner struct {
	Client *runnerproto.Client
	Nodes  *runnerproto.Nodes
	Host   *tool.Host
	Key    string
	Base   string            // ANTHROPIC_BASE_URL
	Header map[string]string // of ANTHROPIC_CUSTOM_HEADERS
	Log    *slog.Logger
	NewID  func() string
	// Outside are the tools that come from MCP servers; nil for none.
	Outside func(ctx context.Context, configVersion int64) []tool.Tool

	mu         sync.Mutex
	open       *transcript.Transcript // of a persistent session, kept between turns
	session    string
	remind     string
	condense   *Condense // a compaction that waits for a safe point
	condensing string    // id of the one that is in hand, or was done last
	working    bool      // a turn runs that will come to a safe point, or end without
}

// Remind leaves a reminder for the next safe point; a newer one replaces it (REM-4).
func (r *Runner) Remind(text string) {
	r.mu.Lock()
	r.remind = text
	r.mu.Unlock()
}

func (r *Runner) takeReminder() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.remind
	r.remind = ""
	return text
}

// basePrompt is what every agent is told besides its owner's prompt.
const basePrompt = `You are an autonomous agent. You have a workspace directory with a shell and file tools, a long-term memory, and an inbox of messages from people and other agents. Work until the request is done, then answer: your final text is sent as the reply to the last message. Look at the actual state of things before you rely on it, and say plainly what you could not do.`

func systemPrompt(s *runnerproto.Self) string {
	switch {
	case s.SystemPrompt == nil || *s.SystemPrompt == "":
		return basePrompt
	case s.SystemPromptType == "replace":
		return *s.SystemPrompt
	}
	return basePrompt + "\n\n" + *s.SystemPrompt
}

// Run runs a turn to its end and reports it. Ctx is cancelled with a cause: ErrCancelled for turn.cancel, anything else
// means that this process stops or is stale, and the turn is left open for the next one.
func (r *Runner) Run(ctx context.Context, t *runnerproto.Turn, self *runnerproto.Self) {
	p := newProgress(r.Client, t.TurnID)
	defer p.close()
	r.atWork(true)
	defer r.atWork(false)
	tr, err := r.load(ctx, t)
	if err != nil {
		r.Log.Error("transcript", "turn_id", t.TurnID, "err", err)
		r.report(ctx, t, runnerproto.EndRequest{Outcome: "failed", Reason: "internal", Error: "The transcript could not be opened"})
		return
	}
	if end, done := tr.Ended(t.TurnID); done {
		p.add(runnerproto.ProgressEntry{Kind: "accepted"})
		p.flush(ctx)
		r.report(ctx, t, endRequest(tr, end))
		return
	}
	if !tr.Prompted(t.TurnID, t.Attempt) {
		if err := tr.Prompt(t.TurnID, t.Attempt, t.Prompt); err != nil {
			r.report(ctx, t, runnerproto.EndRequest{Outcome: "failed", Reason: "internal", Error: "The transcript could not be written"})
			return
		}
	}
	p.add(runnerproto.ProgressEntry{Kind: "accepted"})
	p.flush(ctx)
	end := r.loop(ctx, t, self, tr, p)
	if r.open != nil {
		tr = r.open // condensed meanwhile
	}
	if end == nil { // this process stops, or the turn went elsewhere: it stays open, and is repaired when it is opened again
		r.close()
		return
	}
	p.flush(context.WithoutCancel(ctx))
	end.Result = tr.Result(t.TurnID)
	err = tr.End(t.TurnID, *end)
	if err != nil {
		r.Log.Error("transcript", "err", err)
	}
	r.report(ctx, t, endRequest(tr, *end))
	if t.Session.Mode != "persistent" || err != nil || end.Outcome != "completed" {
		r.close() // opened again, it is repaired
	}
}

// ErrCancelled is the cause of a context that turn.cancel has ended.
var ErrCancelled = errors.New("turn cancelled")

// load opens the session's transcript as the control plane asks (RUN-6, RUN-8).
func (r *Runner) load(ctx context.Context, t *runnerproto.Turn) (*transcript.Transcript, error) {
	if r.open != nil && r.session == t.Session.ID && t.Session.Start != "new" {
		return r.open, nil
	}
	r.close()
	id := ""
	if t.Session.SDKSessionID != nil {
		id = *t.Session.SDKSessionID
	}
	lost := t.Session.Start != "new" && id != "" && !transcript.Exists(r.Host.Home, id)
	if id == "" || lost || t.Session.Start == "new" {
		id = t.Session.ID // a session of ours has one transcript, so a repeated start finds it again
		if lost {
			id = r.NewID()
		}
	}
	tr, err := transcript.Open(r.Host.Home, id)
	if err != nil {
		return nil, err
	}
	r.open, r.session = tr, t.Session.ID
	if t.Session.SDKSessionID == nil || *t.Session.SDKSessionID != id {
		err := r.Client.Transcript(ctx, runnerproto.SDKSession{SessionID: t.Session.ID, SDKSessionID: id, Lost: lost})
		if err != nil && !runnerproto.Refused(err) {
			r.Log.Warn("transcript id not reported", "err", err) // the end of the turn carries it as well
		}
	}
	return tr, nil
}

func (r *Runner) close() {
	if r.open != nil {
		_ = r.open.Close()
		r.open, r.session = nil, ""
	}
}

func endRequest(tr *transcript.Transcript, e transcript.End) runnerproto.EndRequest {
	out := runnerproto.EndRequest{Outcome: e.Outcome, Reason: e.Reason, Error: e.Error, SDKSessionID: tr.ID, ContextTokens: e.Context, Result: e.Result}
	if text := runes(strings.ReplaceAll(e.Reply, "\x00", ""), maxReply); strings.TrimSpace(text) != "" {
		out.Replies = []runnerproto.Reply{{Content: text}}
	}
	return out
}

// report ends the turn at the control plane, again and again until it answers (RUN-9).
func (r *Runner) report(ctx context.Context, t *runnerproto.Turn, end runnerproto.EndRequest) {
	r.atWork(false)
	ctx = context.WithoutCancel(ctx)
	deadline := time.Now().Add(10 * time.Minute) // heartbeats go on meanwhile; a replaced runner is refused at once
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		res, err := r.Client.End(ctx, t.TurnID, end)
		if err == nil {
			r.Log.Info("turn ended", "turn_id", t.TurnID, "outcome", res.Outcome)
			return
		}
		var refusal *runnerproto.Error
		if errors.As(err, &refusal) && (refusal.Status == 400 || refusal.Status == 413) && len(end.Replies) > 0 {
			r.Log.Error("the answer was refused", "turn_id", t.TurnID, "err", err)
			end = runnerproto.EndRequest{Outcome: "failed", Reason: "internal", Error: "The answer was refused: " + refusal.Code, SDKSessionID: end.SDKSessionID}
			continue
		}
		if runnerproto.Refused(err) || time.Now().After(deadline) {
			r.Log.Warn("turn end refused", "turn_id", t.TurnID, "err", err)
			return
		}
		time.Sleep(pause)
	}
}

// client makes model calls for a turn, or, with nil, between turns.
func (r *Runner) client(t *runnerproto.Turn) anthropic.Client {
	opts := []option.RequestOption{
		option.WithBaseURL(r.Base), option.WithAPIKey(r.Key), option.WithMaxRetries(sdkRetries), option.WithHTTPClient(&http.Client{Transport: r.Nodes}),
		option.WithHeader(runnerproto.HeaderEpoch, strconv.FormatInt(r.Client.Epoch(), 10)),
	}
	if t != nil {
		opts = append(opts, option.WithHeader(runnerproto.HeaderTurn, t.TurnID))
	}
	for k, v := range r.Header {
		opts = append(opts, option.WithHeader(k, v))
	}
	return anthropic.NewClient(opts...)
}

// loop is the model loop. It returns nil if ctx ended for another reason than a cancel.
func (r *Runner) loop(ctx context.Context, t *runnerproto.Turn, self *runnerproto.Self, tr *transcript.Transcript, p *progress) *transcript.End {
	client := r.client(t)
	tools := tool.All()
	if r.Outside != nil {
		tools = append(tools, r.Outside(ctx, self.ConfigVersion)...)
	}
	var used int64
	for range maxSteps {
		if c := r.takeCompaction(); c != nil && c.Session == t.Session.ID {
			if fresh := r.compact(ctx, c, tr, t); fresh != tr {
				if res := tr.Result(t.TurnID); res != nil {
					if err := fresh.SetResult(t.TurnID, res); err != nil {
						r.Log.Error("transcript", "err", err)
					}
				}
				_ = tr.Close()
				tr, r.open = fresh, fresh
			}
		}
		if text := r.takeReminder(); text != "" {
			if err := tr.Append(t.TurnID, userText(text)); err != nil {
				return &transcript.End{Outcome: "failed", Reason: "internal", Error: err.Error()}
			}
		}
		open := tr
		msg, err := r.patient(ctx, func() (*anthropic.Message, error) { return r.ask(ctx, &client, self, open, tools, p) })
		if err != nil {
			if ctx.Err() != nil {
				return r.interrupted(ctx)
			}
			return modelFailure(err)
		}
		used = msg.Usage.InputTokens + msg.Usage.CacheReadInputTokens + msg.Usage.CacheCreationInputTokens
		content, err := json.Marshal(msg.ToParam().Content)
		if err == nil && len(msg.Content) > 0 {
			err = tr.Append(t.TurnID, transcript.Message{Role: "assistant", Content: content})
		}
		if err != nil {
			return &transcript.End{Outcome: "failed", Reason: "internal", Error: "The transcript could not be written"}
		}
		calls := toolCalls(msg)
		if len(calls) == 0 {
			return &transcript.End{Outcome: "completed", Reply: textOf(msg), Context: used}
		}
		p.add(runnerproto.ProgressEntry{Kind: "context", ContextTokens: used}) // of a last call, the end tells it
		if used >= agent.MinThreshold {
			p.flush(ctx) // a compaction may be due before the next call
		}
		results, question, ok := r.runTools(ctx, t, calls, tools, tr, p)
		if !ok {
			return r.interrupted(ctx) // the transcript is repaired when it is opened again
		}
		if err := tr.Append(t.TurnID, results); err != nil {
			return &transcript.End{Outcome: "failed", Reason: "internal", Error: "The transcript could not be written"}
		}
		if question != "" {
			return &transcript.End{Outcome: "awaiting_input", Reply: question, Context: used}
		}
	}
	return &transcript.End{Outcome: "failed", Reason: "agent_error", Error: fmt.Sprintf("The turn took more than %d steps", maxSteps)}
}

func (r *Runner) interrupted(ctx context.Context) *transcript.End {
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		return &transcript.End{Outcome: "cancelled", Reason: "cancelled"}
	}
	return nil
}

// unserved says whether it was the installation that could not serve the call, its store being away, not the model service.
func unserved(e *anthropic.Error) bool {
	return e.StatusCode == http.StatusServiceUnavailable && e.Response != nil && e.Response.Header.Get(runnerproto.HeaderCode) != ""
}

// patient repeats a model call whose connection broke: the node that carried it may be gone, and another one may take it
// (REC-8); so it does with calls that the installation could not serve. Answers of the service are final here; the SDK has
// repeated those that may be.
func (r *Runner) patient(ctx context.Context, ask func() (*anthropic.Message, error)) (*anthropic.Message, error) {
	deadline := time.Now().Add(waitForGateway)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		msg, err := ask()
		var api *anthropic.Error
		if err == nil || errors.As(err, &api) && !unserved(api) || time.Now().After(deadline) {
			return msg, err
		}
		r.Log.Warn("model call broke", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func modelFailure(err error) *transcript.End {
	end := &transcript.End{Outcome: "failed", Reason: "model_error", Error: err.Error()}
	var api *anthropic.Error
	if errors.As(err, &api) {
		end.Error = "The model service answered " + strconv.Itoa(api.StatusCode)
		switch {
		case api.StatusCode == http.StatusPaymentRequired:
			end.Reason = "balance_exhausted"
		case api.StatusCode == http.StatusBadRequest && strings.Contains(api.RawJSON(), "too long"):
			end.Reason = "context_overflow"
		}
	}
	if len(end.Error) > 2000 {
		end.Error = end.Error[:2000]
	}
	return end
}

// ask makes one model call, streaming.
func (r *Runner) ask(ctx context.Context, client *anthropic.Client, self *runnerproto.Self, tr *transcript.Transcript, tools []tool.Tool, p *progress) (*anthropic.Message, error) {
	joined, err := tr.Joined()
	if err != nil {
		return nil, err
	}
	params := anthropic.MessageNewParams{Model: anthropic.Model(self.Configuration.Model), MaxTokens: maxTokens,
		System: []anthropic.TextBlockParam{{Text: systemPrompt(self)}}}
	for _, m := range joined {
		raw, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		params.Messages = append(params.Messages, param.Override[anthropic.MessageParam](json.RawMessage(raw)))
	}
	for i := range tools {
		raw, err := json.Marshal(map[string]any{"name": tools[i].Name, "description": tools[i].Description, "input_schema": tools[i].Schema})
		if err != nil {
			return nil, err
		}
		tp := param.Override[anthropic.ToolParam](json.RawMessage(raw))
		params.Tools = append(params.Tools, anthropic.ToolUnionParam{OfTool: &tp})
	}
	msg, err := r.stream(ctx, client, params)
	if err == nil {
		if text := textOf(msg); text != "" {
			p.add(runnerproto.ProgressEntry{Kind: "text", Text: runes(text, previewRunes)})
		}
	}
	return msg, err
}

// stream makes one streamed model call and returns its whole answer.
func (r *Runner) stream(ctx context.Context, client *anthropic.Client, params anthropic.MessageNewParams) (*anthropic.Message, error) {
	stream := client.Messages.NewStreaming(ctx, params)
	defer stream.Close()
	msg := &anthropic.Message{}
	for stream.Next() {
		if err := msg.Accumulate(stream.Current()); err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if msg.StopReason == "" {
		return nil, errors.New("the model's answer was cut")
	}
	return msg, nil
}

type call struct {
	ID    string
	Name  string
	Input json.RawMessage
}

func toolCalls(m *anthropic.Message) (out []call) {
	for _, b := range m.Content {
		if b.Type == "tool_use" {
			out = append(out, call{b.ID, b.Name, b.Input})
		}
	}
	return out
}

func textOf(m *anthropic.Message) string {
	var parts []string
	for _, b := range m.Content {
		if b.Type == "text" && b.Text != "" {
			parts = append(parts, b.Text)
		}
	}
	return strings.TrimSpace(strings.Join(parts, "\n\n"))
}

// runTools runs the calls in order. ok is false if ctx ended before all were done.
func (r *Runner) runTools(ctx context.Context, t *runnerproto.Turn, calls []call, tools []tool.Tool, tr *transcript.Transcript, p *progress) (msg transcript.Message, question string, ok bool) {
	var results []map[string]any
	for _, c := range calls {
		if ctx.Err() != nil {
			return msg, "", false
		}
		p.add(runnerproto.ProgressEntry{Kind: "tool_started", ToolCallID: c.ID, ToolName: c.Name})
		p.flush(ctx)
		out, failed, tc := "There is no tool called "+c.Name, true, &tool.Call{Turn: t.TurnID, ID: c.ID, Step: func(current string, completed, total *int64) {
			p.add(runnerproto.ProgressEntry{Kind: "step", CurrentStep: current, Completed: completed, Total: total})
		}}
		if i := slices.IndexFunc(tools, func(x tool.Tool) bool { return x.Name == c.Name }); i >= 0 {
			out, failed = tools[i].Run(ctx, r.Host, tc, c.Input)
		}
		if ctx.Err() != nil {
			return msg, "", false
		}
		if tc.Result != nil && !failed {
			if err := tr.SetResult(t.TurnID, tc.Result); err != nil {
				out, failed = "Error: the result could not be kept", true
			}
		}
		if tc.Await && !failed {
			question, out = out, "The question was put to the user."
		}
		p.add(runnerproto.ProgressEntry{Kind: "tool_finished", ToolCallID: c.ID, ToolName: c.Name, IsError: failed, Summary: runes(toolSummary(failed, len(out)), summaryRunes)})
		results = append(results, map[string]any{"type": "tool_result", "tool_use_id": c.ID, "is_error": failed, "content": out})
	}
	content, err := json.Marshal(results)
	if err != nil {
		return msg, "", false
	}
	return transcript.Message{Role: "user", Content: content}, question, true
}

// toolSummary says how a call went, without arguments or results (EVT-6).
func toolSummary(failed bool, size int) string {
	if failed {
		return "failed"
	}
	return fmt.Sprintf("ok, %d bytes", size)
}

func userText(text string) transcript.Message {
	b, _ := json.Marshal([]map[string]string{{"type": "text", "text": text}})
	return transcript.Message{Role: "user", Content: b}
}

func runes(s string, n int) string {
	r := []rune(s)
	if len(r) > n {
		return string(r[:n])
	}
	return s
}
