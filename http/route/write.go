package route

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"troupe/actors/fault"
	"troupe/http/runnerproto"
)

// statuses is the one place that maps kinds of failure to HTTP.
var statuses = map[fault.Kind]int{
	fault.Internal: 500, fault.Invalid: 400, fault.Unauthenticated: 401, fault.Forbidden: 403, fault.NotFound: 404, fault.Method: 405,
	fault.Conflict: 409, fault.TooLarge: 413, fault.MediaType: 415, fault.Mismatch: 422, fault.Limited: 429, fault.Exhausted: 402,
	fault.Upstream: 502, fault.Unavailable: 503, fault.Full: 507, fault.Fenced: 503,
}

// anthropicTypes names failures in the shape of the Anthropic API.
var anthropicTypes = map[fault.Kind]string{
	fault.Invalid: "invalid_request_error", fault.Unauthenticated: "authentication_error", fault.Forbidden: "permission_error",
	fault.NotFound: "not_found_error", fault.TooLarge: "request_too_large", fault.Limited: "rate_limit_error", fault.Exhausted: "billing_error",
}

type errorBody struct {
	Error     string         `json:"error"`
	Code      string         `json:"code"`
	Details   []fault.Detail `json:"details,omitempty"`
	RequestID string         `json:"request_id"`
}

type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

// Fail writes an error (ERR-1, ERR-6).
func Fail(ctx *fasthttp.RequestCtx, requestID string, anthropic bool, err error) {
	f := fault.Of(err)
	status := statuses[f.Kind]
	if f.Kind == fault.Internal {
		f = fault.New(fault.Internal, "internal", "Internal server error")
	}
	if f.Retry > 0 {
		ctx.Response.Header.Set("Retry-After", strconv.Itoa(max(1, int(f.Retry.Seconds()))))
	}
	if anthropic {
		if f.Kind == fault.Unavailable {
			ctx.Response.Header.Set(runnerproto.HeaderCode, f.Code)
		}
		b := anthropicError{Type: "error", RequestID: requestID}
		b.Error.Type, b.Error.Message = anthropicTypes[f.Kind], f.Message
		if b.Error.Type == "" {
			b.Error.Type = "api_error"
		}
		writeJSON(ctx, status, b)
		return
	}
	writeJSON(ctx, status, errorBody{Error: f.Message, Code: f.Code, Details: f.Details, RequestID: requestID})
}

const maxPooled = 1 << 20

var buffers = sync.Pool{New: func() any { return &bytes.Buffer{} }}

// JSON encodes v as the contract wants it: no HTML escapes, no line break at the end (GEN-5).
func JSON(v any) []byte {
	b := buffers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= maxPooled {
			buffers.Put(b)
		}
	}()
	b.Reset()
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("encode response: " + err.Error()) // made of our own shapes
	}
	return append([]byte(nil), b.Bytes()[:b.Len()-1]...)
}

func writeJSON(ctx *fasthttp.RequestCtx, status int, v any) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json")
	raw, ok := v.([]byte)
	if !ok {
		raw = JSON(v)
	}
	ctx.Response.SetBodyRaw(raw)
	_ = ctx.Conn().SetWriteDeadline(time.Now().Add(writeWithin + time.Duration(len(raw)/slowest)*time.Second))
}
