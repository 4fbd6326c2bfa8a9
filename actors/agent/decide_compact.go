package agent

import (
	"strings"
	"time"

	"troupe/actors/fault"
)

// Limits of a compaction (§14).
const (
	CompactTimeout  = 10 * time.Minute // of one attempt
	compactAttempts = 3
	compactStep     = 10000 // input tokens by which a session must grow before it is tried again
)

// compactPauses lie between the attempts (COMP-5).
var compactPauses = []time.Duration{2 * time.Second, 8 * time.Second}

// Compacting is a compaction that runs, and the record of one that has ended.
type Compacting struct {
	ID        string    `json:"id"`
	Session   SessionID `json:"session"`
	Turn      TurnID    `json:"turn,omitempty"` // the turn that it interrupts; "" between turns
	Attempt   int       `json:"attempt"`
	StartedMS int64     `json:"started_ms"`
	SentMS    int64     `json:"sent_ms,omitempty"`  // when this attempt was given to the runner; 0: it waits
	RetryMS   int64     `json:"retry_ms,omitempty"` // and until when
	EndedMS   int64     `json:"ended_ms,omitempty"`
	Status    string    `json:"status"` // running, completed, failed
	Model     string    `json:"model"`
	Before    int64     `json:"before"`
	After     *int64    `json:"after,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// CompactReport is what the runner says of an attempt.
type CompactReport struct {
	ID     string `json:"id"`
	Done   bool   `json:"done"`
	Before int64  `json:"before,omitempty"`
	After  *int64 `json:"after,omitempty"`
	Model  string `json:"model,omitempty"`
	SDK    string `json:"sdk,omitempty"`
	Error  string `json:"error,omitempty"`
}

// compactDue says whether the open session must be condensed now (COMP-1, COMP-6).
func (m *Machine) compactDue() bool {
	s, t, c := m.S.Session, m.S.Turn, m.Spec.Config.Compaction
	if s == nil || !c.Enabled || m.S.Compaction != nil || m.S.Deleting || s.SDK == "" || s.Context < c.Threshold || s.Context < s.CompactAt ||
		m.S.Status != Active || m.F.Balance <= 0 || !m.RunnerReady() {
		return false
	}
	if t == nil {
		return s.Mode == Persistent && m.Spec.SessionMode == Persistent
	}
	return t.Accepted && t.SentMS > 0 && t.Cancel == nil && !t.Compacted
}

// counted is how much the open session's last model call has read: as the gateway counted it, else as the runner says (COMP-1).
func (m *Machine) counted(reported int64) int64 {
	if s := m.S.Session; s != nil && m.F.Context > 0 && m.F.ContextOf == s.ID {
		return m.F.Context
	}
	return reported
}

// lookCompaction starts a compaction that is due, gives the next attempt to the runner, and gives up on one that is silent.
func (m *Machine) lookCompaction() bool {
	if m.compactDue() {
		s := m.S.Session
		c := &Compacting{ID: m.NewID(), Session: s.ID, Attempt: 1, StartedMS: m.Now, Status: "running", Model: m.Spec.Config.Compaction.Model, Before: s.Context}
		if t := m.S.Turn; t != nil {
			c.Turn, t.Compacted = t.ID, true
		}
		m.S.Compaction = c
		m.head(HeadCompaction, c.ID)
		m.compactEvent("session.compaction_started")
		m.sendCompaction()
		return true
	}
	c := m.S.Compaction
	switch {
	case c == nil:
		return false
	case c.SentMS == 0 && m.Now >= c.RetryMS && m.RunnerReady():
		m.sendCompaction()
	case c.SentMS > 0 && m.Now >= c.SentMS+CompactTimeout.Milliseconds():
		m.failCompaction("The runner did not report in time")
	case c.Turn == "" && (m.S.Status == Stopped || m.S.Status == Errored):
		m.endCompaction("failed", "The agent is "+string(m.S.Status))
	default:
		return false
	}
	return true
}

// sendCompaction gives the present attempt to the runner.
func (m *Machine) sendCompaction() {
	c := m.S.Compaction
	c.SentMS = m.Now
	m.confirm("session.compact")
	m.command("session.compact", map[string]any{"session_id": c.Session, "compaction_id": c.ID, "model": c.Model, "sdk_session_id": m.S.Session.SDK, "context_tokens": c.Before,
		"summarize_template": m.Spec.Config.SummarizeText(), "continuation_template": m.Spec.Config.ContinuationText()})
	m.recordCompaction()
}

func (m *Machine) recordCompaction() {
	c := m.S.Compaction
	m.record(Record{Kind: RecordCompaction, Group: string(c.Session), ID: c.ID, Score: c.StartedMS, Body: Encode(c)})
}

func (m *Machine) compactEvent(typ string) {
	c := m.S.Compaction
	data := map[string]any{"session_id": c.Session, "compaction_id": c.ID, "status": c.Status, "input_tokens_before": c.Before}
	if c.After != nil {
		data["input_tokens_after"] = *c.After
	}
	m.event(typ, data)
}

// Compacted takes in the runner's report of an attempt (COMP-2). A repeat of the last report changes nothing.
func (m *Machine) Compacted(session SessionID, r CompactReport) error {
	c := m.S.Compaction
	if c == nil || c.ID != r.ID || c.Session != session {
		if r.ID != "" && r.ID == m.S.LastCompaction && (!r.Done || r.SDK == m.S.LastCondensed) {
			return nil // told before
		}
		return fault.New(fault.Conflict, "stale_compaction", "No such compaction is running")
	}
	if !r.Done {
		m.failCompaction(r.Error)
		return nil
	}
	if r.SDK == "" {
		return fault.New(fault.Invalid, "validation_failed", "sdk_session_id is required with status completed").At("sdk_session_id", "is required with status completed")
	}
	s := m.S.Session
	c.After = r.After
	s.SDK = r.SDK
	s.Compactions++
	s.Context, s.CompactAt = 0, 0
	if r.After != nil { // a summary that is itself too large must not start the next one at once (COMP-6)
		s.Context, s.CompactAt = *r.After, *r.After+compactStep
	}
	m.head(HeadContext, "")
	m.endCompaction("completed", "")
	m.S.LastCondensed = r.SDK
	return nil
}

// failCompaction counts a failed attempt; after the third the session goes on uncompacted (COMP-5).
func (m *Machine) failCompaction(why string) {
	c := m.S.Compaction
	if c.Attempt < compactAttempts {
		c.SentMS, c.RetryMS = 0, m.Now+compactPauses[c.Attempt-1].Milliseconds()
		c.Attempt++
		c.Error = why
		m.confirm("session.compact")
		return
	}
	if s := m.S.Session; s != nil {
		s.CompactAt = s.Context + compactStep
	}
	m.S.LastError = "compaction failed: " + why
	m.notifyError("compaction_failed", "The session could not be condensed: "+why)
	m.endCompaction("failed", why)
}

func (m *Machine) endCompaction(status, why string) {
	c := m.S.Compaction
	c.Status, c.EndedMS, c.Error = status, m.Now, why
	m.confirm("session.compact")
	m.compactEvent("session.compaction_ended")
	m.recordCompaction()
	if m.S.Session != nil && m.S.Session.ID == c.Session {
		m.putSession()
	}
	m.S.LastCompaction, m.S.LastCondensed, m.S.Compaction = c.ID, "", nil
	m.S.ActiveMS = m.Now
	m.head(HeadCompaction, "")
}

// SummarizeText is the template of the summarising prompt: the owner's hook, or the default with the owner's instructions
// (COMP-4). It always holds {{transcript}} (HOOK-5).
func (c *Configuration) SummarizeText() string {
	text := c.HookText(HookSummarize)
	if c.Hooks[string(HookSummarize)] == "" && c.Compaction.Instructions != nil && *c.Compaction.Instructions != "" {
		text += "\n\n" + *c.Compaction.Instructions
	}
	return withVariable(text, "transcript")
}

// ContinuationText is the template of what the condensed session starts with. It always holds {{summary}} (HOOK-5).
func (c *Configuration) ContinuationText() string {
	return withVariable(c.HookText(HookContinuation), "summary")
}

func withVariable(text, name string) string {
	if !strings.Contains(RenderMap(text, map[string]string{name: "\x00"}), "\x00") { // NUL is in no text
		return text + "\n\n{{" + name + "}}"
	}
	return text
}
