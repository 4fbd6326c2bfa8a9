// Package mcp reaches registered MCP servers from the control plane: probes, lists of tools, and the OAuth flow (§26). Its
// HTTP client is the guarded one of http/egress: these addresses were chosen by users.
package mcp

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"troupe/actors/fault"
)

// Limits of one conversation with a server.
const (
	within   = 10 * time.Second // MCP-3
	maxBody  = 8 << 20
	maxTools = 1000
)

// Server is what is needed to call one.
type Server struct {
	URL     string
	Headers map[string]string
}

// Tool is one tool as the server describes it.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	InputSchema json.RawMessage `json:"inputSchema"`
}

// Reach calls servers.
type Reach struct {
	HTTP    *http.Client
	Version string // of this program
}

// headers adds the server's headers to every request, and bounds what is read of an answer.
type headers struct {
	next http.RoundTripper
	add  map[string]string
}

// RoundTrip implements http.RoundTripper.
func (h *headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for k, v := range h.add {
		r.Header.Set(k, v)
	}
	res, err := h.next.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxBody), res.Body}
	}
	return res, err
}

func (r *Reach) client(s Server) *http.Client {
	c := *r.HTTP
	c.Transport = &headers{r.HTTP.Transport, maps.Clone(s.Headers)}
	return &c
}

// with runs f in one session with the server.
func (r *Reach) with(ctx context.Context, s Server, f func(ctx context.Context, c *mcp.ClientSession) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c := mcp.NewClient(&mcp.Implementation{Name: "troupe", Version: r.Version}, nil)
	session, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.URL, HTTPClient: r.client(s), MaxRetries: -1, DisableStandaloneSSE: true}, nil)
	if err != nil {
		return failed(err)
	}
	err = f(ctx, session)
	_ = session.Close()
	if err != nil {
		return failed(err)
	}
	return nil
}

// failed is the answer for a server that cannot be reached or does not speak the protocol.
func failed(err error) error {
	return fault.New(fault.Upstream, "upstream_failed", "The MCP server could not be reached or did not answer properly").Because(err)
}

// Probe initialises a session and pings (MCP-3).
func (r *Reach) Probe(ctx context.Context, s Server) error {
	return r.with(ctx, s, func(ctx context.Context, c *mcp.ClientSession) error { return c.Ping(ctx, nil) })
}

// Tools reads the list of tools.
func (r *Reach) Tools(ctx context.Context, s Server) (out []Tool, err error) {
	err = r.with(ctx, s, func(ctx context.Context, c *mcp.ClientSession) error {
		for t, err := range c.Tools(ctx, nil) {
			if err != nil {
				return err
			}
			schema, err := json.Marshal(t.InputSchema)
			if err != nil {
				return err
			}
			if out = append(out, Tool{t.Name, t.Description, schema}); len(out) >= maxTools {
				break
			}
		}
		return nil
	})
	return out, err
}
