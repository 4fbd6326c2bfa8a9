package runnerapi

import (
	"encoding/json"
	"slices"
	"strings"

	"troupe/actors/account"
	"troupe/actors/agent"
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
	for i := range granted {
		g := granted[i].Grant(string(v.spec.ID))
		_, own := v.spec.Config.MCP[granted[i].Name]
		if g == nil || own || granted[i].Status != account.MCPActive {
			continue
		}
		sec, err := a.MCP.Open(c.Ctx, granted[i])
		if err != nil {
			return route.Response{}, err
		}
		out.Servers = append(out.Servers, runnerproto.MCPServer{Name: granted[i].Name, Source: "grant", Type: granted[i].Transport, Command: granted[i].Command, Args: granted[i].Args,
			URL: granted[i].URL, Env: sec.Env, Headers: sec.Headers, Tools: g.Tools})
	}
	slices.SortFunc(out.Servers, func(x, y runnerproto.MCPServer) int { return strings.Compare(x.Name, y.Name) })
	return route.OK(out), nil
}
