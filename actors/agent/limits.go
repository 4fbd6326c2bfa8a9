package agent

import "time"

// Limits of the contract, "30 Limits". Lengths count code points, sizes bytes.
const (
	MaxContent         = 100000
	MaxMetadata        = 16384
	MaxName            = 100
	MaxDescription     = 500
	MaxSystemPrompt    = 100000
	MaxHookText        = 5000
	MaxInstructions    = 2000
	MaxEnv             = 20
	MaxEnvName         = 100
	MaxEnvValue        = 10000
	MaxMCPServers      = 50
	MaxFiles           = 1000
	MaxFileBytes       = 10 << 20
	MaxPathBytes       = 4096
	MaxSegmentBytes    = 255
	MaxTokens          = int64(1)<<53 - 1
	MaxHops            = 16
	MaxSessions        = 1000 // kept per agent (OBS-3)
	MaxReplies         = 50
	MaxResult          = 65536
	MaxBatchMessages   = 200
	MaxBatchRunes      = 400000
	MaxAttempts        = 3
	MaxFailedStarts    = 5
	MaxTimeoutSeconds  = 86400
	MinReminderMS      = 10000
	MaxReminderMS      = 3600000
	MinWarmthMS        = 300000
	MaxWarmthMS        = 31536000000
	MinThreshold       = 50000
	MaxThreshold       = 180000
	MaxMemoryMB        = 102400
	MaxTemplateValue   = 100000
	DefaultPending     = 10000 // messages that may wait per agent (MSG-15)
	DefaultTimeout     = 3600
	DefaultReminderMS  = 120000
	DefaultWarmthMS    = 900000
	DefaultBalance     = 1000000
	DefaultThreshold   = 120000
	DefaultMemoryMB    = 1024
	DefaultPVC         = "1Gi"
	DefaultModel       = "claude-sonnet-4-5"
	DefaultCompactWith = "claude-haiku-4-5-20251001"
)

// Time spans of the runner protocol and of turns (§11, §18).
const (
	HeartbeatInterval = 10 * time.Second
	RunnerLease       = 45 * time.Second
	AcceptResend      = 30 * time.Second // turn.start is sent again when it was not accepted (TURN-3)
	AcceptLost        = 60 * time.Second // and the runner counts as lost
	CancelGrace       = 10 * time.Second // between turn.cancel and the end made by the control plane
	ShutdownGrace     = 30 * time.Second
	StartTimeout      = 120 * time.Second   // a pod that did not attach by then has failed (POD-8)
	SessionAge        = 90 * 24 * time.Hour // sessions are kept so long after their start (OBS-3)
	ResizeLook        = 30 * time.Second    // a volume that was not resized is asked for again so often
	WaitingLook       = time.Minute         // a pod that waits for room asks again so often: nodes may die, and hints with them
	TurnLook          = 5 * time.Second     // a running turn is looked at so often: the clock finds it when its node has died (REC-1)
	AfterTurn         = 30 * time.Second    // model calls are allowed so long after a turn's end (LLM-2)
)

// Settings are the installation settings, marked (S) in the contract, that parsing and decisions need.
type Settings struct {
	WarmthMS       int64    // default warmth window
	PVCCapBytes    int64    // upper limit of pvc_size
	Model          string   // used when an agent names none
	AllowHTTP      bool     // webhooks and MCP servers may use http
	AllowHosts     []string // literal addresses and names that the egress guard lets through
	MaxPending     int      // messages that may wait per agent
	PlatformKey    bool     // the installation has a model key of its own (CFG-9)
	Overdraft      int64    // output tokens a running turn may use beyond its balance (BAL-3)
	RunnerMetering bool     // runners may meter themselves (LLM-9)
	StartTimeout   time.Duration
	Passivate      time.Duration // how long an activation idles before it leaves memory
}

// WithDefaults fills in what is not set.
func (s Settings) WithDefaults() Settings {
	if s.WarmthMS == 0 {
		s.WarmthMS = DefaultWarmthMS
	}
	if s.PVCCapBytes == 0 {
		s.PVCCapBytes = 100 << 30
	}
	if s.Model == "" {
		s.Model = DefaultModel
	}
	if s.MaxPending == 0 {
		s.MaxPending = DefaultPending
	}
	if s.StartTimeout == 0 {
		s.StartTimeout = StartTimeout
	}
	if s.Passivate == 0 {
		s.Passivate = 2 * time.Minute
	}
	return s
}
