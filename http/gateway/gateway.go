// Package gateway forwards model calls with the agent's real credential and meters their output tokens (semantics.md §16).
//
// Before a call, tokens are reserved; the forwarded max_tokens is lowered to the reservation where it is smaller, so no
// number of parallel callers can overspend. After it, the real use is charged and the reservation released in one step,
// durable before the last byte is relayed. Bodies are never logged.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/protocol"
	"troupe/http/route"
	"troupe/persistence/seal"
)

// Store is what the gateway reads and charges.
type Store interface {
	agent.Ledger
	Load(ctx context.Context, id agent.ID) (agent.Snapshot, error)
	ListProviderKeys(ctx context.Context, a account.ID) ([]account.ProviderKey, error)
}

// Metrics counts model calls.
type Metrics interface {
	ModelCall(code int)
	ModelTokens(kind, model string, n int64)
}

// Config is what the gateway needs.
type Config struct {
	Store    Store
	Agents   *agentclient.Client
	Box      *seal.Box
	Settings agent.Settings
	Upstream string            // base URL of the provider
	Platform agent.Secret      // the installation's own key, empty for none
	Client   *http.Client      // for Upstream
	Guarded  *http.Client      // for base URLs that accounts chose
	Rehearse http.RoundTripper // used instead of Upstream when set
	Metrics  Metrics
	Log      *slog.Logger
}

// Limits.
const (
	maxBody     = 32 << 20 // LLM-10
	renewEvery  = 20 * time.Second
	callTimeout = time.Hour
	runesPerTok = 4 // of the estimate for broken streams (LLM-6)
)

// Gateway serves model calls.
type Gateway struct {
	cfg     Config
	wg      sync.WaitGroup
	closing chan struct{}
}

// New returns a gateway.
func New(cfg Config) *Gateway { return &Gateway{cfg: cfg, closing: make(chan struct{})} }

// Close tries open charges once more. One that fails again ends as a reservation that nobody renews: fully used (LLM-7).
func (g *Gateway) Close() {
	close(g.closing)
	g.wg.Wait()
}

// Routes is the table of this room.
func (g *Gateway) Routes() []route.Route {
	r := func(path, op string, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: "POST", Path: path, Op: op, Access: route.Anthropic, Body: route.Raw, Limit: maxBody, Timeout: callTimeout, Handle: h}
	}
	return []route.Route{
		r("/v1/llm/anthropic/v1/messages", "llmCreateMessage", g.messages),
		r("/v1/llm/anthropic/v1/messages/count_tokens", "llmCountTokens", g.countTokens),
	}
}

// request is what the gateway looks at.
type request struct {
	Model     string
	MaxTokens *int64
	Messages  bool // is a list
	Thinking  int64
	limits    []span // where the values of max_tokens stand in the body
}

type span struct{ from, to int64 }

var errNotObject = errors.New("not a JSON object of the expected members")

// parse reads the members by their exact names, as the provider does: encoding/json would take "Max_Tokens" as well, and
// a caller could then show the gateway one limit and the provider another. Of duplicates the last counts (GEN-5).
func parse(body []byte) (r request, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') || !json.Valid(body) {
		return r, errNotObject
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return r, err
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return r, err
		}
		switch name {
		case "model":
			err = json.Unmarshal(v, &r.Model)
		case "messages":
			var list []json.RawMessage
			err = json.Unmarshal(v, &list)
			r.Messages = list != nil
		case "thinking":
			var t map[string]json.RawMessage
			err = json.Unmarshal(v, &t)
			if budget := t["budget_tokens"]; err == nil && budget != nil {
				err = json.Unmarshal(budget, &r.Thinking)
			}
		case "max_tokens":
			r.MaxTokens = nil
			err = json.Unmarshal(v, &r.MaxTokens)
			to := dec.InputOffset()
			r.limits = append(r.limits, span{to - int64(len(v)), to})
		}
		if err != nil {
			return r, errNotObject
		}
	}
	return r, nil
}

// lowered is the body with every value of max_tokens set to n and all other bytes as they are (LLM-3).
func (r *request) lowered(body []byte, n int64) []byte {
	out, at := make([]byte, 0, len(body)), int64(0)
	for _, l := range r.limits {
		out = strconv.AppendInt(append(out, body[at:l.from]...), n, 10)
		at = l.to
	}
	return append(out, body[at:]...)
}

func badRequest(text string) error { return fault.New(fault.Invalid, "validation_failed", text) }

func (g *Gateway) read(c *route.Call, needMax bool) (body []byte, r request, err error) {
	if body, err = c.Bytes(); err != nil {
		return nil, r, err
	}
	body = append([]byte(nil), body...)
	if r, err = parse(body); err != nil {
		return nil, r, badRequest("The body must be a JSON object of the Messages API")
	}
	switch {
	case r.Model == "":
		return nil, r, badRequest("model: is required")
	case !r.Messages:
		return nil, r, badRequest("messages: is required")
	case needMax && (r.MaxTokens == nil || *r.MaxTokens < 0):
		return nil, r, badRequest("max_tokens: must be at least 0")
	}
	return body, r, nil
}

// credential is the key and the place to which a call goes.
type credential struct {
	key    agent.Secret
	base   string
	client *http.Client
}

// credential picks the agent's own key, else the account's newest active one, else the installation's (LLM-3).
func (g *Gateway) credential(ctx context.Context, id agent.ID) (*credential, error) {
	sn, err := g.cfg.Store.Load(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil, agent.Refused("key")
	}
	if err != nil {
		return nil, err
	}
	own := &credential{base: g.cfg.Upstream, client: g.cfg.Client, key: g.cfg.Platform}
	if g.cfg.Rehearse != nil {
		own.client = &http.Client{Transport: g.cfg.Rehearse}
		own.base = "http://rehearsal"
		return own, nil
	}
	var spec agent.Spec
	if err := json.Unmarshal(sn.Spec, &spec); err != nil {
		return nil, err
	}
	if spec.Has(agent.SlotAnthropic) {
		k, err := g.cfg.Box.Open(string(id), agent.SlotAnthropic, spec.Sealed[agent.SlotAnthropic])
		own.key = agent.NewSecret(k)
		return own, err
	}
	keys, err := g.cfg.Store.ListProviderKeys(ctx, spec.Account)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Status != account.KeyActive {
			continue
		}
		clear, err := g.cfg.Box.Open(string(k.Account), "provider/"+k.ID, k.Sealed)
		if err != nil {
			return nil, err
		}
		own.key = agent.NewSecret(clear)
		if k.BaseURL != "" {
			own.base, own.client = strings.TrimSuffix(k.BaseURL, "/"), g.cfg.Guarded
		}
		return own, nil
	}
	if own.key.Empty() {
		return nil, fault.New(fault.Forbidden, "forbidden", "No model credential is configured for this agent")
	}
	return own, nil
}

// upstream makes the request to the provider: body as it is, only the headers of LLM-3.
func (g *Gateway) upstream(ctx context.Context, c *route.Call, cr *credential, path string, body []byte) (*http.Request, error) {
	u := cr.base + path
	if q := c.QueryArgs().QueryString(); len(q) > 0 {
		u += "?" + string(q)
	}
	if _, err := url.Parse(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range c.Request.Header.All() {
		name := strings.ToLower(string(k))
		if strings.HasPrefix(name, "anthropic-") || strings.HasPrefix(name, "x-stainless-") || name == "content-type" || name == "accept" || name == "user-agent" {
			req.Header.Add(name, string(v))
		}
	}
	if req.Header.Get("anthropic-version") == "" {
		req.Header.Set("anthropic-version", "2023-06-01")
	}
	req.Header.Set("x-api-key", cr.key.Reveal())
	return req, nil
}

// relayed are the response headers that are passed through besides anthropic-*.
func relayHeaders(from http.Header) map[string]string {
	out := map[string]string{}
	for k := range from {
		name := strings.ToLower(k)
		if strings.HasPrefix(name, "anthropic-") || name == "request-id" || name == "retry-after" {
			out[k] = from.Get(k)
		}
	}
	return out
}

func unreachable(err error) error {
	return fault.New(fault.Upstream, "upstream_failed", "The model service could not be reached").Because(err)
}

func (g *Gateway) countTokens(c *route.Call) (route.Response, error) {
	body, _, err := g.read(c, false)
	if err != nil {
		return route.Response{}, err
	}
	if err := g.live(c); err != nil {
		return route.Response{}, err
	}
	cr, err := g.credential(c.Ctx, c.Runner.Agent)
	if err != nil {
		return route.Response{}, err
	}
	req, err := g.upstream(c.Ctx, c, cr, "/v1/messages/count_tokens", body)
	if err != nil {
		return route.Response{}, err
	}
	res, err := cr.client.Do(req)
	if err != nil {
		return route.Response{}, unreachable(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return route.Response{}, unreachable(err)
	}
	return route.Response{Status: res.StatusCode, Body: b, Header: relayHeaders(res.Header)}, nil
}

// live checks the key of a call that reserves nothing.
func (g *Gateway) live(c *route.Call) error {
	sn, err := g.cfg.Store.Load(c.Ctx, c.Runner.Agent)
	switch {
	case fault.Is(err, fault.NotFound) || err == nil && (sn.Figures.Incarnation != c.Runner.Incarnation || sn.Figures.Deleted):
		return agent.Refused("key")
	case err == nil && c.Runner.Epoch != 0 && sn.Figures.RunnerEpoch != c.Runner.Epoch:
		return agent.Refused("runner")
	}
	return err
}

// call is one metered call on its way.
type call struct {
	g       *Gateway
	id      agent.ID
	call    string
	model   string
	loop    bool // it names its turn
	usage   usage
	runes   int64        // of output relayed so far
	sofar   atomic.Int64 // output tokens reported so far
	settled bool
	stop    context.CancelFunc
	renewed func() // ends the renewal
}

func (g *Gateway) messages(c *route.Call) (route.Response, error) {
	res, err := g.forward(c)
	code := res.Status
	if err != nil {
		code = map[fault.Kind]int{fault.Exhausted: 402, fault.Limited: 429, fault.Forbidden: 403, fault.Unauthenticated: 401, fault.Invalid: 400, fault.Upstream: 502}[fault.Of(err).Kind]
	}
	g.cfg.Metrics.ModelCall(code)
	return res, err
}

func (g *Gateway) forward(c *route.Call) (route.Response, error) {
	body, r, err := g.read(c, true)
	if err != nil {
		if lerr := g.live(c); lerr != nil { // a dead key is told first (ERR-3)
			err = lerr
		}
		return route.Response{}, err
	}
	cr, err := g.credential(c.Ctx, c.Runner.Agent)
	if err != nil {
		return route.Response{}, err
	}
	turn := agent.TurnID("")
	if raw := c.Header("X-Troupe-Turn-Id"); raw != "" {
		u, ok := agent.ParseUUID(raw)
		if !ok {
			return route.Response{}, agent.Refused("turn")
		}
		turn = agent.TurnID(u)
	}
	k := &call{g: g, id: c.Runner.Agent, call: agent.NewUUID(), model: r.Model, loop: turn != ""}
	res := &agent.Reservation{Agent: k.id, Call: k.call, Incarnation: c.Runner.Incarnation, RunnerEpoch: c.Runner.Epoch, Turn: turn, Want: max(*r.MaxTokens, 1),
		Overdraft: g.cfg.Settings.Overdraft, Model: r.Model}
	if r.Thinking > 0 {
		res.Floor = r.Thinking + 1
	}
	granted, err := g.cfg.Store.Reserve(c.Ctx, res)
	if err != nil {
		if fault.Is(err, fault.Unavailable) { // it may have been made: nothing was used of it
			k.settle(false)
		}
		if fault.Is(err, fault.Exhausted) && granted.Turn != "" { // BAL-6
			_, _ = agentclient.Ask[struct{}](c.Ctx, g.cfg.Agents, k.id, protocol.Exhaust, protocol.ExhaustCommand{Turn: granted.Turn})
		}
		return route.Response{}, err
	}
	if granted.Tokens < *r.MaxTokens || len(r.limits) > 1 {
		body = r.lowered(body, min(granted.Tokens, *r.MaxTokens))
	}
	return k.send(c, cr, body)
}

// send makes the upstream call. The context of a streamed one outlives the handler and ends with the stream.
func (k *call) send(c *route.Call, cr *credential, body []byte) (route.Response, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Ctx), callTimeout)
	k.stop = cancel
	k.renewed = k.renew(ctx)
	req, err := k.g.upstream(ctx, c, cr, "/v1/messages", body)
	if err != nil {
		k.abandon()
		return route.Response{}, err
	}
	res, err := cr.client.Do(req)
	if err != nil {
		k.abandon()
		return route.Response{}, unreachable(err)
	}
	if res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return k.stream(res), nil
	}
	defer k.end()
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		k.settle(true)
		return route.Response{}, unreachable(err)
	}
	if res.StatusCode == http.StatusOK {
		var m struct {
			Usage usage `json:"usage"`
		}
		if json.Unmarshal(b, &m) == nil {
			k.usage = m.Usage
		} else { // cut at the limit, or no answer of the Messages API: what is relayed is paid for
			k.runes = int64(utf8.RuneCount(b))
			k.settle(true)
		}
	}
	k.settle(false) // an upstream error costs nothing (LLM-7)
	return route.Response{Status: res.StatusCode, Body: b, Header: relayHeaders(res.Header), Type: res.Header.Get("Content-Type")}, nil
}

// end stops the renewal and whatever is left of the upstream call.
func (k *call) end() {
	k.renewed()
	k.stop()
}

func (k *call) abandon() {
	k.end()
	k.settle(false)
}

// renew keeps the reservation alive while the call runs (LLM-7).
func (k *call) renew(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		t := time.NewTicker(renewEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				rctx, done := context.WithTimeout(ctx, 5*time.Second)
				if err := k.g.cfg.Store.Renew(rctx, k.id, k.call, k.sofar.Load()); err != nil && ctx.Err() == nil {
					k.g.cfg.Log.Warn("reservation not renewed", "agent_id", k.id, "err", err)
				}
				done()
			}
		}
	}()
	return func() { cancel(); wg.Wait() }
}

// usage is the usage member of the Messages API. Tokens of server-side compaction are listed in iterations only.
type usage struct {
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	Iterations []struct {
		Type   string `json:"type"`
		Output int64  `json:"output_tokens"`
	} `json:"iterations"`
}

func (u *usage) total() agent.Usage {
	out := agent.Usage{Input: u.Input, Output: u.Output, CacheWrite: u.CacheWrite, CacheRead: u.CacheRead, Requests: 1}
	for _, it := range u.Iterations {
		if it.Type == "compaction" {
			out.Output += it.Output
		}
	}
	return out
}

// settle charges the call and releases its reservation (LLM-5). A store that does not confirm is asked again in the
// background; the call does not fail.
func (k *call) settle(broken bool) {
	if k.settled {
		return
	}
	k.settled = true
	u := k.usage.total()
	if broken {
		u.Output = max(u.Output, (k.runes+runesPerTok-1)/runesPerTok) // LLM-6
	}
	s := &agent.Settlement{Agent: k.id, Call: k.call, Usage: u, Model: k.model, Estimated: broken, Loop: k.loop}
	for kind, n := range map[string]int64{"input": u.Input, "output": u.Output, "cache_write": u.CacheWrite, "cache_read": u.CacheRead} {
		k.g.cfg.Metrics.ModelTokens(kind, k.model, n)
	}
	if k.try(s) == nil {
		return
	}
	k.g.wg.Add(1)
	go func() {
		defer k.g.wg.Done()
		for pause := 200 * time.Millisecond; pause < 30*time.Second; pause *= 2 { // then the reservation ends as fully used
			closing := false
			select {
			case <-time.After(pause):
			case <-k.g.closing:
				closing = true
			}
			if k.try(s) == nil {
				return
			}
			if closing {
				break
			}
		}
		k.g.cfg.Log.Error("model call could not be charged", "agent_id", k.id, "call", k.call)
	}()
}

func (k *call) try(s *agent.Settlement) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := k.g.cfg.Store.Settle(ctx, s)
	return err
}

// Probe asks the provider whether a key works, with the smallest call there is.
func (g *Gateway) Probe(ctx context.Context, key agent.Secret, base string) error {
	cr := &credential{key: key, base: g.cfg.Upstream, client: g.cfg.Client}
	switch {
	case base != "":
		cr.base, cr.client = strings.TrimSuffix(base, "/"), g.cfg.Guarded
	case g.cfg.Rehearse != nil:
		cr.base, cr.client = "http://rehearsal", &http.Client{Transport: g.cfg.Rehearse}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body := fmt.Sprintf(`{"model":%q,"max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`, agent.DefaultCompactWith)
	req, err := http.NewRequestWithContext(ctx, "POST", cr.base+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("content-type", "application/json")
	req.Header.Set("anthropic-version", "2023-06-01")
	req.Header.Set("x-api-key", key.Reveal())
	res, err := cr.client.Do(req)
	if err != nil {
		return fault.New(fault.Upstream, "upstream_failed", "The provider could not be reached").Because(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	switch {
	case res.StatusCode == 401 || res.StatusCode == 403:
		return fault.New(fault.Upstream, "upstream_failed", "Authentication failed: Invalid API key")
	case res.StatusCode >= 300:
		return fault.Newf(fault.Upstream, "upstream_failed", "The provider answered %d", res.StatusCode)
	}
	return nil
}
