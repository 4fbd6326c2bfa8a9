package agent

import (
	"encoding/json"
	"time"

	"troupe/actors/fault"
)

// backoff between failed starts (POD-8).
var backoff = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// Look does what is due: it is called after every event and when an alarm fires, and it is safe to call at any time.
// It returns whether it decided anything. Pending are the leading messages of the queue, needed only when a turn can start.
func (m *Machine) Look(pending []Message) bool {
	changed := m.lookSchedules()
	changed = m.lookTurn() || changed
	changed = m.lookPod() || changed
	changed = m.lookCompaction() || changed
	changed = m.StartTurn(pending) || changed
	return m.remind(pending) || changed
}

func (m *Machine) lookTurn() bool {
	t := m.S.Turn
	if t == nil {
		return false
	}
	lost := t.SentMS > 0 && (m.S.Pod.Phase != PodUp || !m.F.RunnerLive())
	switch {
	case t.Cancel != nil:
		if m.Now >= t.Cancel.DueMS || lost {
			m.finalize()
			if !lost && m.S.Pod.Want && m.F.Execution == "working" { // it still works on the turn: replace it (TURN-5)
				m.stopPod("lost")
			}
			return true
		}
	case m.Now >= t.DeadlineMS:
		return m.cancel("timeout")
	case m.F.Interrupt > t.Seq && m.S.Compaction != nil: // QUE-4
		t.Seq = m.F.Interrupt
		return true
	case m.F.Interrupt > t.Seq:
		t.Seq = m.F.Interrupt
		return m.cancel("interrupt")
	case lost:
		return m.loseRunner()
	case t.SentMS > 0 && !t.Accepted && !t.Resent && m.Now >= t.SentMS+AcceptResend.Milliseconds():
		t.Resent = true
		m.command("turn.start", map[string]any{"turn_id": t.ID, "attempt": t.Attempt})
		return true
	case t.SentMS > 0 && !t.Accepted && m.Now >= t.SentMS+AcceptLost.Milliseconds():
		m.stopPod("lost")
		m.loseRunner()
		return true
	}
	return false
}

// Exhaust cancels the running turn after the gateway refused a call for lack of balance (BAL-6).
func (m *Machine) Exhaust(id TurnID) bool {
	return m.S.Turn != nil && m.S.Turn.ID == id && m.cancel("balance_exhausted")
}

// loseRunner leaves the turn waiting for the next runner, or fails it after the third attempt (REC-2, REC-5).
func (m *Machine) loseRunner() bool {
	if c := m.S.Compaction; c != nil && c.Turn == "" { // nothing else needs a runner; it is due again when there is one
		m.endCompaction("failed", "The runner was lost")
	}
	t := m.S.Turn
	if t == nil || t.SentMS == 0 {
		return false
	}
	t.SentMS = 0
	if t.Cancel != nil { // the outcome was decided before (TURN-5)
		m.finalize()
		return true
	}
	if t.Attempt >= MaxAttempts {
		m.finish(Failed, "runner_lost", false)
	}
	return true
}

func (m *Machine) lookPod() bool {
	s, p := &m.S, &m.S.Pod
	before := *p
	running := s.Turn != nil && s.Turn.Cancel == nil
	if s.Deleting || s.Status == Stopped || s.Status == Errored {
		p.Want = false
	} else {
		if !p.Want && (m.CanStart() || running || s.Update != "") {
			m.wantPod(true, "woken")
		}
		if w := m.warmthEnd(); p.Want && w > 0 && m.Now >= w && !m.CanStart() {
			m.wantPod(false, "scaled_to_zero")
		}
	}
	switch {
	case !p.Want && s.Turn == nil:
		m.stopPod(p.Why)
	case p.Replace && s.Turn == nil:
		p.Replace = false
		m.stopPod("replaced")
	case p.Phase == PodUp && !m.F.RunnerLive(): // the lease ended (RUN-2)
		m.stopPod("lease_lost")
		m.loseRunner()
	case p.Phase == PodStarting && m.Now >= p.StartedMS+m.Set.StartTimeout.Milliseconds() && !p.Waiting:
		m.failStart(because("did not attach in time", p.Note))
	}
	m.NextIncarnation()
	return before != *p
}

// NextIncarnation decides to start a new pod when one is wanted, the old one is gone and the backoff is over (POD-1, POD-8).
func (m *Machine) NextIncarnation() bool {
	p := &m.S.Pod
	if !p.Want || p.Phase != PodAbsent || m.Now < p.RetryMS {
		return false
	}
	p.Incarnation++
	p.Phase, p.StartedMS, p.Waiting, p.Note = PodStarting, m.Now, false, ""
	p.Name = PodName(m.Spec.ID)
	m.head(HeadIncarnation, itoa(p.Incarnation))
	m.head(HeadLease, "")
	why := p.Why
	if why == "" {
		why = "created"
	}
	m.podEvent(PodPending, why)
	return true
}

func (m *Machine) podEvent(status PodStatus, reason string) {
	m.event("agent.pod", map[string]any{"pod_status": status, "incarnation": m.S.Pod.Incarnation, "reason": reason})
}

// failStart counts a start that did not lead to an attached runner (POD-8) and gives the agent up after five (LIFE-9).
func (m *Machine) failStart(why string) {
	p := &m.S.Pod
	p.Failed++
	m.stopPod("failed")
	p.RetryMS = m.Now + backoff[min(p.Failed, len(backoff))-1].Milliseconds()
	m.podEvent(PodError, why)
	if p.Failed >= MaxFailedStarts {
		m.Fail("The pod failed to start " + itoa(int64(p.Failed)) + " times in a row: " + why)
	}
}

// because joins what happened and what the runtime said about it.
func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// Resized takes in that the volume has been asked to grow that far.
func (m *Machine) Resized(bytes int64) {
	if m.S.Resize <= bytes {
		m.S.Resize = 0
	}
}

// Observed takes in what the runtime reports of an incarnation. Reports of older ones are ignored.
func (m *Machine) Observed(o Observation) bool {
	p := &m.S.Pod
	if o.Incarnation != 0 && o.Incarnation != p.Incarnation {
		return false
	}
	switch o.Phase {
	case PhaseNone, PhaseGone:
		return m.podGone(o)
	case PhaseWaiting:
		changed := !p.Waiting
		p.Waiting = true
		return changed
	case PhaseStarting, PhaseUp:
		changed := p.Waiting || p.Node != o.Node || p.Note != o.Reason
		if p.Waiting {
			p.StartedMS = m.Now // the clock of POD-8 starts when there is room
		}
		p.Waiting, p.Node, p.Note = false, o.Node, o.Reason
		return changed
	}
	return false
}

func (m *Machine) podGone(o Observation) bool {
	p := &m.S.Pod
	if o.Reason == "" {
		o.Reason = p.Note
	}
	switch p.Phase {
	case PodAbsent:
		return false
	case PodStarting:
		m.failStart(because("ended before it attached", o.Reason))
	case PodStopping:
		m.podEvent(PodNotRunning, p.Why)
		m.rest(p.Why == "lost" || p.Why == "lease_lost" || p.Why == "detached" && p.Want)
	case PodUp:
		why := o.Reason
		if why == "" {
			why = "crashed"
		}
		m.podEvent(PodPending, why)
		p.Why = "restarted"
		m.rest(true)
	}
	p.Phase, p.Node, p.Note = PodAbsent, "", ""
	m.head(HeadIncarnation, "")
	m.head(HeadLease, "")
	m.F.LeaseMS = 0
	m.loseRunner()
	if t := m.S.Turn; t != nil && t.Cancel != nil {
		m.finalize()
	}
	return true
}

// shortLife is how long a pod must have lived for its end not to count as one of a series.
const shortLife = 10 * time.Second

// rest lets pods that keep ending soon after their start wait longer and longer.
func (m *Machine) rest(unasked bool) {
	p := &m.S.Pod
	if !unasked || m.Now-p.StartedMS >= shortLife.Milliseconds() {
		p.Quick = 0
		return
	}
	p.Quick++
	p.RetryMS = max(p.RetryMS, m.Now+backoff[min(p.Quick, len(backoff))-1].Milliseconds())
}

// Attach lets a runner in (RUN-1): the newest incarnation only. The open turn goes on under it, or is resumed with the next attempt.
type Attach struct {
	Incarnation int64  `json:"incarnation"`
	Turn        TurnID `json:"turn,omitempty"` // the turn a living process still works on
	Version     string `json:"version"`
	Endpoint    string `json:"endpoint,omitempty"`
	Metering    string `json:"metering,omitempty"`
}

// Who meters model calls (LLM-9).
const (
	MeteringGateway = "gateway"
	MeteringRunner  = "runner"
)

// RunnerInfo is what a runner said of itself when it attached.
type RunnerInfo struct {
	Version  string `json:"version"`
	Endpoint string `json:"endpoint"`
	Metering string `json:"metering,omitempty"`
}

// DecodeRunner reads Figures.RunnerInfo; nothing attached reads as zero.
func DecodeRunner(stored string) (info RunnerInfo) {
	_ = json.Unmarshal([]byte(stored), &info) // written by Attach
	return info
}

// Attach decides on an attach. The runner epoch is raised by the store in the same step.
func (m *Machine) Attach(a Attach) error {
	p := &m.S.Pod
	if m.S.Deleting || a.Incarnation != p.Incarnation || p.Phase == PodStopping || p.Phase == PodAbsent {
		return fault.New(fault.Conflict, "stale_runner", "This pod has been replaced")
	}
	m.C.Guard = &RunnerGuard{Incarnation: a.Incarnation}
	m.C.Attach = RunnerLease.Milliseconds()
	m.C.Clear = true
	m.head(HeadRunner, string(Encode(RunnerInfo{a.Version, a.Endpoint, a.Metering})))
	if p.Phase == PodStarting {
		m.podEvent(PodRunning, "attached")
		p.Failed, p.RetryMS = 0, 0
	}
	p.Phase, p.Waiting = PodUp, false
	m.S.ActiveMS = m.Now
	m.subscribed = m.F.SubscribedMS > 0
	m.F.RunnerEpoch++ // as the store does in this step
	m.F.LeaseMS, m.F.SubscribedMS, m.F.Incarnation = m.Now+m.C.Attach, 0, a.Incarnation
	if t := m.S.Turn; t != nil && !m.S.FilesDue {
		m.resume(t, a.Turn == t.ID)
	}
	if c := m.S.Compaction; c != nil && c.SentMS > 0 { // the attempt is given to whoever runs now; its commands were dropped
		m.sendCompaction()
	}
	return nil
}

// resume gives the open turn to the runner that attaches. A process that still works on it just carries on.
func (m *Machine) resume(t *Turn, carriesOn bool) {
	epoch := m.F.RunnerEpoch
	samePod := t.Incarnation == m.S.Pod.Incarnation
	never := t.SentMS > 0 && !m.subscribed && !t.Accepted // no runner can have seen this attempt
	t.Epoch = epoch
	if carriesOn && t.SentMS > 0 {
		return
	}
	t.SentMS = m.Now
	if t.Cancel != nil {
		return
	}
	if never {
		return
	}
	if t.Attempt >= MaxAttempts {
		m.finish(Failed, "runner_lost", false)
		return
	}
	t.Attempt++
	switch {
	case !samePod:
		t.Hook = HookRestart
	case t.Accepted:
		t.Hook = HookFallback
	}
	if t.Accepted || t.Start == "resume" {
		t.Start = "resume"
	}
	if samePod && !t.Accepted {
		t.Hook = HookReceived
	}
	t.Unseen = !t.Accepted
	t.Accepted, t.Resent, t.Progress = false, false, 0
	t.Incarnation = m.S.Pod.Incarnation
	if s := m.S.Session; s != nil {
		s.Restarts++
		s.Incarnation, s.Epoch = t.Incarnation, epoch
		m.putSession()
	}
	m.putTurn(t)
	m.event("turn.resumed", map[string]any{"turn_id": t.ID, "session_id": t.Session, "attempt": t.Attempt})
}

// Detach takes a runner's orderly goodbye: its lease ends, its pod may go.
func (m *Machine) Detach() {
	m.head(HeadLease, "")
	m.F.LeaseMS = 0
	if p := &m.S.Pod; p.Phase == PodUp {
		p.Phase, p.Why = PodStopping, "detached"
		if m.S.Turn == nil && !m.CanStart() && m.S.Update == "" && m.Spec.WarmthMS != nil {
			p.Want, p.Why = false, "evicted" // nothing needs it; the next cause wakes it
		}
		m.head(HeadIncarnation, "")
	}
	m.loseRunner()
}

// FilesApplied notes that the initial files are in the workspace (POD-9).
func (m *Machine) FilesApplied(usage DiskUsage) {
	m.S.FilesDue = false
	if usage.Files > 0 {
		m.S.Disk = usage
	}
	m.record(Record{Kind: RecordFiles, ID: "initial"})
	if t := m.S.Turn; t != nil && t.SentMS == 0 {
		m.resume(t, false)
	}
}
