package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Rehearsal is a model of our own: deterministic, without a key, in the shape of the Messages API. It does what the
// prompt's script lines say, one tool call per answer, then gives its final text. Lines of a prompt, indented or not:
//
//	!tool NAME {"json":"input"}   call a tool
//	!say TEXT                     the final text (otherwise it repeats the prompt's beginning)
//	!slow 500ms                   wait before the answer
//	!tokens N                     make the final text N tokens long
//	!fail STATUS                  answer with an error
//	!overflow                     answer that the prompt is too long
//
// A token is four characters. Every final text names the model, so that nobody takes it for a real one.
type Rehearsal struct{}

const (
	rehearsalName = "[rehearsal model] "
	charsPerToken = 4
	windowTokens  = 200000
)

type rehearsalRequest struct {
	Model     string          `json:"model"`
	MaxTokens int64           `json:"max_tokens"`
	Stream    bool            `json:"stream"`
	System    json.RawMessage `json:"system"`
	Messages  []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
}

type rehearsalBlock struct {
	Type  string          `json:"type"`
	Text  string          `json:"text,omitempty"`
	ID    string          `json:"id,omitempty"`
	Name  string          `json:"name,omitempty"`
	Input json.RawMessage `json:"input,omitempty"`
}

func blocks(raw json.RawMessage) (out []rehearsalBlock) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return []rehearsalBlock{{Type: "text", Text: s}}
	}
	_ = json.Unmarshal(raw, &out) // anything else has no blocks
	return out
}

// script is what a prompt asks for.
type script struct {
	tools  []rehearsalBlock
	say    string
	slow   time.Duration
	tokens int
	fail   int
	over   bool
	text   string
}

func readScript(prompt string) (s script) {
	s.text = prompt
	for _, line := range strings.Split(prompt, "\n") {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "!tool":
			name, input, _ := strings.Cut(rest, " ")
			if !json.Valid([]byte(input)) {
				input = "{}"
			}
			s.tools = append(s.tools, rehearsalBlock{Type: "tool_use", Name: name, Input: json.RawMessage(input)})
		case "!say":
			s.say = rest
		case "!slow":
			s.slow, _ = time.ParseDuration(rest)
		case "!tokens":
			s.tokens, _ = strconv.Atoi(rest)
		case "!fail":
			s.fail, _ = strconv.Atoi(rest)
		case "!overflow":
			s.over = true
		}
	}
	return s
}

// failTypes are the errors of the Messages API by status.
var failTypes = map[int]string{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
	413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}

// RoundTrip answers a call of the Messages API, as http.RoundTripper.
func (Rehearsal) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var r rehearsalRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return answer(req, 400, errorBody("invalid_request_error", "invalid JSON")), nil
	}
	input := int64(len(body)+charsPerToken-1) / charsPerToken
	if strings.HasSuffix(req.URL.Path, "/count_tokens") {
		return answer(req, 200, fmt.Sprintf(`{"input_tokens":%d}`, input)), nil
	}
	s, done := plan(&r)
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	switch {
	case s.fail > 0:
		return answer(req, s.fail, errorBody(cmp.Or(failTypes[s.fail], "api_error"), "the rehearsal fails as asked")), nil
	case s.over || input > windowTokens:
		return answer(req, 400, errorBody("invalid_request_error", fmt.Sprintf("prompt is too long: %d tokens > %d maximum", input, windowTokens))), nil
	}
	out, stop, tokens := s.perform(done, r.MaxTokens, len(r.Messages))
	id := fmt.Sprintf("msg_rehearsal_%d_%d", len(r.Messages), input)
	if !r.Stream {
		return answer(req, 200, whole(id, r.Model, out, stop, input, tokens)), nil
	}
	res := answer(req, 200, events(id, r.Model, out, stop, input, tokens))
	res.Header.Set("Content-Type", "text/event-stream")
	return res, nil
}

// plan finds the prompt that is being worked on and how many of its tools have been called.
func plan(r *rehearsalRequest) (s script, done int) {
	at := 0
	for i, m := range r.Messages {
		if m.Role != "user" {
			continue
		}
		for _, b := range blocks(m.Content) {
			if b.Type == "text" && strings.TrimSpace(b.Text) != "" {
				s, at = readScript(b.Text), i
			}
		}
	}
	for _, m := range r.Messages[min(at+1, len(r.Messages)):] {
		for _, b := range blocks(m.Content) {
			if b.Type == "tool_use" {
				done++
			}
		}
	}
	return s, done
}

// perform makes the content of the answer, cut at max tokens.
func (s *script) perform(done int, maxTokens int64, turn int) (out rehearsalBlock, stop string, tokens int64) {
	if done < len(s.tools) {
		out = s.tools[done]
		out.ID = fmt.Sprintf("toolu_rehearsal_%d_%d", turn, done)
		tokens = count(string(out.Input) + out.Name)
		if tokens <= maxTokens {
			return out, "tool_use", tokens
		}
		return rehearsalBlock{Type: "text", Text: strings.Repeat("…", int(maxTokens))}, "max_tokens", maxTokens
	}
	text := rehearsalName
	switch {
	case s.say != "":
		text += s.say
	default:
		r := []rune(strings.TrimSpace(s.text))
		text += "I was asked: " + string(r[:min(len(r), 400)])
	}
	if want := s.tokens * charsPerToken; want > len(text) {
		text += strings.Repeat(" bla", (want-len(text))/charsPerToken)
	}
	tokens, stop = count(text), "end_turn"
	if tokens > maxTokens {
		r := []rune(text)
		text, tokens, stop = string(r[:min(len(r), int(maxTokens)*charsPerToken)]), maxTokens, "max_tokens"
	}
	return rehearsalBlock{Type: "text", Text: text}, stop, tokens
}

func count(s string) int64 { return int64(len([]rune(s))+charsPerToken-1) / charsPerToken }

func errorBody(typ, text string) string {
	b, _ := json.Marshal(map[string]any{"type": "error", "error": map[string]string{"type": typ, "message": text}})
	return string(b)
}

func encode(v any) string {
	b, _ := json.Marshal(v) // strings and numbers
	return string(b)
}

func whole(id, model string, out rehearsalBlock, stop string, in, tokens int64) string {
	return encode(map[string]any{"id": id, "type": "message", "role": "assistant", "model": model, "content": []any{out}, "stop_reason": stop,
		"stop_sequence": nil, "usage": map[string]int64{"input_tokens": in, "output_tokens": tokens}})
}

// events is the same answer as server-sent events, the text in pieces.
func events(id, model string, out rehearsalBlock, stop string, in, tokens int64) string {
	var b strings.Builder
	put := func(typ string, v map[string]any) {
		v["type"] = typ
		b.WriteString("event: " + typ + "\ndata: " + encode(v) + "\n\n")
	}
	put("message_start", map[string]any{"message": map[string]any{"id": id, "type": "message", "role": "assistant", "model": model, "content": []any{},
		"stop_reason": nil, "stop_sequence": nil, "usage": map[string]int64{"input_tokens": in, "output_tokens": 1}}})
	if out.Type == "tool_use" {
		put("content_block_start", map[string]any{"index": 0, "content_block": map[string]any{"type": "tool_use", "id": out.ID, "name": out.Name, "input": map[string]any{}}})
		put("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "input_json_delta", "partial_json": string(out.Input)}})
	} else {
		put("content_block_start", map[string]any{"index": 0, "content_block": map[string]any{"type": "text", "text": ""}})
		for r := []rune(out.Text); len(r) > 0; {
			n := min(len(r), 200)
			put("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "text_delta", "text": string(r[:n])}})
			r = r[n:]
		}
	}
	put("content_block_stop", map[string]any{"index": 0})
	put("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]int64{"output_tokens": tokens}})
	put("message_stop", map[string]any{})
	return b.String()
}

func answer(req *http.Request, status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req, ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/json"}, "Request-Id": {"req_rehearsal"}}, Body: io.NopCloser(bytes.NewReader([]byte(body)))}
}
