package runnerproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Client is the runner's side of the protocol. It fails over between the live nodes that attach and heartbeat name.
type Client struct {
	key   string
	nodes *Nodes
	http  *http.Client
	epoch atomic.Int64
}

// Nodes are the base URLs of the control plane, the one in use first.
type Nodes struct {
	mu   sync.Mutex
	urls []string
}

// NewNodes starts with one node.
func NewNodes(base string) *Nodes { return &Nodes{urls: []string{strings.TrimSuffix(base, "/")}} }

// Current is the node in use.
func (n *Nodes) Current() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.urls[0]
}

// Learn takes in the live nodes; the one in use stays in front while it lives.
func (n *Nodes) Learn(list string) {
	var urls []string
	for _, u := range strings.Split(list, ",") {
		if u = strings.TrimSuffix(strings.TrimSpace(u), "/"); u != "" {
			urls = append(urls, u)
		}
	}
	if len(urls) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, u := range urls {
		if u == n.urls[0] {
			urls[0], urls[i] = urls[i], urls[0]
		}
	}
	n.urls = urls
}

// Failed moves on from a node that did not answer.
func (n *Nodes) Failed(base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.urls[0] == base && len(n.urls) > 1 {
		n.urls = append(n.urls[1:], base)
	}
}

// RoundTrip sends a request to the node in use, whatever node its URL names; a node that cannot be reached is passed over once.
func (n *Nodes) RoundTrip(r *http.Request) (*http.Response, error) {
	var last error
	for range 2 {
		base := n.Current()
		u, err := url.Parse(base)
		if err != nil {
			return nil, err
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.Host = u.Scheme, u.Host, ""
		if r.GetBody != nil {
			if out.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		res, err := http.DefaultTransport.RoundTrip(out)
		if err == nil {
			return res, nil
		}
		last = err
		n.Failed(base) // also when it only kept silent until the deadline
		if r.Context().Err() != nil {
			return nil, err
		}
		if n.Current() == base || r.Body != nil && r.GetBody == nil {
			return nil, last
		}
	}
	return nil, last
}

// NewClient returns a client with the runtime key.
func NewClient(nodes *Nodes, key string) *Client {
	return &Client{key: key, nodes: nodes, http: &http.Client{Transport: nodes}}
}

// Epoch is the runner epoch of the last attach.
func (c *Client) Epoch() int64 { return c.epoch.Load() }

// Stale says whether the control plane has replaced this runner: it must stop at once (FENCE-4).
func Stale(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == 401 || e.Code == "stale_runner" || e.Code == "protocol_mismatch")
}

// Refused says whether the answer is final: repeating the call changes nothing (RUN-9).
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status < 500 && e.Status != 429
}

const callTimeout = 8 * time.Second

func (c *Client) do(ctx context.Context, method, path string, in, out any, header ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node/v1/agent-runtime"+path, body)
	if err != nil {
		return err
	}
	c.sign(req)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if list := res.Header.Get(HeaderNodes); list != "" {
		c.nodes.Learn(list)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return refusal(res.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func (c *Client) sign(req *http.Request) {
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	if e := c.epoch.Load(); e > 0 {
		req.Header.Set(HeaderEpoch, strconv.FormatInt(e, 10))
	}
}

func refusal(status int, body []byte) error {
	e := &Error{Status: status}
	if json.Unmarshal(body, e) != nil || e.Code == "" {
		e.Code, e.Message = "http_"+strconv.Itoa(status), http.StatusText(status)
	}
	return e
}

// Attach announces this process; later calls carry the epoch it returns.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (AttachResult, error) {
	var out AttachResult
	err := c.do(ctx, "POST", "/self/attach", r, &out)
	if err == nil {
		c.epoch.Store(out.RunnerEpoch)
	}
	return out, err
}

// Heartbeat renews the lease.
func (c *Client) Heartbeat(ctx context.Context, r HeartbeatRequest) (HeartbeatResult, error) {
	var out HeartbeatResult
	return out, c.do(ctx, "POST", "/self/heartbeat", r, &out)
}

// Detach says goodbye.
func (c *Client) Detach(ctx context.Context, reason, detail string) error {
	return c.do(ctx, "POST", "/self/detach", map[string]string{"reason": reason, "detail": detail}, nil)
}

// Self reads the agent's configuration.
func (c *Client) Self(ctx context.Context) (Self, error) {
	var out Self
	return out, c.do(ctx, "GET", "/self", nil, &out)
}

// MCPServers lists the MCP servers that the agent may use, with their credentials.
func (c *Client) MCPServers(ctx context.Context) ([]MCPServer, error) {
	var out MCPServers
	err := c.do(ctx, "GET", "/self/mcp-servers", nil, &out)
	return out.Servers, err
}

// Status reports the execution status.
func (c *Client) Status(ctx context.Context, status string) error {
	return c.do(ctx, "PATCH", "/self/status", map[string]any{"execution_status": status}, nil)
}

// Disk reports the size of the workspace.
func (c *Client) Disk(ctx context.Context, u DiskUsage) error {
	return c.do(ctx, "PATCH", "/self/disk-usage", u, nil)
}

// Transcript reports the transcript behind a session.
func (c *Client) Transcript(ctx context.Context, s SDKSession) error {
	return c.do(ctx, "PATCH", "/self/sdk-session", s, nil)
}

// Compacted reports an attempt to condense a session.
func (c *Client) Compacted(ctx context.Context, session string, r Compaction) error {
	return c.do(ctx, "POST", "/self/sessions/"+session+"/compactions", r, nil)
}

// Progress reports progress of a turn.
func (c *Client) Progress(ctx context.Context, turn string, entries []ProgressEntry) error {
	return c.do(ctx, "POST", "/self/turns/"+turn+"/progress", map[string]any{"events": entries}, nil)
}

// End ends a turn.
func (c *Client) End(ctx context.Context, turn string, r EndRequest) (EndResult, error) {
	var out EndResult
	return out, c.do(ctx, "POST", "/self/turns/"+turn+"/end", r, &out)
}

// Send posts a reply or message; key makes a repeat safe.
func (c *Client) Send(ctx context.Context, r SendRequest, key string) (Message, error) {
	var out Message
	return out, c.do(ctx, "POST", "/self/messages", r, &out, "Idempotency-Key", key)
}

// Mark moves messages forward: read or only delivered.
func (c *Client) Mark(ctx context.Context, r MarkRequest, read bool) (MarkResult, error) {
	path := "/self/messages/mark-delivered"
	if read {
		path = "/self/messages/mark-read"
	}
	var out MarkResult
	return out, c.do(ctx, "POST", path, r, &out)
}

// Messages lists history; query is the raw query string.
func (c *Client) Messages(ctx context.Context, query url.Values) (MessageList, error) {
	var out MessageList
	return out, c.do(ctx, "GET", "/self/messages?"+query.Encode(), nil, &out)
}

// Pending lists the queue.
func (c *Client) Pending(ctx context.Context) (MessageList, error) {
	var out MessageList
	return out, c.do(ctx, "GET", "/self/messages/pending", nil, &out)
}

// Message reads one message.
func (c *Client) Message(ctx context.Context, id string) (Message, error) {
	var out Message
	return out, c.do(ctx, "GET", "/self/messages/"+url.PathEscape(id), nil, &out)
}

// Entities lists whom the agent may message.
func (c *Client) Entities(ctx context.Context) ([]Entity, error) {
	var out struct {
		Entities []Entity `json:"entities"`
	}
	return out.Entities, c.do(ctx, "GET", "/self/entities", nil, &out)
}

// Subscribe reads commands until the stream ends; each event goes to handle in order. LastID is the position to go on from.
func (c *Client) Subscribe(ctx context.Context, lastID string, handle func(Event)) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://node/v1/agent-runtime/subscribe", nil)
	if err != nil {
		return err
	}
	c.sign(req)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	base := c.nodes.Current()
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
		return refusal(res.StatusCode, b)
	}
	// A node that stops talking for longer than its pings is given up.
	watchdog := time.AfterFunc(silence, func() { _ = res.Body.Close() })
	defer watchdog.Stop()
	rd := bufio.NewReaderSize(res.Body, 1<<16)
	for {
		line, err := rd.ReadBytes('\n')
		if err != nil {
			c.nodes.Failed(base)
			return fmt.Errorf("command stream ended: %w", err)
		}
		watchdog.Reset(silence)
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		handle(e)
	}
}

const silence = 40 * time.Second // more than two pings of a node
