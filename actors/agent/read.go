package agent

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"troupe/actors/fault"
	"troupe/actors/field"
)

var (
	noSpace  = regexp.MustCompile(`^\S+$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	mcpName  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	httpURL  = regexp.MustCompile(`^https?://`)
	digits   = regexp.MustCompile(`^[0-9]{5,32}$`)
	graphAPI = regexp.MustCompile(`^v[0-9]{1,3}\.[0-9]{1,2}$`)
	xoxb     = regexp.MustCompile(`^xoxb-`)
	xapp     = regexp.MustCompile(`^xapp-`)
)

// reservedEnv are the names that custom_env may not use (CFG-6).
var reservedEnv = []string{"AGENT_UUID", "DATABASE_URL", "HOME", "WORKSPACE_PATH", "ANTHROPIC_BASE_URL",
	"ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_API_KEY", "SHINZO_API_URL", "SHINZO_INTERNAL_API_URL", "SHINZO_API_KEY"}

// ReadCreate reads the body of create. Errors: fault.Invalid naming every offending member.
func ReadCreate(doc *field.Value, set Settings) (Patch, error) { return read(doc, set, true) }

// ReadUpdate reads the body of update. Errors: as ReadCreate.
func ReadUpdate(doc *field.Value, set Settings) (Patch, error) { return read(doc, set, false) }

func read(doc *field.Value, set Settings, create bool) (Patch, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	p := Patch{Secrets: map[string]*Secret{}}
	if create {
		r.Require("name")
	}
	p.readTop(r, set)
	p.readCredentials(r)
	var template error
	if c, ok := r.Object("configuration", false); ok {
		template = p.readConfiguration(c, set)
	}
	if create {
		p.InitialFiles = readFiles(r, "initial_files", map[string]bool{})
		for slot, v := range p.Secrets { // nothing is there that could be removed
			if v == nil {
				delete(p.Secrets, slot)
			}
		}
	} else {
		p.Files = readChange(r)
	}
	if err := errs.Err(); err != nil {
		return Patch{}, err
	}
	return p, template
}

func text(r field.Reader, name string, t field.Text) Opt[string] {
	s, ok := r.String(name, t)
	return Opt[string]{Set: r.Has(name), Null: !ok, Value: s}
}

func integer(r field.Reader, name string, lo, hi int64, nullable bool) Opt[int64] {
	n, ok := r.Int(name, lo, hi, nullable)
	return Opt[int64]{Set: r.Has(name), Null: !ok, Value: n}
}

// TrimName removes Unicode white space around a name (CFG-2).
func TrimName(s string) string { return strings.TrimFunc(s, unicode.IsSpace) }

// ReadName reads a display name: trimmed, then 1 to 100 code points.
func ReadName(r field.Reader, name string) Opt[string] {
	o := text(r, name, field.Text{})
	if !o.Given() {
		return o
	}
	o.Value = TrimName(o.Value)
	if n := utf8.RuneCountInString(o.Value); n < 1 || n > MaxName {
		r.Fail(name, "must have 1 to 100 characters without surrounding white space")
	}
	return o
}

func (p *Patch) readTop(r field.Reader, set Settings) {
	p.Name = ReadName(r, "name")
	p.Description = text(r, "description", field.Text{Max: MaxDescription, Nullable: true})
	p.SystemPrompt = text(r, "system_prompt", field.Text{Max: MaxSystemPrompt, Nullable: true})
	p.SystemPromptType = text(r, "system_prompt_type", field.Text{Enum: []string{"replace", "append"}})
	p.SessionMode = text(r, "session_mode", field.Text{Enum: []string{"ephemeral", "persistent"}})
	p.WarmthMS = integer(r, "warmth_window_ms", MinWarmthMS, MaxWarmthMS, true)
	p.Balance = integer(r, "output_token_balance", 0, MaxTokens, false)
	p.PVCSize = ReadSize(r, set)
}

// ReadSize reads pvc_size: a Kubernetes quantity above zero and at most the installation's cap (CFG-8).
func ReadSize(r field.Reader, set Settings) Opt[string] {
	o := text(r, "pvc_size", field.Text{Max: 20, Pattern: quantity, Shape: "a Kubernetes quantity such as 5Gi"})
	if !o.Given() {
		return o
	}
	n, ok := QuantityBytes(o.Value)
	if !ok || n <= 0 || n > set.PVCCapBytes {
		r.Fail("pvc_size", fmt.Sprintf("must be above 0 and at most %d bytes", set.PVCCapBytes))
	}
	return o
}

func (p *Patch) secret(r field.Reader, name, slot string, max int, pattern *regexp.Regexp) {
	if o := text(r, name, field.Text{Min: 1, Max: max, Nullable: true, Pattern: pattern, Shape: "without white space"}); o.Set {
		p.Secrets[slot] = nil
		if !o.Null {
			s := NewSecret(o.Value)
			p.Secrets[slot] = &s
		}
	}
}

func (p *Patch) readCredentials(r field.Reader) {
	p.secret(r, "anthropic_api_key", SlotAnthropic, 500, noSpace)
	p.secret(r, "discord_bot_token", SlotDiscord, 200, nil)
	p.secret(r, "telegram_bot_token", SlotTelegram, 200, nil)
	p.object(r, "slack_bot_token", SlotSlack, []string{"bot_token", "signing_secret", "app_token"}, map[string]field.Text{
		"bot_token":      {Min: 6, Max: 500, Pattern: xoxb, Shape: "a token starting with xoxb-"},
		"signing_secret": {Min: 1, Max: 200},
		"app_token":      {Min: 6, Max: 500, Pattern: xapp, Shape: "a token starting with xapp-"},
	})
	p.object(r, "whatsapp", SlotWhatsApp, []string{"phone_number_id", "access_token", "app_secret", "verify_token"}, map[string]field.Text{
		"phone_number_id":     {Pattern: digits, Shape: "5 to 32 digits"},
		"business_account_id": {Pattern: digits, Shape: "5 to 32 digits"},
		"access_token":        {Min: 1, Max: 1000},
		"app_secret":          {Min: 1, Max: 200},
		"verify_token":        {Min: 8, Max: 200},
		"api_version":         {Pattern: graphAPI, Shape: "a Graph API version such as v21.0"},
	})
}

// object reads a credential made of several parts; it is sealed as one JSON object.
func (p *Patch) object(r field.Reader, name, slot string, required []string, members map[string]field.Text) {
	if r.Null(name) {
		p.Secrets[slot] = nil
		return
	}
	o, ok := r.Object(name, true)
	if !ok {
		return
	}
	var known []string
	for m := range members {
		known = append(known, m)
	}
	o.Only(known...)
	o.Require(required...)
	parts := map[string]string{}
	for m, t := range members {
		if s, ok := o.String(m, t); ok {
			parts[m] = s
		}
	}
	b, _ := json.Marshal(parts) // a map of strings cannot fail
	s := NewSecret(string(b))
	p.Secrets[slot] = &s
}

func (p *Patch) readConfiguration(c field.Reader, set Settings) error {
	c.Only("timeout_seconds", "model", "mcp_servers", "memory_config", "compaction", "custom_env",
		"unread_reminder_interval_ms", "hook_messages", "webhooks")
	p.Timeout = integer(c, "timeout_seconds", 1, MaxTimeoutSeconds, false)
	p.Model = text(c, "model", field.Text{Min: 1, Max: 200, Nullable: true})
	p.ReminderMS = integer(c, "unread_reminder_interval_ms", MinReminderMS, MaxReminderMS, false)
	p.readMemory(c)
	if k, ok := c.Object("compaction", false); ok {
		k.Only("enabled", "threshold_trigger", "model", "instructions")
		b, given := k.Bool("enabled")
		p.Compact = Opt[bool]{Set: given, Value: b}
		p.Threshold = integer(k, "threshold_trigger", MinThreshold, MaxThreshold, false)
		p.CompactModel = text(k, "model", field.Text{Min: 1, Max: 200})
		p.Instructions = text(k, "instructions", field.Text{Max: MaxInstructions, Nullable: true})
	}
	p.readEnv(c)
	p.readWebhooks(c, set)
	p.readMCP(c, set)
	return p.readHooks(c)
}

func (p *Patch) readMemory(c field.Reader) {
	if m, ok := c.Object("memory_config", false); ok {
		m.Only("type", "max_size_mb", "persistence")
		p.MemoryType = text(m, "type", field.Text{Enum: []string{"hierarchical", "flat"}})
		p.MemoryMB = integer(m, "max_size_mb", 1, MaxMemoryMB, false)
		p.MemoryKeep = text(m, "persistence", field.Text{Enum: []string{"ephemeral", "persistent"}})
	}
}

func (p *Patch) readHooks(c field.Reader) error {
	h, ok := c.Object("hook_messages", false)
	if !ok {
		return nil
	}
	h.Only(HookNames...)
	p.Hooks = map[string]*string{}
	var template error
	for _, name := range h.Names() {
		if !slices.Contains(HookNames, name) {
			continue
		}
		o := text(h, name, field.Text{Max: MaxHookText, Nullable: true})
		p.Hooks[name] = nil
		if !o.Given() || o.Value == "" {
			continue
		}
		v := o.Value
		p.Hooks[name] = &v
		if err := CheckTemplate(v, HookVariables(Hook(name))); err != nil && template == nil {
			template = fault.Of(err).At(h.Path(name), fault.Of(err).Message)
		}
	}
	return template
}

func (p *Patch) readEnv(c field.Reader) {
	e, ok := c.Object("custom_env", false)
	if !ok {
		return
	}
	names := e.Names()
	if len(names) > MaxEnv {
		c.Fail("custom_env", fmt.Sprintf("must have at most %d entries", MaxEnv))
	}
	for _, name := range names {
		switch {
		case len(name) > MaxEnvName || !envName.MatchString(name):
			e.Fail(name, "must be a name of 1 to 100 letters, digits and underscores that does not start with a digit")
			continue
		case slices.Contains(reservedEnv, name) || strings.HasPrefix(name, "TROUPE_"):
			e.FailCode(name, "is a reserved name", "reserved_env_name")
			continue
		}
		o := text(e, name, field.Text{Max: MaxEnvValue, Nullable: true})
		p.Secrets[SlotEnv(name)] = nil
		if o.Given() {
			s := NewSecret(o.Value)
			p.Secrets[SlotEnv(name)] = &s
		}
	}
}

// webhookAliases are the older names of webhook events (OUT-2).
var webhookAliases = map[string]string{"task_complete": "message_complete", "task_failed": "message_failed"}

func (p *Patch) readWebhooks(c field.Reader, set Settings) {
	w, ok := c.Object("webhooks", false)
	if !ok {
		return
	}
	w.Only("message_complete", "message_failed", "task_awaiting_input", "agent_error", "task_complete", "task_failed")
	p.Webhooks, p.WebhookNames = map[string]*string{}, map[string]string{}
	for _, name := range w.Names() {
		url, ok := ReadURL(w, name, set)
		if !ok && !w.Null(name) {
			continue
		}
		canonical := name
		if a, is := webhookAliases[name]; is {
			canonical = a
		}
		var v *string
		if ok {
			v = &url
			p.WebhookNames[name] = url
		}
		if was, twice := p.Webhooks[canonical]; twice && (was == nil) != (v == nil) || twice && was != nil && *was != *v {
			w.Fail(name, "differs from "+canonical+", which is the same event")
			continue
		}
		p.Webhooks[canonical] = v
	}
}

// ReadURL reads a nullable outbound URL; one that the egress guard refuses is reported as url_not_allowed (OUT-9).
func ReadURL(r field.Reader, name string, set Settings) (string, bool) {
	url, ok := r.String(name, field.Text{Max: 2048, Pattern: httpURL, Shape: "an http or https URL", Nullable: true})
	if !ok {
		return "", false
	}
	if reason := CheckURL(url, set); reason != "" {
		r.FailCode(name, reason, "url_not_allowed")
		return "", false
	}
	return url, true
}

func (p *Patch) readMCP(c field.Reader, set Settings) {
	m, ok := c.Object("mcp_servers", false)
	if !ok {
		return
	}
	p.MCP = map[string]*MCPServer{}
	if len(m.Names()) > MaxMCPServers {
		c.Fail("mcp_servers", fmt.Sprintf("must have at most %d entries", MaxMCPServers))
	}
	for _, name := range m.Names() {
		if !mcpName.MatchString(name) {
			m.Fail(name, "must be a name of 1 to 64 letters, digits, - and _")
			continue
		}
		p.MCP[name] = nil
		if o, ok := m.Object(name, true); ok {
			p.MCP[name] = p.readServer(o, name, set)
		}
	}
}

func (p *Patch) readServer(o field.Reader, name string, set Settings) *MCPServer {
	o.Only("type", "command", "args", "env", "url", "headers")
	srv := &MCPServer{}
	srv.Type, _ = o.String("type", field.Text{Enum: []string{"stdio", "http", "sse"}})
	srv.Command, _ = o.String("command", field.Text{Min: 1, Max: 1000})
	srv.Args = ReadArgs(o)
	srv.URL, _ = ReadURL(o, "url", set)
	secrets := map[string]map[string]string{}
	secrets["env"], srv.Env = ReadStrings(o, "env")
	secrets["headers"], srv.Headers = ReadStrings(o, "headers")
	switch {
	case o.Has("command") == o.Has("url"):
		o.Fail("command", "exactly one of command and url is needed")
	case srv.Type == "" && o.Has("command"):
		srv.Type = "stdio"
	case srv.Type == "":
		srv.Type = "http"
	case (srv.Type == "stdio") != o.Has("command"):
		o.Fail("type", "does not fit: stdio needs command, http and sse need url")
	}
	if len(srv.Env)+len(srv.Headers) > 0 {
		b, _ := json.Marshal(secrets)
		s := NewSecret(string(b))
		p.Secrets[SlotMCP(name)] = &s
	}
	return srv
}

// ReadArgs reads the arguments of a command.
func ReadArgs(r field.Reader) (out []string) {
	args, _ := r.Array("args", 100)
	for i := range args {
		if args[i].Kind != field.String || utf8.RuneCountInString(args[i].Text) > 10000 || strings.ContainsRune(args[i].Text, 0) {
			r.Fail("args", fmt.Sprintf("entry %d must be a string of at most 10000 characters", i))
			continue
		}
		out = append(out, args[i].Text)
	}
	return out
}

// ReadStrings reads a map of at most 50 texts, and returns its names sorted.
func ReadStrings(r field.Reader, name string) (map[string]string, []string) {
	o, ok := r.Object(name, false)
	if !ok {
		return nil, nil
	}
	names := o.Names()
	if len(names) > 50 {
		r.Fail(name, "must have at most 50 entries")
	}
	out := map[string]string{}
	for _, n := range names {
		if s, ok := o.String(n, field.Text{Max: 10000}); ok {
			out[n] = s
		}
	}
	slices.Sort(names)
	return out, names
}
