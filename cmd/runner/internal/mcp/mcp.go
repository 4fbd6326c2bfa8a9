// Package mcp gives the model the tools of the MCP servers that its agent may use (semantics.md §26).
//
//	Tools ─┬ sync: asks the control plane what may be used, connects what is new, drops what is gone
//	       └ the tools of the servers that answer, those that the grant allows, named mcp__server__tool
//
// A server that cannot be reached costs the agent its tools and nothing else: the turn goes on without them. One that has
// failed before is tried again beside the turn, which does not wait for it. Servers started as processes have their own
// process group, which is killed whole.
package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"troupe/cmd/runner/internal/tool"
	"troupe/http/runnerproto"
)

// Limits.
const (
	connectWithin = 20 * time.Second // with its list of tools
	callWithin    = 10 * time.Minute
	listAgain     = time.Minute      // the list of servers is read again after that, whatever the version says: notices may be lost, tokens expire
	retryAfter    = 30 * time.Second // a server that could not be reached, doubled each time
	retryMost     = 5 * time.Minute
	patience      = time.Second     // how long a turn waits for a server that has failed before
	stopWithin    = 3 * time.Second // between closing a process's input and killing it
	maxTools      = 200             // of one server
	maxName       = 128
)

// Lister is the control plane's list of servers.
type Lister interface {
	MCPServers(ctx context.Context) ([]runnerproto.MCPServer, error)
}

// Manager keeps the connections between turns. It is used by one turn at a time.
type Manager struct {
	From    Lister
	Env     []string // of processes, before the server's own
	Dir     string   // where they run
	Version string
	Log     *slog.Logger

	reading sync.Mutex     // held while the list is read
	work    sync.WaitGroup // attempts to connect, and connections that are being closed
	mu      sync.Mutex
	life    context.Context
	end     context.CancelFunc
	version int64
	read    time.Time
	failed  time.Time // when it could not be read
	servers map[string]*server
}

// server is one server and the connection to it.
type server struct {
	cfg   atomic.Pointer[runnerproto.MCPServer] // headers and allowed tools change while a connection lives
	tools atomic.Pointer[[]*mcp.Tool]           // of the connection
	stale atomic.Bool                           // the server says that its tools have changed
	gone  atomic.Bool                           // the agent may not use it any more
	tried atomic.Bool                           // an attempt to connect has ended

	mu      sync.Mutex // held while it is connected
	session *mcp.ClientSession
	end     context.CancelFunc // ends what the connection runs on
	group   int                // process group; 0: none
	failed  time.Time
	pause   time.Duration // after failed
}

// alive lasts until Close.
func (m *Manager) alive() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life == nil {
		m.life, m.end = context.WithCancel(context.Background())
	}
	return m.life
}

// sync brings the connections in line with what the agent may use. Attempts to connect go on when it stops waiting for them.
func (m *Manager) sync(ctx context.Context, version int64) {
	m.refresh(ctx, version)
	type attempt struct {
		done  chan struct{}
		known bool // to be out of reach
	}
	var attempts []attempt
	life := m.alive()
	for _, s := range m.all() {
		at := attempt{make(chan struct{}), s.tried.Load()}
		attempts = append(attempts, at)
		m.work.Add(1)
		go func() { // ends within connectWithin, or with Close
			defer m.work.Done()
			defer close(at.done)
			if err := s.ready(life, m, false); err != nil {
				m.Log.Warn("MCP server is not available", "server", s.cfg.Load().Name, "err", err)
			}
		}()
	}
	soon := time.NewTimer(patience)
	defer soon.Stop()
	for _, at := range attempts {
		late := soon.C
		if !at.known {
			late = nil
		}
		select {
		case <-at.done:
		case <-ctx.Done():
			return
		case <-late:
			soon.Reset(0) // for those behind it, too
		}
	}
}

// refresh reads the list of servers if it is of another version of the agent's configuration, or old.
func (m *Manager) refresh(ctx context.Context, version int64) {
	m.reading.Lock()
	defer m.reading.Unlock()
	m.mu.Lock()
	known := m.version == version && time.Since(m.read) < listAgain || time.Since(m.failed) < retryAfter/3
	m.mu.Unlock()
	if !known {
		m.reload(ctx, version)
	}
}

func (m *Manager) all() []*server {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*server
	for _, name := range slices.Sorted(maps.Keys(m.servers)) {
		out = append(out, m.servers[name])
	}
	return out
}

// reload reads the list. Without an answer what is known goes on.
func (m *Manager) reload(ctx context.Context, version int64) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	list, err := m.From.MCPServers(ctx)
	if err != nil {
		m.Log.Warn("list of MCP servers not read", "err", err)
		m.mu.Lock()
		m.failed = time.Now()
		m.mu.Unlock()
		return
	}
	m.mu.Lock()
	former := m.servers
	m.servers, m.version, m.read = map[string]*server{}, version, time.Now()
	for _, cfg := range list {
		s := former[cfg.Name]
		if s != nil && same(*s.cfg.Load(), cfg) {
			delete(former, cfg.Name)
		} else {
			s = &server{}
		}
		s.cfg.Store(&cfg)
		m.servers[cfg.Name] = s
	}
	m.mu.Unlock()
	for _, s := range former {
		s.gone.Store(true)
		m.work.Add(1)
		go func() { // it may be connecting still
			defer m.work.Done()
			s.close()
		}()
	}
}

// same says whether a connection may go on under a new configuration: headers and allowed tools take effect at once.
func same(a, b runnerproto.MCPServer) bool {
	a.Headers, b.Headers, a.Tools, b.Tools = nil, nil, nil, nil
	return reflect.DeepEqual(a, b)
}

// Close ends every connection and process.
func (m *Manager) Close() {
	m.alive()
	m.end()
	var wg sync.WaitGroup
	for _, s := range m.all() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.close()
		}()
	}
	wg.Wait()
	m.work.Wait()
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

// drop ends the connection. The lock is held.
func (s *server) drop() {
	if s.session != nil {
		_ = s.session.Close() // waits for the process
	}
	if s.end != nil {
		s.end()
	}
	if s.group > 0 {
		_ = syscall.Kill(-s.group, syscall.SIGKILL) // whatever it left behind
	}
	s.session, s.end, s.group = nil, nil, 0
	s.tools.Store(nil)
}

// ready makes sure that there is a connection and a list of tools. Again connects even if it failed a moment ago.
func (s *server) ready(ctx context.Context, m *Manager, again bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.tried.Store(true)
	if s.gone.Load() {
		return errors.New("the agent may not use it any more")
	}
	if s.session != nil && !s.stale.Load() {
		return nil
	}
	if s.session == nil && !again && time.Since(s.failed) < s.pause {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	err := s.connect(ctx, m)
	if err == nil {
		err = s.list(ctx)
	}
	if err != nil {
		s.drop()
		s.failed, s.pause = time.Now(), min(max(retryAfter, 2*s.pause), retryMost)
		return err
	}
	s.pause = 0
	return nil
}

func (s *server) connect(ctx context.Context, m *Manager) error {
	if s.session != nil {
		return nil
	}
	var tr mcp.Transport
	var cmd *exec.Cmd
	cfg := s.cfg.Load()
	switch cfg.Type {
	case "stdio":
		cmd = exec.Command(cfg.Command, cfg.Args...)
		cmd.Dir, cmd.Env = m.Dir, slices.Clone(m.Env)
		for k, v := range cfg.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.WaitDelay = stopWithin
		tr = &mcp.CommandTransport{Command: cmd, TerminateDuration: stopWithin}
	case "sse":
		tr = &mcp.SSEClientTransport{Endpoint: cfg.URL, HTTPClient: s.client()}
	default:
		tr = &mcp.StreamableClientTransport{Endpoint: cfg.URL, HTTPClient: s.client()}
	}
	c := mcp.NewClient(&mcp.Implementation{Name: "troupe-runner", Version: m.Version}, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) {
			s.stale.Store(true)
		}})
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // an SSE connection lives as long as what it was made with
	s.end = end
	defer context.AfterFunc(ctx, end)()
	session, err := c.Connect(life, tr, nil)
	if cmd != nil && cmd.Process != nil {
		s.group = cmd.Process.Pid
	}
	if err != nil {
		if s.group > 0 {
			_ = syscall.Kill(-s.group, syscall.SIGKILL)
			_ = cmd.Wait() // reaped, if the library has not done it
		}
		return err
	}
	s.session = session
	return nil
}

// client adds the present headers to every request, and follows no redirect: they are for the server that is named, nobody else.
func (s *server) client() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: trip(func(r *http.Request) (*http.Response, error) {
			cfg := s.cfg.Load()
			at, err := url.Parse(cfg.URL)
			if err != nil {
				return nil, err
			}
			if r.URL.Scheme != at.Scheme || r.URL.Host != at.Host { // the endpoint that a server names for its event stream
				return nil, fmt.Errorf("the server refers to another one, %s", r.URL.Host)
			}
			r = r.Clone(r.Context())
			for k, v := range cfg.Headers {
				r.Header.Set(k, v)
			}
			return http.DefaultTransport.RoundTrip(r)
		}),
	}
}

type trip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func (s *server) list(ctx context.Context) error {
	s.stale.Store(false)
	tools := []*mcp.Tool{}
	for t, err := range s.session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		if tools = append(tools, t); len(tools) == maxTools {
			break
		}
	}
	s.tools.Store(&tools)
	return nil
}

// Tools connects and lists the tools of the servers that answer, under names that the model may use. Version is that of the
// agent's configuration.
func (m *Manager) Tools(ctx context.Context, version int64) []tool.Tool {
	m.sync(ctx, version)
	var out []tool.Tool
	taken := map[string]bool{}
	for _, s := range m.all() {
		cfg, tools := s.cfg.Load(), s.tools.Load()
		if tools == nil {
			continue
		}
		for _, t := range *tools {
			if cfg.Tools != nil && !slices.Contains(cfg.Tools, t.Name) {
				continue
			}
			schema, err := json.Marshal(t.InputSchema)
			if err != nil || t.InputSchema == nil {
				schema = json.RawMessage(`{"type":"object"}`)
			}
			name := unique(taken, "mcp__"+plain(cfg.Name)+"__"+plain(t.Name))
			original := t.Name
			out = append(out, tool.New(name, t.Description, schema, func(ctx context.Context, in json.RawMessage) (string, bool) { return s.call(ctx, m, original, in) }))
		}
	}
	return out
}

// plain makes a name of the characters that the Messages API takes.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 128 && (r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '_'
	}, s)
}

func unique(taken map[string]bool, name string) string {
	name = name[:min(len(name), maxName)]
	for i, base := 2, name; taken[name]; i++ {
		suffix := fmt.Sprintf("_%d", i)
		name = base[:min(len(base), maxName-len(suffix))] + suffix
	}
	taken[name] = true
	return name
}

// call calls a tool. A connection that has broken is made anew, once; what the server may have done is not known then, so
// the call itself is repeated only if it was never sent.
func (s *server) call(ctx context.Context, m *Manager, name string, in json.RawMessage) (out string, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if s.cfg.Load().URL != "" { // its token may have been renewed, its grant changed
		m.mu.Lock()
		version := m.version
		m.mu.Unlock()
		m.refresh(ctx, version)
	}
	if cfg := s.cfg.Load(); cfg.Tools != nil && !slices.Contains(cfg.Tools, name) {
		return "Error: the agent is not allowed to use this tool", true
	}
	s.mu.Lock()
	session := s.session
	s.mu.Unlock()
	if session == nil {
		if err := s.ready(ctx, m, true); err != nil {
			return "Error: the MCP server is not available: " + err.Error(), true
		}
		s.mu.Lock()
		session = s.session
		s.mu.Unlock()
	}
	if session == nil {
		return "Error: the MCP server is not available", true
	}
	var args map[string]any
	if len(in) > 0 {
		if err := json.Unmarshal(in, &args); err != nil {
			return "Error: the input is no object", true
		}
	}
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: args})
	if err != nil {
		if ctx.Err() == nil && session.Ping(ctx, nil) != nil { // the connection is gone; the next call makes a new one
			s.mu.Lock()
			if s.session == session {
				s.drop()
			}
			s.mu.Unlock()
		}
		return "Error: " + err.Error(), true
	}
	return text(res), res.IsError
}

// text is what the model reads of a result: its texts, a word on whatever else there is, or the structured content.
func text(res *mcp.CallToolResult) string {
	var parts []string
	for _, c := range res.Content {
		switch x := c.(type) {
		case *mcp.TextContent:
			parts = append(parts, x.Text)
		case *mcp.ImageContent:
			parts = append(parts, fmt.Sprintf("[image %s, %d bytes]", x.MIMEType, len(x.Data)))
		case *mcp.AudioContent:
			parts = append(parts, fmt.Sprintf("[audio %s, %d bytes]", x.MIMEType, len(x.Data)))
		case *mcp.ResourceLink:
			parts = append(parts, fmt.Sprintf("[resource %s %s]", x.URI, x.Name))
		case *mcp.EmbeddedResource:
			switch {
			case x.Resource == nil:
			case x.Resource.Text != "":
				parts = append(parts, x.Resource.Text)
			default:
				parts = append(parts, fmt.Sprintf("[resource %s, %d bytes]", x.Resource.URI, len(x.Resource.Blob)))
			}
		}
	}
	if len(parts) == 0 && res.StructuredContent != nil {
		if b, err := json.Marshal(res.StructuredContent); err == nil {
			return string(b)
		}
	}
	return strings.Join(parts, "\n")
}
