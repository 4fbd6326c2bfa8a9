package agent

import "slices"

// Update stores a merged spec (CFG-5): one step, a new configuration version, and word to the runner.
func (m *Machine) Update(next Spec, changed []string, balance Opt[int64]) {
	if balance.Given() {
		m.C.Balance = &BalanceChange{Set: true, Amount: balance.Value}
	}
	if len(changed) == 0 {
		return
	}
	m.dropWebhooks(m.Spec.Config.Webhooks, next.Config.Webhooks)
	next.ConfigVersion++
	next.UpdatedMS = max(m.Now, next.UpdatedMS+1) // it changes even within one millisecond
	m.PutSpec(next)
	m.credentialsSet(changed)
	if slices.Contains(changed, "pvc_size") {
		m.S.Resize, _ = QuantityBytes(next.PVCSize)
	}
	restart := ReplacesPod(changed) && (m.S.Pod.Phase == PodUp || m.S.Pod.Phase == PodStarting)
	if restart {
		m.S.Pod.Replace = true
	}
	if m.F.RunnerLive() {
		m.command("config.changed", map[string]any{"config_version": next.ConfigVersion, "changed": changed, "restart_required": restart})
	}
}

// Touch raises the version of the configuration, so that a runner reads again what it may use (MCP-4).
func (m *Machine) Touch(changed string) error {
	if m.S.Deleting {
		return Gone()
	}
	next := m.Spec.Clone()
	next.ConfigVersion++
	m.PutSpec(next)
	if m.F.RunnerLive() {
		m.command("config.changed", map[string]any{"config_version": next.ConfigVersion, "changed": []string{changed}, "restart_required": false})
	}
	return nil
}

// Accessible says whether a file or filesystem call may be served: stopped and error agents refuse it (FILE-2, FS-8).
func (m *Machine) Accessible() error {
	if m.S.Deleting {
		return Gone()
	}
	if err := m.S.Status.Accepts(m.S.Reason, false); err != nil {
		return err
	}
	return nil
}

// A call in the workspace says every five seconds that it goes on.
const (
	wakeEvery = 4_000
	wakeHold  = 15_000
)

// Wake asks for a pod for a call that needs the workspace; it says whether the workspace can be reached now.
// It keeps the pod up for a while; a call that takes longer asks again (POD-4).
func (m *Machine) Wake() (ready bool) {
	if m.Now >= m.S.ActiveMS+wakeEvery { // many calls at once write it once
		m.S.ActiveMS = m.Now
	}
	m.S.HoldMS = max(m.S.HoldMS, m.S.ActiveMS+wakeHold)
	if m.S.Pod.Phase == PodUp && m.F.RunnerLive() && !m.S.FilesDue && !m.S.Pod.Replace {
		return true
	}
	m.wantPod(true, "woken")
	return false
}

// Yield gives the pod's place up for another agent, if nothing is to be done with it, whatever its warmth window: there is no room for
// everybody. The next cause wakes it again.
func (m *Machine) Yield() {
	s := &m.S
	if s.Pod.Phase != PodUp || s.Turn != nil || s.Update != "" || s.FilesDue || s.Compaction != nil || m.Now < s.HoldMS || m.CanStart() {
		return
	}
	m.wantPod(false, "evicted")
}

// TurnPrompt is the text that the runner gives to the model for the present attempt (HOOK-8, REC-4).
func (c *Configuration) TurnPrompt(t *Turn, batch []Message) string {
	switch t.Hook {
	case HookRestart:
		text := c.HookText(HookRestart)
		if t.Unseen {
			text += "\n\n" + c.Prompt(HookReceived, batch)
		}
		return text
	case HookFallback:
		return c.HookText(HookFallback)
	default:
		return c.Prompt(t.Hook, batch)
	}
}
