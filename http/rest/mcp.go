package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/agentclient"
	"troupe/actors/fault"
	"troupe/actors/field"
	"troupe/actors/protocol"
	"troupe/http/api"
	"troupe/http/auth"
	"troupe/http/mcp"
	"troupe/http/route"
)

// Limits of the OAuth flow (MCP-6).
const (
	flowLife = 10 * time.Minute
	maxFlows = 5 // that one server waits for
)

// Bounds of routes that call a server.
const (
	reachWithin = 20 * time.Second // longer than the call itself: what it found is stored
	maxTold     = 16               // agents that are told of a change at once
)

func (r *rest) mcpRoutes() []route.Route {
	a := func(method, path, op string, body route.Body, h func(*route.Call) (route.Response, error)) route.Route {
		return feature(method, "/v1/mcp/servers"+path, op, body, h)
	}
	slow := func(rt route.Route) route.Route {
		rt.Timeout = reachWithin
		return rt
	}
	return []route.Route{
		a("POST", "", "createMcpServer", route.Required, r.createServer),
		a("GET", "", "listMcpServers", route.None, r.servers),
		a("GET", "/{serverId}", "getMcpServer", route.None, r.server),
		a("PUT", "/{serverId}", "updateMcpServer", route.Required, r.updateServer),
		a("DELETE", "/{serverId}", "deleteMcpServer", route.None, r.deleteServer),
		slow(a("POST", "/{serverId}/tools/refresh", "refreshMcpServerTools", route.None, r.serverTools)),
		slow(a("GET", "/{serverId}/health", "checkMcpServerHealth", route.None, r.serverHealth)),
		a("POST", "/{serverId}/access", "grantMcpServerAccess", route.Required, r.grant),
		a("GET", "/{serverId}/access", "listMcpServerAccess", route.None, r.grants),
		a("DELETE", "/{serverId}/access/{agentId}", "revokeMcpServerAccess", route.None, r.revoke),
		slow(a("GET", "/{serverId}/oauth/authorize", "authorizeMcpServer", route.None, r.authorize)),
		slow(a("POST", "/{serverId}/oauth/callback", "completeMcpServerOauth", route.None, r.completeOAuth)),
	}
}

func serverBody(s *account.MCPServer) api.McpServer {
	out := api.McpServer{ID: s.ID, Name: s.Name, Description: s.Description, EndpointURL: text(s.URL), Transport: s.Transport, Hosting: "isolated", Status: string(s.Status),
		Health: string(s.Health), CheckedAt: agent.StampOrNil(s.CheckedMS), CreatedAt: agent.Stamp(s.CreatedMS), UpdatedAt: agent.Stamp(s.UpdatedMS)}
	if s.Transport == "http" {
		out.Hosting = "remote"
	}
	return out
}

// serverChange is a body of create or update as read.
type serverChange struct {
	name, command, url, transport, status agent.Opt[string]
	description                           agent.Opt[string]
	args                                  []string
	env, headers                          map[string]string
	configuration                         json.RawMessage
	hasArgs                               bool
}

// readServer reads a change of a server of a type, "" for a new one.
func (r *rest) readServer(c *route.Call, of string) (*serverChange, error) {
	ch, create := &serverChange{}, of == ""
	err := readBody(c, func(rd field.Reader) {
		str := func(name string, t field.Text) agent.Opt[string] {
			s, ok := rd.String(name, t)
			return agent.Opt[string]{Set: rd.Has(name), Null: !ok, Value: s}
		}
		if create {
			rd.Require("name")
			ch.transport = str("transport_type", field.Text{Enum: []string{"stdio", "http"}})
			rd.String("hosting_mode", field.Text{Enum: []string{"shared", "isolated"}})
		} else {
			ch.status = str("status", field.Text{Enum: []string{string(account.MCPActive), string(account.MCPInactive)}})
		}
		ch.name = str("name", field.Text{Min: 1, Max: 100})
		ch.description = str("description", field.Text{Max: agent.MaxDescription, Nullable: true})
		ch.command = str("command", field.Text{Min: 1, Max: 1000})
		ch.args, ch.hasArgs = agent.ReadArgs(rd), rd.Has("args")
		if u, ok := agent.ReadURL(rd, "url", r.Settings); ok {
			ch.url = agent.Opt[string]{Set: true, Value: u}
		}
		ch.env, _ = agent.ReadStrings(rd, "env")
		ch.headers, _ = agent.ReadStrings(rd, "headers")
		if _, ok := rd.Object("configuration", false); ok {
			v, _ := rd.Raw("configuration")
			if ch.configuration = v.JSON(); len(ch.configuration) > agent.MaxMetadata {
				rd.Fail("configuration", "must have at most 16384 bytes when serialised")
			}
		}
		if create {
			ch.checkTransport(rd)
			return
		}
		for _, name := range map[string][]string{"stdio": {"url"}, "http": {"command", "args"}}[of] {
			if rd.Has(name) {
				rd.Fail(name, "does not belong to a server of type "+of)
			}
		}
	})
	return ch, err
}

// checkTransport finds the type of a new server (MCP-1).
func (ch *serverChange) checkTransport(rd field.Reader) {
	command, url := rd.Has("command"), rd.Has("url")
	switch {
	case ch.transport.Value == "stdio" && !command:
		rd.Fail("command", "is required for stdio")
	case ch.transport.Value == "http" && !url:
		rd.Fail("url", "is required for http")
	case ch.transport.Value == "" && !rd.Has("transport_type") && command == url:
		rd.Fail("transport_type", "is required unless exactly one of command and url is given")
	case ch.transport.Value == "" && command:
		ch.transport.Value = "stdio"
	case ch.transport.Value == "":
		ch.transport.Value = "http"
	}
}

// apply changes a server.
func (r *rest) apply(ch *serverChange, s *account.MCPServer) error {
	set := func(o agent.Opt[string], to *string) {
		if o.Given() {
			*to = o.Value
		}
	}
	set(ch.name, &s.Name)
	if ch.description.Set {
		s.Description = nil
		if ch.description.Given() {
			s.Description = &ch.description.Value
		}
	}
	if s.Transport == "stdio" {
		set(ch.command, &s.Command)
		if ch.hasArgs {
			s.Args = ch.args
		}
	} else {
		if ch.url.Given() && ch.url.Value != s.URL { // tokens are for the address they were issued for
			s.OAuth, s.Flows = "", nil
		}
		set(ch.url, &s.URL)
	}
	if ch.status.Given() {
		s.Status = account.MCPStatus(ch.status.Value)
	}
	if ch.configuration != nil {
		s.Configuration = ch.configuration
	}
	if ch.env != nil || ch.headers != nil {
		return r.MCP.SealSecrets(s, ch.env, ch.headers)
	}
	return nil
}

func (r *rest) createServer(c *route.Call) (route.Response, error) {
	ch, err := r.readServer(c, "")
	if err != nil {
		return route.Response{}, err
	}
	all, err := r.Store.ListMCPServers(c.Ctx, c.Caller.Account.ID)
	if err != nil {
		return route.Response{}, err
	}
	if len(all) >= account.MaxMCPServers {
		return route.Response{}, account.TooManyServers()
	}
	now := time.Now().UnixMilli()
	s := account.MCPServer{ID: agent.NewUUID(), Account: c.Caller.Account.ID, Transport: ch.transport.Value, Status: account.MCPActive, Health: account.MCPUnknown, CreatedMS: now, UpdatedMS: now}
	if err := r.apply(ch, &s); err != nil {
		return route.Response{}, err
	}
	if err := r.Store.PutMCPServer(c.Ctx, s); err != nil {
		return route.Response{}, err
	}
	return route.Created(serverBody(&s)), nil
}

func (r *rest) servers(c *route.Call) (route.Response, error) {
	q := c.Query()
	page, limit := q.Int("page", 1, 1000000, 1), q.Int("limit", 1, 100, 20)
	status := q.Enum("status", "", "active", "inactive", "error", "deploying")
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	all, err := r.Store.ListMCPServers(c.Ctx, c.Caller.Account.ID)
	if err != nil {
		return route.Response{}, err
	}
	all = slices.DeleteFunc(all, func(s account.MCPServer) bool { return status != "" && string(s.Status) != status })
	total := int64(len(all))
	out := api.McpServerList{Servers: []api.McpServerItem{}, Pagination: pagination(page, limit, total)}
	for i := (page - 1) * limit; i < min(page*limit, total); i++ {
		out.Servers = append(out.Servers, api.McpServerItem{McpServer: serverBody(&all[i]), Grants: len(all[i].Grants)})
	}
	return route.OK(out), nil
}

// findServer reads the server named in the path; another account's is 404.
func (r *rest) findServer(c *route.Call) (account.MCPServer, error) {
	id, ok := agent.ParseUUID(c.Param("serverId"))
	if !ok {
		return account.MCPServer{}, account.NoServer()
	}
	return r.Store.MCPServer(c.Ctx, c.Caller.Account.ID, id)
}

func (r *rest) server(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	access, err := r.access(c.Ctx, &s)
	if err != nil {
		return route.Response{}, err
	}
	out := api.McpServerDetail{McpServer: serverBody(&s), Configuration: s.Configuration, Access: access}
	if out.Configuration == nil {
		out.Configuration = json.RawMessage("{}")
	}
	return route.OK(out), nil
}

// access renders the grants of a server. An agent that is being deleted is left out: its grants go with it (MCP-5).
func (r *rest) access(ctx context.Context, s *account.MCPServer) ([]api.McpAccess, error) {
	out := []api.McpAccess{}
	for i := range s.Grants {
		g := &s.Grants[i]
		v, err := r.view(ctx, agent.ID(g.Agent), s.Account)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a := api.McpAccess{ID: g.ID, Mode: g.Mode(), Tools: g.Tools, Enabled: true}
		a.Agent.UUID, a.Agent.Name, a.Agent.Status = g.Agent, v.Spec.Name, string(v.State.Status)
		out = append(out, a)
	}
	return out, nil
}

// tell lets the agents with a grant know (MCP-4). A runner that is not reached in time reads the list again within a minute.
func (r *rest) tell(ctx context.Context, agents ...string) {
	var wg sync.WaitGroup
	room := make(chan struct{}, maxTold)
	for _, id := range agents {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if _, err := agentclient.Ask[struct{}](ctx, r.Agents, agent.ID(id), protocol.Touch, struct{}{}); err != nil && !fault.Is(err, fault.NotFound) {
				r.MCP.Log.Info("an agent was not told of its MCP servers", "agent_id", id, "err", err)
			}
		})
	}
	wg.Wait()
}

func granted(s *account.MCPServer) (out []string) {
	for _, g := range s.Grants {
		out = append(out, g.Agent)
	}
	return out
}

func (r *rest) updateServer(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	ch, err := r.readServer(c, s.Transport)
	if err != nil {
		return route.Response{}, err
	}
	s, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		s.UpdatedMS = max(time.Now().UnixMilli(), s.UpdatedMS+1)
		return true, r.apply(ch, s)
	})
	if err != nil {
		return route.Response{}, err
	}
	r.tell(c.Ctx, granted(&s)...)
	return route.OK(serverBody(&s)), nil
}

func (r *rest) deleteServer(c *route.Call) (route.Response, error) {
	for {
		s, err := r.findServer(c)
		if err != nil {
			return route.Response{}, err
		}
		if len(s.Grants) > 0 {
			return route.Response{}, fault.Newf(fault.Conflict, "grants_exist", "%d agent(s) still hold grants for this server", len(s.Grants))
		}
		if err = r.Store.DeleteMCPServer(c.Ctx, s.Account, s.ID, s.Version); err == nil {
			return route.OK(api.MessageResult{Message: "MCP server deleted successfully"}), nil
		}
		if fault.Of(err).Code != "version" || c.Ctx.Err() != nil {
			return route.Response{}, err
		}
	}
}

// reachable opens a server that the control plane can call; a stdio server runs in pods only (MCP-2).
func (r *rest) reachable(c *route.Call, s account.MCPServer) (mcp.Server, error) {
	if s.Transport != "http" {
		return mcp.Server{}, fault.New(fault.Upstream, "upstream_failed", "A stdio server runs inside the pods of agents; it cannot be reached from here")
	}
	sec, err := r.MCP.Open(c.Ctx, s)
	return mcp.Server{URL: s.URL, Headers: sec.Headers}, err
}

func (r *rest) serverTools(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	at, err := r.reachable(c, s)
	if err != nil {
		return route.Response{}, err
	}
	tools, err := r.MCP.Reach.Tools(c.Ctx, at)
	if err != nil {
		return route.Response{}, err
	}
	return route.OK(map[string]any{"tools": append([]mcp.Tool{}, tools...)}), nil
}

// serverHealth probes a server and keeps what it found (MCP-3).
func (r *rest) serverHealth(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	out := api.McpProbe{Status: string(account.MCPUnhealthy)}
	began := time.Now()
	at, err := r.reachable(c, s)
	if err == nil {
		err = r.MCP.Reach.Probe(c.Ctx, at)
	}
	switch {
	case err == nil:
		ms := float64(time.Since(began).Microseconds()) / 1000
		out.Status, out.LatencyMS = string(account.MCPHealthy), &ms
	case !fault.Is(err, fault.Upstream):
		return route.Response{}, err
	}
	now := time.Now().UnixMilli()
	out.CheckedAt = agent.Stamp(now)
	_, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		s.Health, s.CheckedMS = account.MCPHealth(out.Status), now
		return true, nil
	})
	return route.OK(out), err
}

func (r *rest) grant(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	var who, mode string
	var tools []string
	err = readBody(c, func(rd field.Reader) {
		rd.Require("agent_uuid")
		if id, ok := rd.String("agent_uuid", field.Text{}); ok {
			if who, ok = agent.ParseUUID(id, agent.PrefixAgent); !ok {
				rd.Fail("agent_uuid", "must be a UUID")
			}
		}
		mode, _ = rd.String("access_mode", field.Text{Enum: []string{"all", "selected"}})
		items, given := rd.Array("allowed_tools", 500)
		if given && len(items) == 0 {
			rd.Fail("allowed_tools", "must have at least 1 entry")
		}
		for i := range items {
			if n := utf8.RuneCountInString(items[i].Text); items[i].Kind != field.String || n < 1 || n > 200 {
				rd.Fail("allowed_tools", "must hold strings of 1 to 200 characters")
				break
			}
			tools = append(tools, items[i].Text)
		}
		if mode == "selected" && !given {
			rd.Fail("allowed_tools", "is required with access_mode selected")
		}
	})
	if err != nil {
		return route.Response{}, err
	}
	if mode != "selected" {
		tools = nil
	}
	if _, err := r.view(c.Ctx, agent.ID(who), s.Account); err != nil { // of the same account (MCP-4)
		return route.Response{}, err
	}
	g := account.MCPGrant{ID: agent.NewUUID(), Agent: who, Tools: tools, CreatedMS: time.Now().UnixMilli()}
	_, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		if s.Grant(who) != nil {
			return false, fault.New(fault.Conflict, "already_granted", "The agent already has a grant for this server")
		}
		if len(s.Grants) >= account.MaxMCPGrants {
			return false, fault.Newf(fault.Invalid, "limit_reached", "The server has %d grants, the most there can be", account.MaxMCPGrants)
		}
		s.Grants = append(s.Grants, g)
		return true, nil
	})
	if err != nil {
		return route.Response{}, err
	}
	r.tell(c.Ctx, who)
	return route.Created(api.McpGranted{ID: g.ID, AgentUUID: who, Mode: g.Mode(), Tools: g.Tools, Enabled: true, CreatedAt: agent.Stamp(g.CreatedMS)}), nil
}

func (r *rest) grants(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	out, err := r.access(c.Ctx, &s)
	return route.OK(out), err
}

func (r *rest) revoke(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	who, _ := agent.ParseUUID(c.Param("agentId"), agent.PrefixAgent)
	_, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		if s.Grant(who) == nil {
			return false, fault.New(fault.NotFound, "not_found", "The agent has no grant for this server")
		}
		s.Grants = slices.DeleteFunc(s.Grants, func(g account.MCPGrant) bool { return g.Agent == who })
		return true, nil
	})
	if err != nil {
		return route.Response{}, err
	}
	r.tell(c.Ctx, who)
	return route.OK(api.MessageResult{Message: "Access revoked successfully"}), nil
}

// redirect returns where the browser may be sent after the flow, by default the callback below the installation's own URL.
func (r *rest) redirect(c *route.Call, id string) (string, error) {
	q := c.Query()
	want := q.String("redirect_uri", "", field.Text{Min: 1, Max: 2048})
	if err := q.Err(); err != nil {
		return "", err
	}
	own := r.base(c) + "/v1/mcp/servers/" + id + "/oauth/callback"
	if want == "" {
		return own, nil
	}
	u, err := url.Parse(want)
	base, berr := url.Parse(own)
	if err != nil || berr != nil || u.Host == "" || u.User != nil || u.Fragment != "" ||
		!slices.Contains(append([]string{base.Scheme + "://" + base.Host}, r.OAuthOrigins...), u.Scheme+"://"+u.Host) {
		return "", fault.New(fault.Invalid, "validation_failed", "redirect_uri is not an allowed origin of this installation").At("redirect_uri", "is not an allowed origin of this installation")
	}
	return want, nil
}

func stateHash(state string) string {
	h := sha256.Sum256([]byte(state))
	return hex.EncodeToString(h[:])
}

// authorize starts the OAuth flow (MCP-6).
func (r *rest) authorize(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	back, err := r.redirect(c, s.ID)
	if err != nil {
		return route.Response{}, err
	}
	if s.Transport != "http" {
		return route.Response{}, fault.New(fault.Invalid, "oauth_not_supported", "Only HTTP servers support OAuth")
	}
	var cfg struct {
		ClientID string `json:"oauth_client_id"`
	}
	_ = json.Unmarshal(s.Configuration, &cfg) // absent, or something else: a client is registered
	state := auth.Random(43)
	to, flow, err := r.MCP.Reach.Begin(c.Ctx, s.URL, cfg.ClientID, back, state)
	if err != nil {
		return route.Response{}, err
	}
	now := time.Now()
	w := account.MCPFlow{State: stateHash(state), UntilMS: now.Add(flowLife).UnixMilli()}
	if w.Sealed, err = r.MCP.SealFlow(s.ID, flow); err != nil {
		return route.Response{}, err
	}
	_, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		s.Flows = slices.DeleteFunc(s.Flows, func(f account.MCPFlow) bool { return f.UntilMS < now.UnixMilli() })
		s.Flows = append(s.Flows, w)
		s.Flows = s.Flows[max(0, len(s.Flows)-maxFlows):]
		return true, nil
	})
	if err != nil {
		return route.Response{}, err
	}
	return route.Response{Status: 302, Header: map[string]string{"Location": to, "Cache-Control": "no-store"}}, nil
}

// completeOAuth finishes the flow: the state works once.
func (r *rest) completeOAuth(c *route.Call) (route.Response, error) {
	s, err := r.findServer(c)
	if err != nil {
		return route.Response{}, err
	}
	q := c.Query()
	code, state := q.String("code", "", field.Text{Min: 1, Max: 4096}), q.String("state", "", field.Text{Min: 1, Max: 512})
	if code == "" {
		q.Fail("code", "is required")
	}
	if state == "" {
		q.Fail("state", "is required")
	}
	if err := q.Err(); err != nil {
		return route.Response{}, err
	}
	var flow account.MCPFlow
	_, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		i := slices.IndexFunc(s.Flows, func(f account.MCPFlow) bool { return f.State == stateHash(state) })
		if i < 0 || s.Flows[i].UntilMS < time.Now().UnixMilli() {
			return false, fault.New(fault.Invalid, "validation_failed", "state is unknown or has expired").At("state", "is unknown or has expired")
		}
		flow = s.Flows[i]
		s.Flows = slices.Delete(s.Flows, i, i+1)
		return true, nil
	})
	if err != nil {
		return route.Response{}, err
	}
	f, err := r.MCP.OpenFlow(s.ID, flow.Sealed)
	if err != nil {
		return route.Response{}, err
	}
	cred, err := r.MCP.Reach.Finish(c.Ctx, f, code)
	if err != nil {
		return route.Response{}, err
	}
	sealed, err := r.MCP.SealCredentials(s.ID, cred)
	if err != nil {
		return route.Response{}, err
	}
	s, err = account.ChangeMCPServer(c.Ctx, r.Store, s.Account, s.ID, func(s *account.MCPServer) (bool, error) {
		s.OAuth = sealed
		return true, nil
	})
	if err != nil {
		return route.Response{}, err
	}
	r.tell(c.Ctx, granted(&s)...)
	return route.OK(map[string]any{"message": "Credentials stored", "server_id": s.ID, "provider": cred.Provider(), "authenticated_at": agent.Stamp(time.Now().UnixMilli())}), nil
}
