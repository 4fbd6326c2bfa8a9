package route

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"regexp"
	"strings"

	"github.com/valyala/fasthttp"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/field"
)

// Doc checks the body's size, media type and syntax in this order and returns it parsed (ERR-3, 6 to 8). An optional
// body that is absent is an empty object.
func (c *Call) Doc() (*field.Value, error) {
	body, err := c.Bytes()
	if err != nil {
		return nil, err
	}
	if c.Route.Body == Optional && len(bytes.TrimSpace(body)) == 0 {
		return &field.Value{Kind: field.Object}, nil
	}
	typ, _, err := mime.ParseMediaType(c.Header("Content-Type"))
	if err != nil || typ != "application/json" && !strings.HasSuffix(typ, "+json") {
		return nil, fault.New(fault.MediaType, "unsupported_media_type", "The body must be declared as application/json")
	}
	doc, err := field.Parse(body)
	if err != nil {
		return nil, err
	}
	return &doc, nil
}

// Bytes returns the raw body, checked against the route's limit.
func (c *Call) Bytes() ([]byte, error) {
	limit := c.Route.Limit
	if limit == 0 {
		limit = MaxBody
	}
	body := c.PostBody()
	if len(body) > limit {
		return nil, TooLarge(limit)
	}
	return body, nil
}

// TooLarge refuses a body over the limit.
func TooLarge(limit int) error {
	return fault.Newf(fault.TooLarge, "payload_too_large", "The body must have at most %d bytes", limit)
}

var visible = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)

// Idempotency returns the request's idempotency record, nil if no key was given (IDEM-1, IDEM-2). Scope names what the
// key belongs to besides the route. The hash is over the raw bytes and the query without wait (IDEM-4).
func (c *Call) Idempotency(scope string) (*agent.Idempotency, error) {
	idem, err := c.IdempotencyOf("Idempotency-Key", scope)
	if idem == nil || err != nil {
		return nil, err
	}
	q := append([]byte(nil), c.QueryArgs().QueryString()...)
	args := c.QueryArgs()
	if args.Has("wait") {
		var rest fasthttp.Args
		args.CopyTo(&rest)
		rest.Del("wait")
		q = rest.QueryString()
	}
	h := sha256.New()
	h.Write(c.PostBody())
	h.Write([]byte{0})
	h.Write(q)
	idem.Hash = hex.EncodeToString(h.Sum(nil))
	return idem, nil
}

// IdempotencyOf returns the record of a key in another header, nil if it was not given. Such a key stands for the request
// whatever its body (TRIG-7).
func (c *Call) IdempotencyOf(header, scope string) (*agent.Idempotency, error) {
	key := c.Header(header)
	if key == "" {
		return nil, nil
	}
	if !visible.MatchString(key) {
		return nil, fault.New(fault.Invalid, "validation_failed", header+" must be 1 to 255 visible ASCII characters").At(header, "must be 1 to 255 visible ASCII characters")
	}
	k := sha256.Sum256([]byte(c.Route.Op + "\x00" + scope + "\x00" + key))
	return &agent.Idempotency{Key: hex.EncodeToString(k[:]), Hash: "any"}, nil
}

// Query reads query parameters and collects what is wrong with them.
type Query struct {
	c    *Call
	errs []fault.Detail
}

// Query starts reading the query string.
func (c *Call) Query() *Query { return &Query{c: c} }

// Int reads an integer between lo and hi.
func (q *Query) Int(name string, lo, hi, fallback int64) int64 {
	raw := q.c.QueryArgs().Peek(name)
	if raw == nil {
		return fallback
	}
	holder := field.Value{Kind: field.Object, Members: []field.Member{{Name: name, Value: field.Value{Kind: field.Number, Text: string(raw)}}}}
	errs := &field.Errors{}
	n, ok := field.Read(&holder, "", errs).Int(name, lo, hi, false)
	if !ok {
		q.errs = append(q.errs, fault.Of(errs.Err()).Details...)
		return fallback
	}
	return n
}

// Enum reads one of several words.
func (q *Query) Enum(name, fallback string, words ...string) string {
	return q.String(name, fallback, field.Text{Enum: words})
}

// String reads a text.
func (q *Query) String(name, fallback string, t field.Text) string {
	raw := q.c.QueryArgs().Peek(name)
	if raw == nil {
		return fallback
	}
	if reason := t.Check(string(raw)); reason != "" {
		q.errs = append(q.errs, fault.Detail{Field: name, Reason: reason})
		return fallback
	}
	return string(raw)
}

// UUID reads a UUID.
func (q *Query) UUID(name string) string {
	raw := q.c.QueryArgs().Peek(name)
	if raw == nil {
		return ""
	}
	u, ok := agent.ParseUUID(string(raw))
	if !ok {
		q.errs = append(q.errs, fault.Detail{Field: name, Reason: "must be a UUID"})
	}
	return u
}

// Fail reports a parameter.
func (q *Query) Fail(name, reason string) {
	q.errs = append(q.errs, fault.Detail{Field: name, Reason: reason})
}

// Err returns one fault for everything that was wrong.
func (q *Query) Err() error {
	if len(q.errs) == 0 {
		return nil
	}
	f := fault.New(fault.Invalid, "validation_failed", q.errs[0].Field+" "+q.errs[0].Reason)
	f.Details = q.errs
	return f
}
