package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"troupe/actors/agent"
)

// tickets is an MCP server made with the official SDK, which wants a token if one is set.
type tickets struct {
	*httptest.Server
	mu    sync.Mutex
	token string
	seen  []string // values of the Authorization header
}

type lookup struct {
	ID string `json:"id"`
}

func newTickets(t *testing.T, mux *http.ServeMux) *tickets {
	s := mcp.NewServer(&mcp.Implementation{Name: "tickets", Version: "1"}, nil)
	for _, name := range []string{"list_tickets", "get_ticket", "close_ticket"} {
		mcp.AddTool(s, &mcp.Tool{Name: name, Description: "of tickets"}, func(_ context.Context, _ *mcp.CallToolRequest, in lookup) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "ticket " + in.ID}}}, nil, nil
		})
	}
	ti := &tickets{}
	inner := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, nil)
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		ti.mu.Lock()
		want := ti.token
		ti.seen = append(ti.seen, r.Header.Get("Authorization"))
		ti.mu.Unlock()
		if want != "" && r.Header.Get("Authorization") != "Bearer "+want {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	ti.Server = httptest.NewServer(mux)
	t.Cleanup(ti.Close)
	return ti
}

func local(c *Config) { c.AllowHosts = []string{"127.0.0.1"} }

func (w *world) server(body map[string]any) string {
	w.t.Helper()
	return w.want(w.call("POST", "/v1/mcp/servers", body), 201).str("id")
}

func TestMCP_1_TheRegistry(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		w := startWorld(t, func(c *Config) { change(c); local(c) })
		made := w.want(w.call("POST", "/v1/mcp/servers", map[string]any{"name": "tickets", "description": "Ticket system", "url": "http://127.0.0.1:1/mcp",
			"headers": map[string]any{"X-Token": "s3cret"}, "configuration": map[string]any{"team": "a"}}), 201)
		id := made.str("id")
		if made.str("transport_type") != "http" || made.str("hosting_mode") != "remote" || made.str("status") != "active" || made.str("health_status") != "unknown" || made.get("last_health_check") != nil {
			t.Errorf("MCP-3: %s", made.body)
		}
		stdio := w.want(w.call("POST", "/v1/mcp/servers", map[string]any{"name": "Tickets", "command": "srv", "args": []string{"-x"}, "env": map[string]any{"T": "s3cret"}}), 201)
		if stdio.str("transport_type") != "stdio" || stdio.str("hosting_mode") != "isolated" || stdio.get("endpoint_url") != nil {
			t.Errorf("%s", stdio.body)
		}
		for _, bad := range []map[string]any{{"name": "x"}, {"name": "x", "url": "http://127.0.0.1:1/", "command": "c"}, {"name": "x", "transport_type": "http", "command": "c"},
			{"name": "x", "transport_type": "stdio", "url": "http://127.0.0.1:1/"}, {"url": "http://127.0.0.1:1/"}, {"name": "x", "url": "ftp://a.example"}, {"name": "x", "url": "http://10.0.0.1/"},
			{"name": "x", "url": "http://127.0.0.1:1/", "headers": map[string]any{"A": 1}}, {"name": strings.Repeat("x", 101), "command": "c"}} {
			if a := w.call("POST", "/v1/mcp/servers", bad); a.status != 400 {
				t.Errorf("%v: %d %s", bad, a.status, a.body)
			}
		}
		w.refused(w.call("POST", "/v1/mcp/servers", map[string]any{"name": "tickets", "command": "c"}), 409, "name_taken")
		w.refused(w.call("PUT", "/v1/mcp/servers/"+stdio.str("id"), map[string]any{"name": "tickets"}), 409, "name_taken")
		w.refused(w.call("PUT", "/v1/mcp/servers/"+stdio.str("id"), map[string]any{"url": "http://127.0.0.1:1/"}), 400, "validation_failed")
		up := w.want(w.call("PUT", "/v1/mcp/servers/"+id, map[string]any{"status": "inactive", "description": nil}), 200)
		if up.str("status") != "inactive" || up.get("description") != nil || up.str("name") != "tickets" || up.str("updated_at") <= made.str("updated_at") {
			t.Errorf("%s", up.body)
		}
		list := w.want(w.call("GET", "/v1/mcp/servers?status=active", nil), 200)
		if rows := list.doc["mcp_servers"].([]any); len(rows) != 1 || list.num("pagination.total") != 1 {
			t.Errorf("%s", list.body)
		}
		got := w.want(w.call("GET", "/v1/mcp/servers/"+id, nil), 200)
		if got.str("configuration.team") != "a" || strings.Contains(string(got.body)+string(list.body)+string(made.body)+string(stdio.body), "s3cret") {
			t.Errorf("%s", got.body)
		}
		other := w.user("other@acme.test")
		other.refused(other.call("GET", "/v1/mcp/servers/"+id, nil), 404, "not_found")
		other.want(other.call("POST", "/v1/mcp/servers", map[string]any{"name": "tickets", "command": "c"}), 201)

		who := w.agent(nil)
		w.want(w.call("POST", "/v1/mcp/servers/"+id+"/access", map[string]any{"agent_uuid": who}), 201)
		w.refused(w.call("DELETE", "/v1/mcp/servers/"+id, nil), 409, "grants_exist")
		w.want(w.call("POST", "/v1/agent/delete/"+who, nil), 200)
		w.until("MCP-5: the grants of a deleted agent are gone", func() bool { return w.call("DELETE", "/v1/mcp/servers/"+id, nil).status == 200 })
		w.refused(w.call("GET", "/v1/mcp/servers/"+id, nil), 404, "not_found")
		w.refused(w.call("GET", "/v1/mcp/servers/nonsense", nil), 404, "not_found")
	})
}

func TestMCP_3_ProbesAndTools(t *testing.T) {
	ti := newTickets(t, http.NewServeMux())
	ti.token = "right"
	w := startWorld(t, local)
	id := w.server(map[string]any{"name": "tickets", "url": ti.URL + "/mcp", "headers": map[string]any{"Authorization": "Bearer wrong"}})
	w.refused(w.call("POST", "/v1/mcp/servers/"+id+"/tools/refresh", nil), 502, "upstream_failed")
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+id+"/health", nil), 200); a.str("status") != "unhealthy" || a.get("latency_ms") != nil {
		t.Errorf("%s", a.body)
	}
	w.want(w.call("PUT", "/v1/mcp/servers/"+id, map[string]any{"headers": map[string]any{"Authorization": "Bearer right"}}), 200)
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+id+"/health", nil), 200); a.str("status") != "healthy" || a.num("latency_ms") <= 0 {
		t.Errorf("%s", a.body)
	}
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+id, nil), 200); a.str("health_status") != "healthy" || a.get("last_health_check") == nil {
		t.Errorf("%s", a.body)
	}
	a := w.want(w.call("POST", "/v1/mcp/servers/"+id+"/tools/refresh", nil), 200)
	if tools := a.doc["tools"].([]any); len(tools) != 3 || tools[0].(map[string]any)["inputSchema"].(map[string]any)["type"] != "object" {
		t.Errorf("%s", a.body)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes the connection and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hangs := w.server(map[string]any{"name": "hangs", "url": "http://" + silent.Addr().String() + "/mcp"})
	w.want(w.call("GET", "/v1/mcp/servers/"+hangs+"/health", nil), 200)
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+hangs, nil), 200); a.str("health_status") != "unhealthy" || a.get("last_health_check") == nil {
		t.Errorf("%s", a.body)
	}
	stdio := w.server(map[string]any{"name": "local", "command": "srv"})
	w.refused(w.call("POST", "/v1/mcp/servers/"+stdio+"/tools/refresh", nil), 502, "upstream_failed") // MCP-2
	if a := w.want(w.call("GET", "/v1/mcp/servers/"+stdio+"/health", nil), 200); a.str("status") != "unhealthy" {
		t.Errorf("%s", a.body)
	}
}

// The guard holds for servers, too: the name resolves into the private network.
func TestMCP_3_ProbesAreGuarded(t *testing.T) {
	guarded := startWorld(t, func(c *Config) { c.AllowHTTP = true })
	hidden := guarded.server(map[string]any{"name": "hidden", "url": "http://localtest.me.invalid/mcp"})
	guarded.refused(guarded.call("POST", "/v1/mcp/servers/"+hidden+"/tools/refresh", nil), 502, "upstream_failed")
}

func TestMCP_4_GrantsReachTheAgent(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		ti := newTickets(t, http.NewServeMux())
		w := startWorld(t, func(c *Config) { change(c); local(c) })
		id := w.server(map[string]any{"name": "tickets", "url": ti.URL + "/mcp", "headers": map[string]any{"Authorization": "Bearer abc"}})
		who := w.agent(nil)
		use := func(tool string) string {
			t.Helper()
			w.ask(who, `!tool `+tool+` {"id":"7"}`+"\n!say done")
			return w.lastResult(who)
		}
		if out := use("mcp__tickets__get_ticket"); !strings.Contains(out, "no tool called") {
			t.Errorf("without a grant: %s", out)
		}
		access := "/v1/mcp/servers/" + id + "/access"
		w.refused(w.call("POST", access, map[string]any{"agent_uuid": who, "access_mode": "selected"}), 400, "validation_failed")
		w.refused(w.call("POST", access, map[string]any{"agent_uuid": agent.NewUUID()}), 404, "not_found")
		other := w.user("other@acme.test")
		w.refused(w.call("POST", access, map[string]any{"agent_uuid": other.agent(nil)}), 404, "not_found")
		g := w.want(w.call("POST", access, map[string]any{"agent_uuid": who, "access_mode": "selected", "allowed_tools": []string{"get_ticket"}}), 201)
		if g.str("access_mode") != "selected" || g.get("enabled") != true {
			t.Errorf("%s", g.body)
		}
		w.refused(w.call("POST", access, map[string]any{"agent_uuid": who}), 409, "already_granted")
		if out := use("mcp__tickets__get_ticket"); out != "ticket 7" {
			t.Errorf("%s", out)
		}
		if out := use("mcp__tickets__close_ticket"); !strings.Contains(out, "no tool called") {
			t.Errorf("a tool outside the grant: %s", out)
		}
		ti.mu.Lock()
		if last := ti.seen[len(ti.seen)-1]; last != "Bearer abc" {
			t.Errorf("header %q", last)
		}
		ti.mu.Unlock()
		a := w.want(w.call("GET", "/v1/agent/"+who, nil), 200)
		if m := a.doc["mcp_servers"].([]any); len(m) != 1 || m[0].(map[string]any)["name"] != "tickets" || m[0].(map[string]any)["access_mode"] != "selected" {
			t.Errorf("%v", a.doc["mcp_servers"])
		}
		if d := w.want(w.call("GET", "/v1/mcp/servers/"+id, nil), 200).doc["agent_access"].([]any); len(d) != 1 || d[0].(map[string]any)["agent"].(map[string]any)["uuid"] != who {
			t.Errorf("%v", d)
		}

		w.want(w.call("DELETE", access+"/"+who, nil), 200)
		w.refused(w.call("DELETE", access+"/"+who, nil), 404, "not_found")
		if out := use("mcp__tickets__get_ticket"); !strings.Contains(out, "no tool called") {
			t.Errorf("after the grant was taken away: %s", out)
		}
		all := w.want(w.call("POST", access, map[string]any{"agent_uuid": who, "allowed_tools": []string{"x"}}), 201)
		if all.str("access_mode") != "all" || all.get("allowed_tools") != nil {
			t.Errorf("%s", all.body)
		}
		if out := use("mcp__tickets__close_ticket"); out != "ticket 7" {
			t.Errorf("%s", out)
		}
		w.want(w.call("PUT", "/v1/mcp/servers/"+id, map[string]any{"status": "inactive"}), 200)
		if out := use("mcp__tickets__close_ticket"); !strings.Contains(out, "no tool called") {
			t.Errorf("MCP-3: an inactive server: %s", out)
		}
		// what the agent's own configuration names wins over a grant of the same name
		w.want(w.call("PUT", "/v1/mcp/servers/"+id, map[string]any{"status": "active"}), 200)
		w.want(w.call("POST", "/v1/agent/update/"+who, map[string]any{"configuration": map[string]any{"mcp_servers": map[string]any{"tickets": map[string]any{"url": ti.URL + "/mcp",
			"headers": map[string]any{"Authorization": "Bearer own"}}}}}), 200)
		if out := use("mcp__tickets__close_ticket"); out != "ticket 7" {
			t.Errorf("%s", out)
		}
		ti.mu.Lock()
		defer ti.mu.Unlock()
		if last := ti.seen[len(ti.seen)-1]; last != "Bearer own" {
			t.Errorf("header %q", last)
		}
	})
}

// lastResult is what the last tool call of an agent gave back to the model.
func (w *world) lastResult(id string) string {
	w.t.Helper()
	var last string
	for _, f := range w.transcripts(id) {
		b, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, l := range strings.Split(string(b), "\n") {
			var line struct {
				M struct {
					Content []struct {
						Type    string
						Content string
					}
				}
			}
			if json.Unmarshal([]byte(l), &line) == nil {
				for _, c := range line.M.Content {
					if c.Type == "tool_result" {
						last = c.Content
					}
				}
			}
		}
	}
	return last
}

// transcripts are the files of an agent's sessions, the oldest first.
func (w *world) transcripts(id string) []string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "agents", id, "home", ".sessions", "*.jsonl")) // ids grow with time
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

// authority is an authorization server with dynamic registration and PKCE.
type authority struct {
	mu        sync.Mutex
	base      string
	challenge string
	refreshes int
	expires   int
	issued    string
	refuse    bool
	refresh   string // works once; another one is taken for a stolen one
}

func (a *authority) routes(mux *http.ServeMux) {
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/oauth-protected-resource/mcp", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"resource": a.base + "/mcp", "authorization_servers": []string{a.base}, "scopes_supported": []string{"tickets"}})
	})
	mux.HandleFunc("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"issuer": a.base, "authorization_endpoint": a.base + "/authorize", "token_endpoint": a.base + "/token", "registration_endpoint": a.base + "/register",
			"code_challenge_methods_supported": []string{"S256"}, "response_types_supported": []string{"code"}})
	})
	mux.HandleFunc("/register", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 201, map[string]any{"client_id": "client-1", "redirect_uris": []string{"http://127.0.0.1/"}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		_ = r.ParseForm()
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		switch {
		case a.refuse, r.Form.Get("client_id") != "client-1",
			r.Form.Get("grant_type") == "authorization_code" && (r.Form.Get("code") != "good" || base64.RawURLEncoding.EncodeToString(sum[:]) != a.challenge),
			r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("refresh_token") != a.refresh:
			a.refresh = "" // revoked
			answer(w, 400, map[string]any{"error": "invalid_grant"})
			return
		case r.Form.Get("grant_type") == "refresh_token":
			a.refreshes++
			a.issued = "access-2"
		default:
			a.issued = "access-1"
		}
		a.refresh = rand.Text()
		answer(w, 200, map[string]any{"access_token": a.issued, "token_type": "Bearer", "expires_in": a.expires, "refresh_token": a.refresh})
	})
}

// renewed is how often a token was renewed, and the refresh token that is good now ("": it was used twice).
func (a *authority) renewed() (times int, refresh string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refreshes, a.refresh
}

func TestMCP_6_OAuth(t *testing.T) {
	stores(t, func(t *testing.T, change func(*Config)) {
		mux, as := http.NewServeMux(), &authority{expires: 3600}
		as.routes(mux)
		ti := newTickets(t, mux)
		as.base, ti.token = ti.URL, "access-1"
		w := startWorld(t, func(c *Config) { change(c); local(c); c.OAuthOrigins = []string{"https://console.acme.test"} })
		id := w.server(map[string]any{"name": "tickets", "url": ti.URL + "/mcp"})
		at := "/v1/mcp/servers/" + id
		begin := func() url.Values {
			t.Helper()
			a := w.want(w.call("GET", at+"/oauth/authorize?redirect_uri="+url.QueryEscape("https://console.acme.test/done"), nil), 302)
			u, err := url.Parse(a.header.Get("Location"))
			if err != nil || !strings.HasPrefix(u.String(), ti.URL+"/authorize?") {
				t.Fatalf("%s", a.header.Get("Location"))
			}
			return u.Query()
		}
		w.refused(w.call("GET", at+"/oauth/authorize?redirect_uri="+url.QueryEscape("https://evil.example/"), nil), 400, "validation_failed")
		q := begin()
		if q.Get("code_challenge_method") != "S256" || q.Get("client_id") != "client-1" || q.Get("resource") != ti.URL+"/mcp" || q.Get("scope") != "tickets" || q.Get("redirect_uri") != "https://console.acme.test/done" {
			t.Fatalf("%v", q)
		}
		as.challenge = q.Get("code_challenge")
		finish := func(code, state string) *answer {
			return w.call("POST", at+"/oauth/callback?"+url.Values{"code": {code}, "state": {state}}.Encode(), nil)
		}
		w.refused(finish("good", "unknown"), 400, "validation_failed")
		w.refused(w.call("POST", at+"/oauth/callback?code=good", nil), 400, "validation_failed")
		w.refused(finish("bad", q.Get("state")), 400, "validation_failed")
		w.refused(finish("good", q.Get("state")), 400, "validation_failed") // the state worked once
		q = begin()
		as.challenge = q.Get("code_challenge")
		other := w.user("other@acme.test")
		other.refused(other.call("POST", at+"/oauth/callback?code=good&state="+q.Get("state"), nil), 404, "not_found")
		done := w.want(finish("good", q.Get("state")), 200)
		if done.str("provider") != "127.0.0.1" || done.str("server_id") != id || strings.Contains(string(done.body), "access-1") {
			t.Errorf("%s", done.body)
		}
		if a := w.want(w.call("GET", at+"/health", nil), 200); a.str("status") != "healthy" {
			t.Errorf("%s", a.body)
		}
		who := w.agent(nil)
		w.want(w.call("POST", at+"/access", map[string]any{"agent_uuid": who}), 201)
		w.ask(who, `!tool mcp__tickets__get_ticket {"id":"7"}`+"\n!say done")
		out := w.lastResult(who)
		if n, _ := as.renewed(); out != "ticket 7" || n != 0 {
			t.Errorf("%s after %d renewals", out, n)
		}

		// a token that is about to end is renewed before anybody gets it
		as.mu.Lock()
		as.expires = 60
		as.mu.Unlock()
		q = begin()
		as.challenge = q.Get("code_challenge")
		w.want(finish("good", q.Get("state")), 200)
		ti.mu.Lock()
		ti.token = "access-2"
		ti.mu.Unlock()
		w.ask(who, `!tool mcp__tickets__get_ticket {"id":"8"}`+"\n!say done")
		out = w.lastResult(who)
		before, _ := as.renewed()
		if out != "ticket 8" || before == 0 {
			t.Errorf("%s after %d renewals", out, before)
		}
		// by one, whoever asks
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if a := w.call("GET", at+"/health", nil); a.status != 200 || a.str("status") != "healthy" {
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
		if n, refresh := as.renewed(); n <= before || n-before > 8 || refresh == "" {
			t.Errorf("%d renewals, the last token is %q", n-before, refresh)
		}
		// a new address is another resource
		w.want(w.call("PUT", at, map[string]any{"url": ti.URL + "/mcp?v=2"}), 200)
		if a := w.want(w.call("GET", at+"/health", nil), 200); a.str("status") != "unhealthy" {
			t.Errorf("the token went to another address: %s", a.body)
		}
		w.want(w.call("PUT", at, map[string]any{"url": ti.URL + "/mcp"}), 200)
		q = begin()
		as.challenge = q.Get("code_challenge")
		w.want(finish("good", q.Get("state")), 200)
		ti.mu.Lock()
		ti.token = "access-1"
		ti.mu.Unlock()
		// one that cannot be renewed goes on until it ends
		as.mu.Lock()
		as.refuse = true
		as.mu.Unlock()
		if a := w.want(w.call("GET", at+"/health", nil), 200); a.str("status") != "healthy" {
			t.Errorf("%s", a.body)
		}
		plain := w.server(map[string]any{"name": "plain", "command": "srv"})
		w.refused(w.call("GET", "/v1/mcp/servers/"+plain+"/oauth/authorize", nil), 400, "oauth_not_supported")
		bare := newTickets(t, http.NewServeMux())
		w.refused(w.call("GET", "/v1/mcp/servers/"+w.server(map[string]any{"name": "bare", "url": bare.URL + "/mcp"})+"/oauth/authorize", nil), 400, "oauth_not_supported")
	})
}
