// Package transcript keeps one conversation as an append-only file of JSON lines, so that a turn cut anywhere goes on.
//
// A line is synchronised to disk before what it enables happens: the model's answer before its tools run, a tool's
// result before the next model call, the end of a turn before it is reported. A line that was cut is dropped on opening.
// A tool call without a result, left by a crash, gets one that says it was interrupted; it is never run again silently.
package transcript

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Message is one message of the conversation in the shape of the Messages API.
type Message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// line is one line of the file: a message, or the end of a turn.
type line struct {
	Message *Message        `json:"m,omitempty"`
	Turn    string          `json:"t,omitempty"` // the turn that the line belongs to
	Attempt int             `json:"a,omitempty"`
	End     *End            `json:"e,omitempty"`
	Result  json.RawMessage `json:"r,omitempty"` // the structured result that the turn has set
}

// End is how a turn ended, kept so that a crash before the report does not run the turn again.
type End struct {
	Outcome string          `json:"outcome"`
	Reason  string          `json:"reason,omitempty"`
	Error   string          `json:"error,omitempty"`
	Reply   string          `json:"reply,omitempty"`
	Context int64           `json:"context,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

// Transcript is one open conversation. It is used by one goroutine at a time.
type Transcript struct {
	ID       string
	f        *os.File
	messages []Message
	ends     map[string]End
	prompted map[string]int // last attempt of a turn whose prompt is in the file
	results  map[string]json.RawMessage
	size     int64 // of the whole lines in the file
}

// Path is the file of a transcript below the home directory.
func Path(home, id string) string {
	return filepath.Join(home, ".sessions", filepath.Base(id)+".jsonl")
}

// Exists says whether there is a transcript.
func Exists(home, id string) bool {
	_, err := os.Stat(Path(home, id))
	return id != "" && err == nil
}

// Open opens or creates a transcript and repairs what a crash left.
func Open(home, id string) (*Transcript, error) {
	if id == "" || strings.ContainsAny(id, "/\\\x00") {
		return nil, fmt.Errorf("invalid transcript id %q", id)
	}
	path := Path(home, id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	t := &Transcript{ID: id, f: f, ends: map[string]End{}, prompted: map[string]int{}, results: map[string]json.RawMessage{}}
	if err := t.read(); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := t.repair(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

// Close closes the file.
func (t *Transcript) Close() error { return t.f.Close() }

func (t *Transcript) read() error {
	rd := bufio.NewReader(t.f)
	var good int64
	for {
		b, err := rd.ReadBytes('\n')
		if err != nil { // the end, or a line that was cut
			break
		}
		var l line
		if json.Unmarshal(b, &l) != nil {
			break // what follows a damaged line cannot be trusted
		}
		good += int64(len(b))
		t.take(l)
	}
	if err := t.f.Truncate(good); err != nil {
		return err
	}
	t.size = good
	_, err := t.f.Seek(good, 0)
	return err
}

func (t *Transcript) take(l line) {
	if l.Message != nil {
		t.messages = append(t.messages, *l.Message)
	}
	if l.End != nil {
		t.ends[l.Turn] = *l.End
	}
	if l.Result != nil {
		t.results[l.Turn] = l.Result
	}
	if l.Attempt > 0 {
		t.prompted[l.Turn] = l.Attempt
	}
}

func (t *Transcript) write(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = t.f.Write(append(b, '\n'))
	if err = errors.Join(err, t.f.Sync()); err != nil { // a part of a line must not be what the next one is glued to
		_, serr := t.f.Seek(t.size, 0)
		return errors.Join(err, t.f.Truncate(t.size), serr)
	}
	t.size += int64(len(b)) + 1
	t.take(l)
	return nil
}

// Messages is the conversation so far.
func (t *Transcript) Messages() []Message { return t.messages }

// Ended returns how a turn ended, if its end is in the file.
func (t *Transcript) Ended(turn string) (End, bool) {
	e, ok := t.ends[turn]
	return e, ok
}

// Prompted says whether the prompt of this attempt is in the file already.
func (t *Transcript) Prompted(turn string, attempt int) bool { return t.prompted[turn] == attempt }

// Prompt appends the prompt of a turn. A conversation alternates, so a prompt that follows another user message joins it.
func (t *Transcript) Prompt(turn string, attempt int, text string) error {
	return t.write(line{Turn: turn, Attempt: attempt, Message: &Message{Role: "user", Content: textBlocks(text)}})
}

// Append appends a message of the running turn.
func (t *Transcript) Append(turn string, m Message) error {
	return t.write(line{Turn: turn, Message: &m})
}

// End notes the end of a turn before it is reported.
func (t *Transcript) End(turn string, e End) error { return t.write(line{Turn: turn, End: &e}) }

// SetResult keeps the structured result of a turn; a later one replaces it.
func (t *Transcript) SetResult(turn string, result json.RawMessage) error {
	return t.write(line{Turn: turn, Result: result})
}

// Result is what SetResult has kept, nil for nothing.
func (t *Transcript) Result(turn string) json.RawMessage { return t.results[turn] }

func textBlocks(text string) json.RawMessage {
	b, _ := json.Marshal([]map[string]string{{"type": "text", "text": text}}) // strings cannot fail
	return b
}

type block struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// Interrupted is what the model is told of a tool call that was cut.
const Interrupted = "Interrupted: the environment was restarted while this ran. It may or may not have taken effect; look before you repeat it."

// repair gives every tool call of the last answer that has no result one that says it was interrupted.
func (t *Transcript) repair() error {
	if len(t.messages) == 0 {
		return nil
	}
	last := t.messages[len(t.messages)-1]
	if last.Role != "assistant" {
		return nil
	}
	var blocks []block
	if json.Unmarshal(last.Content, &blocks) != nil {
		return nil
	}
	var results []map[string]any
	for _, b := range blocks {
		if b.Type == "tool_use" {
			results = append(results, map[string]any{"type": "tool_result", "tool_use_id": b.ID, "is_error": true, "content": Interrupted})
		}
	}
	if len(results) == 0 {
		return nil
	}
	content, err := json.Marshal(results)
	if err != nil {
		return err
	}
	return t.write(line{Message: &Message{Role: "user", Content: content}})
}

// Joined is the conversation with neighbouring messages of one role put together, as the API wants it.
func (t *Transcript) Joined() ([]Message, error) {
	var out []Message
	for _, m := range t.messages {
		if n := len(out); n > 0 && out[n-1].Role == m.Role {
			a, b := bytes.TrimSpace(out[n-1].Content), bytes.TrimSpace(m.Content)
			if len(a) < 2 || len(b) < 2 || a[0] != '[' || b[0] != '[' {
				return nil, errors.New("a message of the transcript is no list of blocks")
			}
			joined := append(append(append([]byte{}, a[:len(a)-1]...), ','), b[1:]...)
			out[n-1].Content = joined
			continue
		}
		out = append(out, m)
	}
	return out, nil
}
