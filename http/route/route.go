// Package route is the way of every request: the table of routes and the order of checks (ERR-3) that all of them share.
//
//	route and method → credentials → rate limit → feature flag and scope → objects in the path → size, media type, JSON,
//	idempotency → validation → state → availability
//
// Handlers return a response or an error; one function writes both, so a status cannot drift between routes and an
// error cannot be dropped.
package route

import (
	"context"
	"log/slog"
	"net/url"
	"time"

	"github.com/valyala/fasthttp"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Access is who may call a route.
type Access int

// The kinds of access.
const (
	Open      Access = iota + 1 // anybody
	Guest                       // anybody, limited per source address
	JWT                         // a login
	Account                     // a login or a platform key
	Admin                       // the same, of an administrator
	Runtime                     // a runner
	Anthropic                   // a runner, with errors in Anthropic's shape
)

// Body is what a route expects of the request body.
type Body int

// The kinds of body.
const (
	None     Body = iota // ignored
	Required             // a JSON object
	Optional             // a JSON object or nothing
	Raw                  // bytes, up to the limit
)

// Route is one operation of the contract.
type Route struct {
	Method  string
	Path    string // with {name} parameters
	Op      string // operationId
	Access  Access
	Feature bool // below /v1/agent, /agent or /v1/mcp: needs the AI Agents feature (TEN-2)
	Body    Body
	Limit   int // bytes of body; 0: MaxBody
	// Tail: the last parameter of Path takes the rest of the path as it was sent, slashes included; see Call.Tail.
	Tail bool
	// Timeout bounds the handler; 0: DefaultTimeout. Wait tells of routes whose handler ends by itself.
	Timeout time.Duration
	Handle  func(*Call) (Response, error)
}

// Limits that hold unless a route says otherwise.
const (
	MaxBody        = 4 << 20
	DefaultTimeout = 10 * time.Second
)

// Response is what a handler answers. A Body of []byte is written as it is, anything else as JSON.
type Response struct {
	Status   int
	Body     any
	Type     string // content type; "" means JSON
	Replayed bool   // Idempotent-Replayed: true
	Header   map[string]string
	// Stream takes the connection over instead of Body: it writes the response itself, see fasthttp.SetBodyStreamWriter.
	Stream func(ctx *fasthttp.RequestCtx)
}

// OK is a 200.
func OK(body any) Response { return Response{Status: 200, Body: body} }

// Created is a 201.
func Created(body any) Response { return Response{Status: 201, Body: body} }

// Runner is who calls a runtime route.
type Runner struct {
	Agent       agent.ID
	Incarnation int64
	Epoch       int64 // of the X-Troupe-Runner-Epoch header; 0: not given
}

// Call is one request on its way. Nothing of it may be kept after the handler returned.
type Call struct {
	*fasthttp.RequestCtx
	Ctx       context.Context // with the route's deadline
	Route     *Route
	Caller    account.Caller
	Runner    Runner
	RequestID string
	Log       *slog.Logger
	counters  account.Counters
	stop      context.CancelFunc
}

// Param returns a parameter of the path.
func (c *Call) Param(name string) string {
	s, _ := c.UserValue(name).(string)
	return s
}

// Tail returns the rest of the path, percent-decoded once.
func (c *Call) Tail() (string, error) {
	raw, _ := c.UserValue(tailKey).(string)
	s, err := url.PathUnescape(raw)
	if err != nil {
		return "", fault.New(fault.Invalid, "validation_failed", "path must be percent-encoded").At("path", "must be percent-encoded")
	}
	return s, nil
}

// Header returns a request header.
func (c *Call) Header(name string) string { return string(c.Request.Header.Peek(name)) }
