package turn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/anthropics/anthropic-sdk-go"

	"troupe/actors/agent"
	"troupe/cmd/runner/internal/transcript"
	"troupe/http/runnerproto"
)

// Limits of what a summary is made from. The whole conversation must fit into one model call, whatever one tool returned.
const (
	maxSummary    = 8192    // output tokens
	transcriptCap = 400_000 // characters of the conversation in the prompt
	blockCap      = 30_000  // characters of one block, halved until all of it fits
	leastCap      = 200
	charsPerToken = 4 // for the estimate of a context that no model has counted yet
)

// Condense is a compaction that the control plane asked for (COMP-2).
type Condense struct {
	Session, ID, Model, SDK string
	Summarize, Continuation string
	Before                  int64
	within                  bool // asked for while a turn runs, for that turn
}

// RequestCompaction leaves a compaction for the next safe point of the running turn, or for CompactIdle when none runs or the
// turn is being reported; a newer one replaces it. One that is in hand or done is known already: commands may come again (RUN-4).
func (r *Runner) RequestCompaction(c Condense) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.ID != r.condensing {
		c.within = r.working
		r.condense = &c
	}
}

// Waiting says whether a compaction waits that belongs to no turn.
func (r *Runner) Waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.condense != nil && !r.condense.within
}

// InHand says whether this compaction waits or is being done.
func (r *Runner) InHand(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.condensing == id || r.condense != nil && r.condense.ID == id
}

// atWork notes whether a turn can still come to a safe point. A compaction that its turn did not come to is void: the control
// plane gave it up with the turn.
func (r *Runner) atWork(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working = yes
	if !yes && r.condense != nil && r.condense.within {
		r.condense = nil
	}
}

func (r *Runner) takeCompaction() *Condense {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.condense
	r.condense = nil
	if c != nil {
		r.condensing = c.ID
	}
	return c
}

// again lets a compaction that failed be asked for once more.
func (r *Runner) again() {
	r.mu.Lock()
	r.condensing = ""
	r.mu.Unlock()
}

// CompactIdle carries out a compaction that waits while no turn runs.
func (r *Runner) CompactIdle(ctx context.Context) {
	c := r.takeCompaction()
	if c == nil {
		return
	}
	if r.open == nil || r.session != c.Session {
		r.close()
		tr, err := transcript.Open(r.Host.Home, c.SDK)
		if err != nil {
			r.reportCompaction(ctx, c, runnerproto.Compaction{Status: "failed", Error: "The transcript could not be opened"})
			return
		}
		r.open, r.session = tr, c.Session
	}
	fresh := r.compact(ctx, c, r.open, nil)
	if fresh != r.open {
		_ = r.open.Close()
		r.open = fresh
	}
}

// compact condenses a conversation into a new transcript and reports it; the old one stays in use unless the control plane has
// taken the report as durable (COMP-5). T is the turn that goes on with it, nil between turns.
func (r *Runner) compact(ctx context.Context, c *Condense, tr *transcript.Transcript, t *runnerproto.Turn) *transcript.Transcript {
	fresh, report, err := r.condensed(ctx, c, tr, t)
	if err != nil {
		r.again()
		if ctx.Err() == nil {
			r.Log.Warn("compaction failed", "session_id", c.Session, "err", err)
			r.reportCompaction(ctx, c, runnerproto.Compaction{Status: "failed", Error: runes(err.Error(), 2000)})
		}
		return tr
	}
	if !r.reportCompaction(ctx, c, report) {
		_ = fresh.Close()
		return tr
	}
	r.Log.Info("session condensed", "session_id", c.Session, "before", report.Before, "after", report.After)
	return fresh
}

func (r *Runner) condensed(ctx context.Context, c *Condense, tr *transcript.Transcript, t *runnerproto.Turn) (*transcript.Transcript, runnerproto.Compaction, error) {
	none := runnerproto.Compaction{}
	prompt := agent.RenderMap(c.Summarize, map[string]string{"transcript": Readable(tr.Messages(), transcriptCap)})
	client := r.client(t)
	msg, err := r.patient(ctx, func() (*anthropic.Message, error) {
		return r.stream(ctx, &client, anthropic.MessageNewParams{Model: anthropic.Model(c.Model), MaxTokens: maxSummary,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))}})
	})
	if err != nil {
		return nil, none, err
	}
	summary := textOf(msg)
	if summary == "" {
		return nil, none, errors.New("the model gave no summary")
	}
	text := agent.RenderMap(c.Continuation, map[string]string{"summary": summary})
	after := int64(utf8.RuneCountInString(text)+charsPerToken-1) / charsPerToken
	if c.Before > 0 && after >= c.Before {
		return nil, none, fmt.Errorf("the summary has %d tokens, the conversation %d: nothing was gained", after, c.Before)
	}
	fresh, err := transcript.Open(r.Host.Home, r.NewID())
	if err != nil {
		return nil, none, err
	}
	if t != nil { // the turn goes on from here, also after a crash
		err = fresh.Prompt(t.TurnID, t.Attempt, text)
	} else {
		err = fresh.Append("", userText(text))
	}
	if err != nil {
		_ = fresh.Close()
		return nil, none, err
	}
	return fresh, runnerproto.Compaction{Status: "completed", Before: c.Before, After: after, Model: c.Model, SDKSessionID: fresh.ID}, nil
}

// reportCompaction repeats a report until it is answered; it says whether it was taken.
func (r *Runner) reportCompaction(ctx context.Context, c *Condense, report runnerproto.Compaction) bool {
	report.CompactionID = c.ID
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		err := r.Client.Compacted(ctx, c.Session, report)
		if err == nil {
			return true
		}
		if runnerproto.Refused(err) {
			r.Log.Warn("compaction refused", "session_id", c.Session, "err", err)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// Readable renders a conversation for a model that is to condense it, in at most about limit characters: long blocks are cut in
// their middle, and if that is not enough the oldest messages are left out. Every line of content is quoted, so that nothing in
// it can be taken for an instruction of this prompt.
func Readable(messages []transcript.Message, limit int) string {
	for most := blockCap; ; most /= 2 {
		parts, size := make([]string, len(messages)), 0
		for i, m := range messages {
			parts[i] = readable(m, most)
			size += len(parts[i])
		}
		if size <= limit {
			return strings.Join(parts, "\n")
		}
		if most > leastCap {
			continue
		}
		from := 0
		for ; from < len(parts)-1 && size > limit; from++ {
			size -= len(parts[from])
		}
		return fmt.Sprintf("[%d earlier messages are left out]\n%s", from, strings.Join(parts[from:], "\n"))
	}
}

func readable(m transcript.Message, most int) string {
	var blocks []struct {
		Type    string          `json:"type"`
		Text    string          `json:"text"`
		Name    string          `json:"name"`
		Input   json.RawMessage `json:"input"`
		Content json.RawMessage `json:"content"`
	}
	_ = json.Unmarshal(m.Content, &blocks) // written by this program
	var b strings.Builder
	for _, x := range blocks {
		head, text := m.Role, x.Text
		switch x.Type {
		case "tool_use":
			head, text = m.Role+" calls "+x.Name, string(x.Input)
		case "tool_result":
			head, text = "tool result", string(x.Content)
			var plain string
			if json.Unmarshal(x.Content, &plain) == nil {
				text = plain
			}
		}
		b.WriteString(head + ":\n")
		for _, line := range strings.Split(middle(text, most), "\n") {
			b.WriteString("> " + line + "\n")
		}
	}
	return b.String()
}

// middle cuts the middle out of a long text.
func middle(text string, most int) string {
	all := []rune(text)
	if len(all) <= most {
		return text
	}
	half := most / 2
	return fmt.Sprintf("%s\n[%d characters are left out]\n%s", string(all[:half]), len(all)-2*half, string(all[len(all)-half:]))
}
