package route

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// Authenticator says who calls.
type Authenticator interface {
	// Caller checks a login or platform key. Errors: fault.Unauthenticated, fault.Unavailable.
	Caller(ctx context.Context, header func(string) string, jwtOnly bool) (account.Caller, error)
	// Runner checks a runtime key. Errors: fault.Unauthenticated.
	Runner(header func(string) string) (agent.ID, int64, error)
}

// Metrics counts requests.
type Metrics interface {
	Request(route, method string, code int, took time.Duration)
}

// Config is what the server needs.
type Config struct {
	Auth       Authenticator
	Counters   account.Counters
	RateLimit  int64 // per account and minute; 0: off (RATE-1)
	GuestLimit int64 // per source address and minute (RATE-2)
	Metrics    Metrics
	Log        *slog.Logger
	MaxBody    int // of any route
}

// Server serves a table of routes.
type Server struct {
	cfg     Config
	http    *fasthttp.Server
	allow   map[string][]string // methods by path pattern
	closing atomic.Bool
	ctx     context.Context // ends when the server begins to stop: streams and waits watch it
	stop    context.CancelFunc
	work    context.Context // of running requests; ends when the server has waited long enough for them
	cut     context.CancelFunc
	tails   []*regexp.Regexp // routes whose last parameter takes the rest of the path
	unused  sync.Map         // connections that have not asked anything yet
}

// tailKey is the user value with the rest of the path, and what stands for it in the path that is routed.
const tailKey = "tail"

var parameter = regexp.MustCompile(`\{[^}]+\}`)

// firstRequest is how long a stopping server waits for the request of a connection that has just been opened.
const firstRequest = time.Second

var errShutdown = fault.New(fault.Unavailable, "shutting_down", "This node is stopping; try again").After(time.Second)

// New returns a server of the routes.
func New(cfg Config, routes []Route) *Server {
	s := &Server{cfg: cfg, allow: map[string][]string{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.work, s.cut = context.WithCancel(context.Background())
	r := router.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.SaveMatchedRoutePath = false, false, false
	r.HandleMethodNotAllowed, r.HandleOPTIONS = false, false
	for i := range routes {
		s.allow[routes[i].Path] = append(s.allow[routes[i].Path], routes[i].Method)
	}
	for i := range routes {
		if p, ok := strings.CutSuffix(routes[i].Path, "{path}"); ok && routes[i].Tail && routes[i].Method == "GET" {
			s.tails = append(s.tails, regexp.MustCompile("^("+parameter.ReplaceAllString(p, "[^/]+")+")(.+)$"))
		}
	}
	for path, methods := range s.allow {
		if slices.Contains(methods, "GET") {
			methods = append(methods, "HEAD")
		}
		methods = append(methods, "OPTIONS")
		slices.Sort(methods)
		s.allow[path] = methods
	}
	byPath := map[string]map[string]*Route{}
	for i := range routes {
		rt := &routes[i]
		if byPath[rt.Path] == nil {
			byPath[rt.Path] = map[string]*Route{}
		}
		byPath[rt.Path][rt.Method] = rt
		if rt.Method == "GET" {
			byPath[rt.Path]["HEAD"] = rt
		}
	}
	for path, methods := range byPath {
		r.ANY(path, func(ctx *fasthttp.RequestCtx) { s.method(ctx, path, methods) })
	}
	r.NotFound = func(ctx *fasthttp.RequestCtx) {
		Fail(ctx, requestID(ctx), strings.HasPrefix(string(ctx.Path()), "/v1/llm/"), fault.New(fault.NotFound, "route_not_found", "No such route"))
	}
	s.http = &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) { s.entry(ctx, r.Handler) }, Name: "troupe", NoDefaultDate: false, MaxRequestBodySize: cfg.MaxBody,
		ReadTimeout: 60 * time.Second, IdleTimeout: 120 * time.Second, ErrorHandler: s.broken, Logger: silent{}, NoDefaultContentType: true,
		CloseOnShutdown: true, Concurrency: 16384, ReadBufferSize: 32 << 10, ConnState: s.connection,
	}
	return s
}

// silent drops fasthttp's own log lines: they are about clients that went away.
type silent struct{}

func (silent) Printf(string, ...any) {}

// broken answers requests that fasthttp could not read.
func (s *Server) broken(ctx *fasthttp.RequestCtx, err error) {
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		Fail(ctx, requestID(ctx), false, TooLarge(s.cfg.MaxBody))
	default:
		Fail(ctx, requestID(ctx), false, fault.New(fault.Invalid, "validation_failed", "The request could not be read"))
	}
	ctx.SetConnectionClose()
}

// Serve serves until Shutdown.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(listener{l}) }

// listener gives connections that are closed without a word where no request ever began: clients open some ahead of need, and an answer
// there would be one that nobody asked for.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// conn ends, instead of failing, while nothing was read from it. Reads do not overlap.
type conn struct {
	net.Conn
	heard bool
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard = true
	}
	if err != nil && !c.heard {
		err = io.EOF
	}
	return n, err
}

// Shutdown ends streams and waits, lets running requests finish, and stops.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	s.stop()
	t := time.AfterFunc(firstRequest, func() {
		s.unused.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
	})
	defer t.Stop()
	defer s.cut()
	return s.http.ShutdownWithContext(ctx)
}

// connection keeps the set of unused connections. fasthttp takes those for busy, and a stop would wait for every probe
// and every browser that connected ahead of need.
func (s *Server) connection(c net.Conn, state fasthttp.ConnState) {
	switch state {
	case fasthttp.StateNew:
		s.unused.Store(c, nil)
	case fasthttp.StateClosed:
		s.unused.Delete(c)
	}
}

// Done is closed when the server stops: long-lived handlers end then (REC-9).
func (s *Server) Done() <-chan struct{} { return s.ctx.Done() }

var idChars = regexp.MustCompile(`^[\x21-\x7e]{1,128}$`)

// requestID keeps the caller's id or makes one (OBS-6).
func requestID(ctx *fasthttp.RequestCtx) string {
	if id, ok := ctx.UserValue("request_id").(string); ok {
		return id
	}
	id := string(ctx.Request.Header.Peek("X-Request-Id"))
	if !idChars.MatchString(id) {
		id = agent.NewUUID()
	}
	ctx.SetUserValue("request_id", id)
	ctx.Response.Header.Set("X-Request-Id", id)
	return id
}

// entry normalises the path: a trailing slash is not significant (GEN-3).
func (s *Server) entry(ctx *fasthttp.RequestCtx, next fasthttp.RequestHandler) {
	id := requestID(ctx)
	if ctx.ConnRequestNum() == 1 {
		s.unused.Delete(ctx.Conn())
	}
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("request panicked", "request_id", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			Fail(ctx, id, false, fault.New(fault.Internal, "internal", "Internal server error"))
		}
	}()
	path, sent := string(ctx.Path()), string(ctx.URI().PathOriginal())
	for _, re := range s.tails {
		if m := re.FindStringSubmatch(sent); m != nil { // what follows is no part of the route
			ctx.SetUserValue(tailKey, m[2])
			sent, path = m[1], m[1]+tailKey
			ctx.Request.URI().SetPath(path)
			break
		}
	}
	if disguised(sent) {
		Fail(ctx, id, false, fault.New(fault.NotFound, "route_not_found", "No such route"))
		return
	}
	if len(path) > 1 && strings.HasSuffix(path, "/") {
		ctx.Request.URI().SetPath(strings.TrimRight(path, "/"))
	}
	if s.closing.Load() {
		ctx.SetConnectionClose()
	}
	next(ctx)
}

// disguised says whether a path would name another route once the server library has decoded and cleaned it: encoded
// separators and dot segments never do here.
func disguised(original string) bool {
	p := strings.ToLower(original)
	return strings.Contains(p, "%2f") || strings.Contains(p, "%5c") || strings.Contains(strings.ReplaceAll(p, "%2e", ".")+"/", "/../")
}

// method answers OPTIONS and methods that the path does not have (GEN-6).
func (s *Server) method(ctx *fasthttp.RequestCtx, path string, methods map[string]*Route) {
	m := string(ctx.Method())
	if rt := methods[m]; rt != nil {
		s.serve(ctx, rt)
		if m == "HEAD" {
			ctx.Response.SkipBody = true
		}
		return
	}
	ctx.Response.Header.Set("Allow", strings.Join(s.allow[path], ", "))
	if m == "OPTIONS" {
		ctx.SetStatusCode(204)
		return
	}
	Fail(ctx, requestID(ctx), strings.HasPrefix(path, "/v1/llm/"), fault.Newf(fault.Method, "method_not_allowed", "%s is not allowed here", m))
}

// serve is the order of checks up to the handler, which goes on with the objects in the path.
func (s *Server) serve(ctx *fasthttp.RequestCtx, rt *Route) {
	start := time.Now()
	timeout := rt.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	c := &Call{RequestCtx: ctx, Route: rt, RequestID: requestID(ctx), counters: s.cfg.Counters}
	c.Ctx, c.stop = context.WithTimeout(s.work, timeout)
	defer c.stop()
	res, err := s.run(c)
	if err != nil {
		if f := fault.Of(err); f.Kind == fault.Internal || f.Kind == fault.Unavailable || f.Kind == fault.Fenced {
			if s.work.Err() != nil {
				err = errShutdown
			}
			s.cfg.Log.Error("request failed", "request_id", c.RequestID, "op", rt.Op, "kind", f.Kind.String(), "err", err)
		}
		Fail(ctx, c.RequestID, rt.Access == Anthropic, err)
	} else {
		write(ctx, res)
	}
	s.cfg.Metrics.Request(rt.Path, rt.Method, ctx.Response.StatusCode(), time.Since(start))
}

func write(ctx *fasthttp.RequestCtx, res Response) {
	for k, v := range res.Header {
		ctx.Response.Header.Set(k, v)
	}
	if res.Replayed {
		ctx.Response.Header.Set("Idempotent-Replayed", "true")
	}
	if res.Stream != nil {
		_ = ctx.Conn().SetWriteDeadline(time.Time{}) // it has its own
		res.Stream(ctx)
		return
	}
	writeJSON(ctx, res.Status, res.Body)
	if res.Type != "" {
		ctx.SetContentType(res.Type)
	}
}

func (s *Server) run(c *Call) (Response, error) {
	if err := s.authenticate(c); err != nil {
		return Response{}, err
	}
	if err := s.limit(c); err != nil {
		return Response{}, err
	}
	switch rt := c.Route; {
	case rt.Feature && c.Caller.Account.NoAgents:
		return Response{}, fault.New(fault.Forbidden, "feature_disabled", "AI Agents feature is not enabled for this account")
	case (rt.Access == Account || rt.Access == Admin) && c.Caller.Scope == account.ScopeAnalytics && !strings.HasPrefix(rt.Path, "/v1/spotlight/"):
		return Response{}, fault.New(fault.Forbidden, "key_scope", "This key is limited to analytics routes")
	case rt.Access == Admin && !c.Caller.Account.Admin:
		return Response{}, fault.New(fault.Forbidden, "admin_required", "Only administrators may do this")
	}
	return c.Route.Handle(c)
}

func (s *Server) authenticate(c *Call) (err error) {
	switch c.Route.Access {
	case JWT, Account, Admin:
		c.Caller, err = s.cfg.Auth.Caller(c.Ctx, c.Header, c.Route.Access == JWT)
	case Runtime, Anthropic:
		c.Runner.Agent, c.Runner.Incarnation, err = s.cfg.Auth.Runner(c.Header)
		if e := c.Header("X-Troupe-Runner-Epoch"); err == nil && e != "" {
			n, perr := strconv.ParseInt(e, 10, 64)
			if perr != nil || n < 1 {
				return fault.New(fault.Invalid, "validation_failed", "X-Troupe-Runner-Epoch must be a positive integer").At("X-Troupe-Runner-Epoch", "must be a positive integer")
			}
			c.Runner.Epoch = n
		}
	}
	return err
}

// limit counts the request (§4). A counter that cannot be read lets it through without headers (RATE-5).
func (s *Server) limit(c *Call) error {
	key, limit := "", int64(0)
	switch c.Route.Access {
	case JWT, Account, Admin:
		key, limit = "rate/"+string(c.Caller.Account.ID), s.cfg.RateLimit
	case Guest:
		key, limit = "guest/"+c.RemoteIP().String(), s.cfg.GuestLimit
	}
	if limit <= 0 {
		return nil
	}
	return c.Limit(key, limit)
}

// Limit counts a call of at most limit per minute under key and sets the rate headers (RATE-1, RATE-3).
func (c *Call) Limit(key string, limit int64) error {
	w, err := c.counters.Count(c.Ctx, key, limit, 60000)
	if err != nil {
		return nil
	}
	h := &c.Response.Header
	h.Set("X-RateLimit-Limit", strconv.FormatInt(limit, 10))
	h.Set("X-RateLimit-Remaining", strconv.FormatInt(max(0, limit-w.Count), 10))
	h.Set("X-RateLimit-Reset", strconv.FormatInt((w.EndMS+999)/1000, 10))
	if w.Refused {
		return fault.New(fault.Limited, "rate_limited", "Rate limit exceeded").After(time.Until(time.UnixMilli(w.EndMS)) + time.Second)
	}
	return nil
}
