package agent

import (
	"troupe/actors/field"
)

// ReadLegacyCreate reads the body of the first-generation create (LEG-1). The key is required, the configuration narrower.
func ReadLegacyCreate(doc *field.Value, set Settings) (Patch, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	r.Require("name", "anthropic_api_key")
	p := Patch{Secrets: map[string]*Secret{}}
	p.Name = ReadName(r, "name")
	p.Description = text(r, "description", field.Text{Max: MaxDescription, Nullable: true})
	p.PVCSize = ReadSize(r, set)
	if key, ok := r.String("anthropic_api_key", field.Text{Min: 1, Max: 500, Pattern: noSpace, Shape: "without white space"}); ok {
		s := NewSecret(key)
		p.Secrets[SlotAnthropic] = &s
	}
	if c, ok := r.Object("configuration", false); ok {
		c.Only("timeout_seconds", "mcp_servers", "memory_config", "webhooks")
		if w, ok := c.Object("webhooks", false); ok {
			w.Only("task_complete", "task_failed", "task_awaiting_input", "agent_error")
		}
		p.Timeout = integer(c, "timeout_seconds", 1, MaxTimeoutSeconds, false)
		p.readMemory(c)
		p.readWebhooks(c, set)
		p.readMCP(c, set)
	}
	p.InitialFiles = readFiles(r, "initial_files", map[string]bool{})
	return p, errs.Err()
}
