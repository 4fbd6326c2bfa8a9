package runnerapi

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/http/mcp"
	"troupe/http/route"
	"troupe/http/runnerproto"
)

// mcpServers lists what the agent may use: its grants of active servers, and what its own configuration names, which wins
// over a grant of the same name. It holds credentials and is never logged.
func (a *api) mcpServers(c *route.Call) (route.Response, error) {
	v, err := a.load(c)
	if err != nil {
		return route.Response{}, err
	}
	if c.Runner.Epoch != 0 && c.Runner.Epoch != v.f.RunnerEpoch { // FENCE-4
		return route.Response{}, fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
	}
	out := runnerproto.MCPServers{Servers: []runnerproto.MCPServer{}}
	for name, m := range v.spec.Config.MCP {
		s := runnerproto.MCPServer{Name: name, Source: "configuration", Type: m.Type, Command: m.Command, Args: m.Args, URL: m.URL}
		if slot := agent.SlotMCP(name); v.spec.Has(slot) {
			clear, err := a.MCP.Box.Open(string(v.spec.ID), slot, v.spec.Sealed[slot])
			if err != nil {
				return route.Response{}, err
			}
			var sec mcp.Secrets
			if err := json.Unmarshal([]byte(clear), &sec); err != nil {
				return route.Response{}, err
			}
			s.Env, s.Headers = sec.Env, sec.Headers
		}
		out.Servers = append(out.Servers, s)
	}
	granted, err := a.Store.ListMCPServers(c.Ctx, v.spec.Account)
	if err != nil {
		return route.Response{}, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range granted {
		s := &granted[i]
		g := s.Grant(string(v.spec.ID))
		_, own := v.spec.Config.MCP[s.Name]
		if g == nil || own || s.Status != account.MCPActive {
			continue
		}
		wg.Go(func() { // a token may have to be renewed
			sec, err := a.MCP.Open(c.Ctx, *s)
			if err != nil { // costs its tools and nothing else
				a.MCP.Log.Warn("MCP server not given to a runner", "server_id", s.ID, "agent_id", v.spec.ID, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out.Servers = append(out.Servers, runnerproto.MCPServer{Name: s.Name, Source: "grant", Type: s.Transport, Command: s.Command, Args: s.Args,
				URL: s.URL, Env: sec.Env, Headers: sec.Headers, Tools: g.Tools})
		})
	}
	wg.Wait()
	slices.SortFunc(out.Servers, func(x, y runnerproto.MCPServer) int { return strings.Compare(x.Name, y.Name) })
	return route.OK(out), nil
}
