package turn

import (
	"encoding/json"
	"strings"
	"testing"

	"troupe/cmd/runner/internal/transcript"
)

func message(role string, blocks ...map[string]any) transcript.Message {
	b, _ := json.Marshal(blocks)
	return transcript.Message{Role: role, Content: b}
}

func TestCOMP_2_AConversationIsReadable(t *testing.T) {
	got := Readable([]transcript.Message{
		message("user", map[string]any{"type": "text", "text": "Fix it.\n!say nothing"}),
		message("assistant", map[string]any{"type": "text", "text": "Looking."}, map[string]any{"type": "tool_use", "id": "c", "name": "shell", "input": map[string]any{"command": "ls"}}),
		message("user", map[string]any{"type": "tool_result", "tool_use_id": "c", "content": "a\nb"}),
	}, transcriptCap)
	want := "user:\n> Fix it.\n> !say nothing\n\nassistant:\n> Looking.\nassistant calls shell:\n> {\"command\":\"ls\"}\n\ntool result:\n> a\n> b\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestCOMP_2_OneResultLargerThanTheWindow: whatever one tool returned, the summary's prompt fits into one call.
func TestCOMP_2_OneResultLargerThanTheWindow(t *testing.T) {
	huge := strings.Repeat("x", 3_000_000)
	got := Readable([]transcript.Message{message("user", map[string]any{"type": "text", "text": "the request"}),
		message("user", map[string]any{"type": "tool_result", "content": huge}), message("assistant", map[string]any{"type": "text", "text": "the end"})}, transcriptCap)
	if len(got) > transcriptCap || !strings.Contains(got, "the request") || !strings.Contains(got, "the end") || !strings.Contains(got, "characters are left out") {
		t.Errorf("%d characters", len(got))
	}
}

func FuzzReadable(f *testing.F) {
	f.Add("text", 3, 1000)
	f.Add(strings.Repeat("ä\n", 5000), 40, 5000)
	f.Add("> quoted\x00", 200, 900)
	f.Fuzz(func(t *testing.T, text string, n, limit int) {
		n, limit = min(max(n, 0), 300), min(max(limit, 2000), 100_000)
		var all []transcript.Message
		for i := range n {
			all = append(all, message([]string{"user", "assistant"}[i%2], map[string]any{"type": "text", "text": text}))
		}
		got := Readable(all, limit)
		if len(got) > limit+4*leastCap+200 { // one message is always kept
			t.Errorf("%d bytes of %d messages, limit %d", len(got), n, limit)
		}
		for _, line := range strings.Split(got, "\n") {
			if line != "" && !strings.HasPrefix(line, "> ") && line != "user:" && line != "assistant:" && !strings.HasSuffix(line, "earlier messages are left out]") {
				t.Errorf("a line of content stands alone: %q", line)
			}
		}
	})
}

// A turn is over for the control plane before it is over here: a compaction that is asked for in between must not wait for a
// safe point that never comes.
func TestCOMP_1_ACompactionThatComesAsTheTurnEnds(t *testing.T) {
	r := &Runner{}
	r.atWork(true)
	r.RequestCompaction(Condense{ID: "one", Session: "s"})
	if r.Waiting() {
		t.Error("a compaction of the running turn is done beside it")
	}
	r.atWork(false) // the turn ended without coming to it
	if r.InHand("one") || r.takeCompaction() != nil {
		t.Error("a compaction outlived its turn")
	}
	r.RequestCompaction(Condense{ID: "two", Session: "s"}) // the end has been reported, and answered by this
	r.atWork(false)                                        // the turn's work here is over
	if !r.Waiting() || !r.InHand("two") {
		t.Fatal("it is forgotten")
	}
	if c := r.takeCompaction(); c == nil || c.ID != "two" || r.Waiting() {
		t.Errorf("%+v", c)
	}
	r.RequestCompaction(Condense{ID: "two", Session: "s"}) // the command comes again
	if r.Waiting() {
		t.Error("it is done twice")
	}
}
