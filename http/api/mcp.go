package api

import "encoding/json"

// MCPServer is one configured MCP server without its secrets.
type MCPServer struct {
	Type    string   `json:"type"`
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
	URL     string   `json:"url,omitempty"`
}

// McpGrantSummary is one grant in the view of its agent.
type McpGrantSummary struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Mode   string `json:"access_mode"`
	Status string `json:"status"`
}

// McpServer is a registered MCP server without its secrets.
type McpServer struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	EndpointURL *string `json:"endpoint_url"`
	Transport   string  `json:"transport_type"`
	Hosting     string  `json:"hosting_mode"`
	Status      string  `json:"status"`
	Health      string  `json:"health_status"`
	CheckedAt   *string `json:"last_health_check"`
	CreatedAt   string  `json:"created_at"`
	UpdatedAt   string  `json:"updated_at"`
}

// McpServerItem is one of a list.
type McpServerItem struct {
	McpServer
	Grants int `json:"agent_access_count"`
}

// McpServerList is one page of servers.
type McpServerList struct {
	Servers    []McpServerItem `json:"mcp_servers"`
	Pagination Pagination      `json:"pagination"`
}

// McpAccess is one grant in the view of its server.
type McpAccess struct {
	ID    string `json:"id"`
	Agent struct {
		UUID   string `json:"uuid"`
		Name   string `json:"name"`
		Status string `json:"status"`
	} `json:"agent"`
	Mode    string   `json:"access_mode"`
	Tools   []string `json:"allowed_tools"`
	Enabled bool     `json:"enabled"`
}

// McpServerDetail is a server with its grants.
type McpServerDetail struct {
	McpServer
	Configuration json.RawMessage `json:"configuration"`
	Access        []McpAccess     `json:"agent_access"`
}

// McpGranted is a grant as made.
type McpGranted struct {
	ID        string   `json:"id"`
	AgentUUID string   `json:"agent_uuid"`
	Mode      string   `json:"access_mode"`
	Tools     []string `json:"allowed_tools"`
	Enabled   bool     `json:"enabled"`
	CreatedAt string   `json:"created_at"`
}

// McpProbe is what a probe found.
type McpProbe struct {
	Status    string   `json:"status"`
	LatencyMS *float64 `json:"latency_ms"`
	CheckedAt string   `json:"last_checked"`
}
