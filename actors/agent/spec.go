package agent

import (
	"maps"
	"slices"
	"strings"

	"troupe/actors/account"
)

// Spec is what the owner configured. It changes by create and update only; ConfigVersion grows with every change.
type Spec struct {
	ID               ID            `json:"id"`
	Account          account.ID    `json:"account"`
	Owner            string        `json:"owner"` // display name of the owner, shown as the counterparty on channel api
	Name             string        `json:"name"`
	Description      *string       `json:"description"`
	SessionMode      SessionMode   `json:"session_mode"`
	SystemPrompt     *string       `json:"system_prompt"`
	SystemPromptType string        `json:"system_prompt_type"`
	PVCSize          string        `json:"pvc_size"`
	WarmthMS         *int64        `json:"warmth_ms"` // nil: never scaled to zero
	Config           Configuration `json:"config"`
	// Sealed holds the agent's secrets, encrypted, by slot (SEC-1). See the Slot functions.
	Sealed        map[string]string  `json:"sealed,omitempty"`
	ConfigVersion int64              `json:"config_version"`
	Bots          map[Channel]string `json:"bots,omitempty"`      // ids of the bots whose credentials are configured
	FormerMS      int64              `json:"former_ms,omitempty"` // until then the former webhook secret signs as well (OUT-5)
	CreatedMS     int64              `json:"created_ms"`
	UpdatedMS     int64              `json:"updated_ms"`
}

// SessionMode says whether a trigger starts a fresh session or continues the open one.
type SessionMode string

// The session modes.
const (
	Ephemeral  SessionMode = "ephemeral"
	Persistent SessionMode = "persistent"
)

// Configuration is the member "configuration" with its defaults filled in (CFG-1).
type Configuration struct {
	TimeoutSeconds int64                `json:"timeout_seconds"`
	Model          string               `json:"model,omitempty"` // empty: the installation's default
	ReminderMS     int64                `json:"unread_reminder_interval_ms"`
	Memory         MemoryConfig         `json:"memory_config"`
	Compaction     Compaction           `json:"compaction"`
	Hooks          map[string]string    `json:"hook_messages,omitempty"` // customised ones only (HOOK-1)
	MCP            map[string]MCPServer `json:"mcp_servers,omitempty"`
	Webhooks       map[string]string    `json:"webhooks,omitempty"` // under canonical names (OUT-2)
}

// MemoryConfig is how the agent's memory is kept (CFG-11).
type MemoryConfig struct {
	Type        string `json:"type"`
	MaxSizeMB   int64  `json:"max_size_mb"`
	Persistence string `json:"persistence"`
}

// Compaction is when and with what a session is condensed (§14).
type Compaction struct {
	Enabled      bool    `json:"enabled"`
	Threshold    int64   `json:"threshold_trigger"`
	Model        string  `json:"model"`
	Instructions *string `json:"instructions,omitempty"`
}

// MCPServer is one MCP server of this agent, without its secrets (they are sealed in Spec.Sealed).
type MCPServer struct {
	Type    string   `json:"type"`
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
	URL     string   `json:"url,omitempty"`
	Env     []string `json:"env,omitempty"`     // names only
	Headers []string `json:"headers,omitempty"` // names only
}

// Slots of Spec.Sealed.
const (
	SlotAnthropic  = "anthropic_api_key"
	SlotDiscord    = "discord_bot_token"
	SlotSlack      = "slack_bot_token" // JSON object of the three credentials
	SlotTelegram   = "telegram_bot_token"
	SlotWhatsApp   = "whatsapp" // JSON object
	SlotWebhook    = "webhook_secret"
	SlotWebhookOld = "webhook_secret_former" // signs beside the other until Spec.FormerMS
	slotEnv        = "custom_env/"
	slotMCP        = "mcp/"
)

// SlotEnv is the slot of one custom variable.
func SlotEnv(name string) string { return slotEnv + name }

// SlotMCP is the slot of one MCP server's env and headers, a JSON object {"env":{},"headers":{}}.
func SlotMCP(server string) string { return slotMCP + server }

// EnvNames returns the names of the custom variables, sorted.
func (s *Spec) EnvNames() []string {
	var out []string
	for slot := range s.Sealed {
		if name, ok := strings.CutPrefix(slot, slotEnv); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Has says whether the secret in slot is configured.
func (s *Spec) Has(slot string) bool { return s.Sealed[slot] != "" }

// Clone returns a copy that shares nothing that an update changes.
func (s Spec) Clone() Spec {
	s.Sealed = maps.Clone(s.Sealed)
	s.Bots = maps.Clone(s.Bots)
	s.Config.Hooks = maps.Clone(s.Config.Hooks)
	s.Config.MCP = maps.Clone(s.Config.MCP)
	s.Config.Webhooks = maps.Clone(s.Config.Webhooks)
	return s
}

// NewSpec returns a spec with the defaults of CFG-1.
func NewSpec(id ID, set Settings) Spec {
	warmth := set.WarmthMS
	return Spec{
		ID: id, SessionMode: Ephemeral, SystemPromptType: "append", PVCSize: DefaultPVC, WarmthMS: &warmth,
		Config: Configuration{
			TimeoutSeconds: DefaultTimeout, ReminderMS: DefaultReminderMS,
			Memory:     MemoryConfig{Type: "hierarchical", MaxSizeMB: DefaultMemoryMB, Persistence: "persistent"},
			Compaction: Compaction{Enabled: true, Threshold: DefaultThreshold, Model: DefaultCompactWith},
		},
		ConfigVersion: 1,
	}
}

// EffectiveModel returns the model that turns use.
func (s *Spec) EffectiveModel(set Settings) string {
	if s.Config.Model != "" {
		return s.Config.Model
	}
	return set.Model
}
