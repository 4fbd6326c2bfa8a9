// Package client is the Go client of the public API, used by the command line and by tests. Calls that create something
// carry an idempotency key, so they are repeated safely when the answer was lost.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Client calls one control plane.
type Client struct {
	Base string
	Key  string // platform key or login token
	HTTP *http.Client
}

// New returns a client of base with a platform key or login token.
func New(base, key string) *Client {
	return &Client{Base: strings.TrimSuffix(base, "/"), Key: key, HTTP: &http.Client{}}
}

// Detail names one offending member.
type Detail struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Error is a refusal of the API.
type Error struct {
	Status    int           `json:"-"`
	Message   string        `json:"error"`
	Code      string        `json:"code"`
	Details   []Detail      `json:"details"`
	RequestID string        `json:"request_id"`
	Retry     time.Duration `json:"-"`
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s", e.Message, e.Code)
	if e.RequestID != "" {
		fmt.Fprintf(&b, ", request %s", e.RequestID)
	}
	b.WriteString(")")
	for _, d := range e.Details {
		fmt.Fprintf(&b, "\n  %s %s", d.Field, d.Reason)
	}
	return b.String()
}

// Exit is the exit code of the command line for this refusal.
func (e *Error) Exit() int {
	switch e.Status {
	case 401, 403:
		return 4
	case 404:
		return 3
	case 409:
		return 5
	case 408, 504:
		return 6
	}
	return 1
}

const (
	attempts = 5
	retryFor = 300 * time.Millisecond
)

// Do makes one call. In may be nil, []byte (sent as it is) or anything JSON; out may be nil, *[]byte or anything JSON.
// A POST is repeated on lost connections and 503 with the same Idempotency-Key; other methods are repeated as they are.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	body, ok := in.([]byte)
	if !ok && in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	key := uuid.NewString()
	for try := 1; ; try++ {
		err := c.once(ctx, method, path, key, body, out)
		var refusal *Error
		again := err != nil && (!errors.As(err, &refusal) || refusal.Status == 503 && refusal.Code != "agent_unavailable")
		if !again || try == attempts || ctx.Err() != nil {
			return err
		}
		pause := time.Duration(try) * retryFor
		if refusal != nil && refusal.Retry > pause {
			pause = refusal.Retry
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (c *Client) once(ctx context.Context, method, path, key string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if method == "POST" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		e := &Error{Status: res.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			e.Code, e.Message = "http_"+strconv.Itoa(res.StatusCode), http.StatusText(res.StatusCode)
		}
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
			e.Retry = time.Duration(s) * time.Second
		}
		return e
	}
	switch o := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*o = b
		return nil
	}
	return json.Unmarshal(b, out)
}
