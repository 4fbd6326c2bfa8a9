package agent

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"troupe/actors/fault"
)

// Opt is a member that may be absent, null or given (CFG-3).
type Opt[T any] struct {
	Set   bool // present, null included
	Null  bool
	Value T
}

// Given says whether the member holds a value.
func (o Opt[T]) Given() bool { return o.Set && !o.Null }

// Patch is the body of a create or an update after reading: every member optional, every value within its limits.
type Patch struct {
	Name             Opt[string]
	Description      Opt[string]
	SystemPrompt     Opt[string]
	SystemPromptType Opt[string]
	SessionMode      Opt[string]
	PVCSize          Opt[string]
	WarmthMS         Opt[int64]
	Balance          Opt[int64]

	Timeout      Opt[int64]
	Model        Opt[string]
	ReminderMS   Opt[int64]
	MemoryType   Opt[string]
	MemoryMB     Opt[int64]
	MemoryKeep   Opt[string]
	Compact      Opt[bool]
	Threshold    Opt[int64]
	CompactModel Opt[string]
	Instructions Opt[string]

	Hooks    map[string]*string    // nil restores the default
	Webhooks map[string]*string    // canonical names; nil removes
	MCP      map[string]*MCPServer // nil removes
	Secrets  map[string]*Secret    // by slot; nil removes

	InitialFiles []File     // create only
	Files        FileChange // update only
	// WebhookNames are the webhook names as the caller wrote them, for the legacy create response (OUT-2).
	WebhookNames map[string]string
}

// Seal encrypts a secret for one slot of one agent.
type Seal func(agent ID, slot string, value Secret) (string, error)

// Apply merges p into s (CFG-4). It returns the new spec, whether anything changed, and the names of what changed as the
// runner is told. Errors: fault.Invalid for limits that hold for the result, and what seal returns.
func (p *Patch) Apply(s Spec, seal Seal, set Settings) (next Spec, changed []string, err error) {
	next = s.Clone()
	p.applyFields(&next)
	if err := p.applySize(s, &next, set); err != nil {
		return s, nil, err
	}
	p.applyMaps(&next)
	if err := p.applySecrets(&next, seal); err != nil {
		return s, nil, err
	}
	if n := len(next.EnvNames()); n > MaxEnv {
		return s, nil, invalidField("configuration.custom_env", "must hold at most 20 variables after the merge")
	}
	if len(next.Config.MCP) > MaxMCPServers {
		return s, nil, invalidField("configuration.mcp_servers", "must hold at most 50 servers after the merge")
	}
	return next, diff(&s, &next, p.Secrets), nil
}

func invalidField(path, reason string) error {
	return fault.New(fault.Invalid, "validation_failed", path+" "+reason).At(path, reason)
}

func (p *Patch) applyFields(s *Spec) {
	set(&s.Name, p.Name)
	setText(&s.Description, p.Description)
	setText(&s.SystemPrompt, p.SystemPrompt)
	set(&s.SystemPromptType, p.SystemPromptType)
	if p.SessionMode.Given() {
		s.SessionMode = SessionMode(p.SessionMode.Value)
	}
	if p.WarmthMS.Set {
		s.WarmthMS = nil
		if !p.WarmthMS.Null {
			v := p.WarmthMS.Value
			s.WarmthMS = &v
		}
	}
	c := &s.Config
	set(&c.TimeoutSeconds, p.Timeout)
	if p.Model.Set {
		c.Model = p.Model.Value // null leaves "", the installation's default
	}
	set(&c.ReminderMS, p.ReminderMS)
	set(&c.Memory.Type, p.MemoryType)
	set(&c.Memory.MaxSizeMB, p.MemoryMB)
	set(&c.Memory.Persistence, p.MemoryKeep)
	set(&c.Compaction.Enabled, p.Compact)
	set(&c.Compaction.Threshold, p.Threshold)
	set(&c.Compaction.Model, p.CompactModel)
	setText(&c.Compaction.Instructions, p.Instructions)
}

func set[T any](dst *T, o Opt[T]) {
	if o.Given() {
		*dst = o.Value
	}
}

// setText sets a text of which null and "" both mean none (CFG-2).
func setText(dst **string, o Opt[string]) {
	if !o.Set {
		return
	}
	*dst = nil
	if !o.Null && o.Value != "" {
		v := o.Value
		*dst = &v
	}
}

// applySize lets a volume only grow (CFG-8). ConfigVersion 0 marks a spec that is being created.
func (p *Patch) applySize(old Spec, s *Spec, _ Settings) error {
	if !p.PVCSize.Given() {
		return nil
	}
	was, _ := QuantityBytes(old.PVCSize)
	want, _ := QuantityBytes(p.PVCSize.Value)
	switch {
	case old.CreatedMS != 0 && want < was:
		return fault.Newf(fault.Invalid, "pvc_shrink", "pvc_size may only grow; it is %s now", old.PVCSize).At("pvc_size", "may only grow")
	case old.CreatedMS == 0 || want > was:
		s.PVCSize = p.PVCSize.Value
	}
	return nil
}

func (p *Patch) applyMaps(s *Spec) {
	c := &s.Config
	c.Hooks = merge(c.Hooks, p.Hooks)
	c.Webhooks = merge(c.Webhooks, p.Webhooks)
	if len(p.MCP) > 0 && c.MCP == nil {
		c.MCP = map[string]MCPServer{}
	}
	for name, srv := range p.MCP {
		delete(s.Sealed, SlotMCP(name))
		if srv == nil {
			delete(c.MCP, name)
		} else {
			c.MCP[name] = *srv
		}
	}
	if len(c.MCP) == 0 {
		c.MCP = nil
	}
}

func merge(into map[string]string, change map[string]*string) map[string]string {
	if len(change) == 0 {
		return into
	}
	if into == nil {
		into = map[string]string{}
	}
	for k, v := range change {
		if v == nil || *v == "" {
			delete(into, k)
		} else {
			into[k] = *v
		}
	}
	if len(into) == 0 {
		return nil
	}
	return into
}

func (p *Patch) applySecrets(s *Spec, seal Seal) error {
	if err := p.setBots(s); err != nil {
		return err
	}
	for _, slot := range slices.Sorted(maps.Keys(p.Secrets)) {
		v := p.Secrets[slot]
		if v == nil {
			delete(s.Sealed, slot)
			continue
		}
		sealed, err := seal(s.ID, slot, *v)
		if err != nil {
			return err
		}
		if s.Sealed == nil {
			s.Sealed = map[string]string{}
		}
		s.Sealed[slot] = sealed
	}
	return nil
}

// diff names the top-level members that changed, for config.changed. A secret that is given counts as changed, since
// sealed values cannot be compared; one that is removed counts if it was there.
func diff(old, now *Spec, secrets map[string]*Secret) []string {
	var out []string
	add := func(name string, changed bool) {
		if changed && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	add("name", old.Name != now.Name)
	add("description", !reflect.DeepEqual(old.Description, now.Description))
	add("system_prompt", !reflect.DeepEqual(old.SystemPrompt, now.SystemPrompt))
	add("system_prompt_type", old.SystemPromptType != now.SystemPromptType)
	add("session_mode", old.SessionMode != now.SessionMode)
	add("pvc_size", old.PVCSize != now.PVCSize)
	add("warmth_window_ms", !reflect.DeepEqual(old.WarmthMS, now.WarmthMS))
	add("timeout_seconds", old.Config.TimeoutSeconds != now.Config.TimeoutSeconds)
	add("model", old.Config.Model != now.Config.Model)
	add("unread_reminder_interval_ms", old.Config.ReminderMS != now.Config.ReminderMS)
	add("memory_config", old.Config.Memory != now.Config.Memory)
	add("compaction", !sameJSON(old.Config.Compaction, now.Config.Compaction))
	add("hook_messages", !maps.Equal(old.Config.Hooks, now.Config.Hooks))
	add("webhooks", !maps.Equal(old.Config.Webhooks, now.Config.Webhooks))
	add("mcp_servers", !sameJSON(old.Config.MCP, now.Config.MCP))
	for _, slot := range slices.Sorted(maps.Keys(secrets)) {
		_, had := old.Sealed[slot]
		add(slotMember(slot), secrets[slot] != nil || had)
	}
	return out
}

func slotMember(slot string) string {
	switch {
	case len(slot) > len(slotEnv) && slot[:len(slotEnv)] == slotEnv:
		return "custom_env"
	case len(slot) > len(slotMCP) && slot[:len(slotMCP)] == slotMCP:
		return "mcp_servers"
	}
	return slot
}

func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// ReplacesPod says whether a change takes effect only in a new pod (CFG-7).
func ReplacesPod(changed []string) bool {
	return slices.Contains(changed, "custom_env") || slices.Contains(changed, "memory_config")
}
