package agent

import (
	"encoding/json"
	"slices"

	"troupe/actors/fault"
)

// CanStart says whether a turn could start if a runner were there (TURN-1, LIFE-3).
func (m *Machine) CanStart() bool {
	s := &m.S
	return s.Status == Active && !s.Deleting && s.Turn == nil && m.F.Balance > 0 && m.F.Pending > 0 && s.Update == "" && s.Compaction == nil
}

// RunnerReady says whether a turn may be given to the runner now.
func (m *Machine) RunnerReady() bool {
	return m.S.Pod.Phase == PodUp && m.F.RunnerLive() && !m.S.FilesDue && !m.S.Pod.Replace
}

// StartTurn takes the leading pending messages into a new turn (TURN-2, QUE-2).
func (m *Machine) StartTurn(pending []Message) bool {
	if !m.CanStart() || !m.RunnerReady() {
		return false
	}
	m.dropOver()
	if len(m.C.Take) > 0 { // tasks that are over, or were cancelled in this step
		pending = slices.DeleteFunc(slices.Clone(pending), func(x Message) bool { return slices.Contains(m.C.Take, x.ID) })
	}
	batch := TakeTurn(pending)
	if len(batch) == 0 {
		return false
	}
	task, timeout := batch[0].TaskID(), m.Spec.Config.TimeoutSeconds
	if task != "" && batch[0].Task.TimeoutS > 0 {
		timeout = batch[0].Task.TimeoutS
	}
	trig := Trigger{Type: triggerType(batch[0].Source), UUID: batch[0].SourceUUID, Message: batch[0].ID}
	sess, start, interrupted := m.chooseSession(trig, task)
	m.S.TurnCount++
	sess.Turns++
	t := &Turn{
		ID: TurnID(m.NewID()), Number: sess.Turns, Session: sess.ID, Trigger: trig, Attempt: 1, Hook: HookReceived, Start: start,
		StartedMS: m.Now, SentMS: m.Now, DeadlineMS: m.Now + timeout*1000, Task: task,
		Incarnation: m.S.Pod.Incarnation, Epoch: m.F.RunnerEpoch,
	}
	if interrupted {
		t.Hook = HookInterrupt
	}
	sess.Incarnation, sess.Epoch = t.Incarnation, t.Epoch
	m.S.Turn = t
	m.take(batch, false)
	t.Seq = max(batch[len(batch)-1].Seq, m.F.Interrupt) // an interrupt from before the turn interrupts nothing (QUE-4)
	m.S.ActiveMS = m.Now
	m.head(HeadTurn, string(t.ID))
	m.head(HeadSession, string(sess.ID))
	m.putSession()
	m.putTurn(t)
	if task != "" {
		m.putTask(Task{ID: task})
	}
	m.command("turn.start", map[string]any{"turn_id": t.ID, "attempt": t.Attempt})
	m.event("turn.started", map[string]any{"turn_id": t.ID, "session_id": t.Session, "attempt": 1, "message_ids": m.batchIDs(), "deadline_at": Stamp(t.DeadlineMS)})
	return true
}

func triggerType(source string) string {
	if source == "user" || source == "" {
		return "message"
	}
	return source
}

// chooseSession continues the open persistent session, or the one that waits for input to this task, or opens a new one
// (§10, SESS-1, SESS-2, SESS-4, LEG-6).
func (m *Machine) chooseSession(trig Trigger, task MessageID) (sess *Session, start string, interrupted bool) {
	if s := m.S.Session; s != nil {
		mine := s.Task != "" && s.Task == task
		if mine || s.Mode == Persistent && m.Spec.SessionMode == Persistent {
			s.Task = ""
			start = "continue"
			if s.Incarnation != m.S.Pod.Incarnation || s.Epoch != m.F.RunnerEpoch {
				start = "resume"
			}
			if s.SDK == "" {
				start = "new"
			}
			interrupted = s.EndReason == "interrupted"
			s.EndReason = ""
			return s, start, interrupted
		}
		if s.Task != "" {
			m.closeSession("replaced")
		} else {
			m.closeSession("mode_changed")
		}
	}
	sess = &Session{ID: SessionID(m.NewID()), Mode: m.Spec.SessionMode, Trigger: trig, StartedMS: m.Now}
	m.S.Session = sess
	m.event("session.started", map[string]any{"session_id": sess.ID, "mode": sess.Mode})
	return sess, "new", false
}

func (m *Machine) closeSession(reason string) {
	if m.S.Compaction != nil {
		m.endCompaction("failed", "The session ended")
	}
	s := m.S.Session
	s.EndedMS, s.EndReason = m.Now, reason
	m.putSession()
	m.event("session.ended", map[string]any{"session_id": s.ID, "mode": s.Mode, "end_reason": reason})
	m.S.Session = nil
}

// Forgotten says whether a session is no longer kept when it is the nth newest (OBS-3). The open one always is.
func (s *Session) Forgotten(now int64, nth int) bool {
	return s.EndedMS > 0 && (nth > MaxSessions || s.StartedMS < now-SessionAge.Milliseconds())
}

func (m *Machine) putSession() {
	s := m.S.Session
	m.record(Record{Kind: RecordSession, ID: string(s.ID), Score: s.StartedMS, Body: Encode(s)})
}

func (m *Machine) putTurn(t *Turn) {
	m.record(Record{Kind: RecordTurn, Group: string(t.Session), ID: string(t.ID), Score: t.StartedMS, Body: Encode(t)})
}

// record stores a record; of several versions in one step only the last is kept.
func (m *Machine) record(r Record) {
	if i := slices.IndexFunc(m.C.Records, func(x Record) bool { return x.Kind == r.Kind && x.Group == r.Group && x.ID == r.ID }); i >= 0 {
		m.C.Records[i] = r
		return
	}
	m.C.Records = append(m.C.Records, r)
}

// take moves pending messages into the running turn.
func (m *Machine) take(batch []Message, late bool) {
	t := m.S.Turn
	for _, x := range batch {
		t.Batch = append(t.Batch, Entry{ID: x.ID, Seq: x.Seq, Channel: x.Channel, Party: x.Counterparty, PartyName: x.PartyName,
			PartyType: x.PartyType, Rank: x.Rank(), Metadata: len(x.Metadata) > 2, TakenMS: m.Now, Late: late, CreatedMS: lateAt(late, x.CreatedMS)})
		t.Hops = max(t.Hops, x.Hops)
		if x.Task != nil {
			t.Callback = x.Task.Callback
		}
		e := &t.Batch[len(t.Batch)-1]
		e.Reply, e.Answered = t.Early[x.ID]
		m.C.Take = append(m.C.Take, x.ID)
		m.F.Pending-- // as the store does in this step
		m.mark(e, "", "", 0)
		m.event("message.delivered", map[string]any{"message_id": x.ID.String(), "role": RoleUser, "channel": x.Channel, "turn_id": t.ID})
	}
}

// lateAt keeps the instant of acceptance of messages that were pulled in: reminders count from it.
func lateAt(late bool, created int64) int64 {
	if late {
		return created
	}
	return 0
}

// mark writes the present mark of a batch entry.
func (m *Machine) mark(e *Entry, outcome Outcome, reason string, unread int) {
	mk := Mark{Status: Delivered, DeliveredMS: e.TakenMS, ReadMS: e.ReadMS, Outcome: outcome, Reason: reason, Session: m.S.Turn.Session, Turn: m.S.Turn.ID}
	if e.ReadMS > 0 {
		mk.Status = Read
	}
	put := MarkPut{ID: e.ID, Mark: mk, Party: e.Party, Unread: unread}
	if i := slices.IndexFunc(m.C.Marks, func(x MarkPut) bool { return x.ID == e.ID }); i >= 0 {
		put.Unread += m.C.Marks[i].Unread
		m.C.Marks[i] = put
		return
	}
	m.C.Marks = append(m.C.Marks, put)
}

func (m *Machine) batchIDs() []string {
	out := make([]string, len(m.S.Turn.Batch))
	for i, e := range m.S.Turn.Batch {
		out[i] = e.ID.String()
	}
	return out
}

// running checks a runner's call that names a turn (FENCE-5). An empty id is allowed only where none is running.
func (m *Machine) running(id TurnID) (*Turn, error) {
	t := m.S.Turn
	switch {
	case t != nil && t.ID == id:
		return t, nil
	case m.S.LastTurn == id && id != "":
		return nil, fault.New(fault.Conflict, "turn_ended", "The turn has ended")
	case t == nil || id == "":
		return nil, fault.New(fault.Conflict, "stale_turn", "No such turn is running")
	}
	return nil, fault.New(fault.Conflict, "stale_turn", "Another turn is running")
}

// Progress notes the reports of the runner (RUN-12). Accepted confirms the start; entries seen before are ignored.
// It returns the highest number stored and the turn's deadline.
func (m *Machine) Progress(id TurnID, entries []ProgressEntry) (seq, deadline int64, err error) {
	t, err := m.running(id)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if e.Seq <= t.Progress {
			continue
		}
		t.Progress = e.Seq
		switch e.Kind {
		case "accepted":
			if !t.Accepted {
				t.Accepted = true
				m.confirm("turn.start")
			}
		case "tool_started", "tool_finished":
			d := map[string]any{"turn_id": t.ID, "tool_call_id": e.ToolCallID, "tool_name": e.ToolName, "summary": e.Summary}
			if e.Kind == "tool_finished" {
				d["is_error"] = e.IsError
			}
			m.event(map[string]string{"tool_started": "tool.started", "tool_finished": "tool.finished"}[e.Kind], d)
		case "step":
			if t.Step = e.Step; t.Task != "" {
				m.putRunning()
			}
		case "context":
			if m.S.Session != nil {
				m.S.Session.Context = m.counted(e.ContextTokens)
			}
		}
	}
	return t.Progress, t.DeadlineMS, nil
}

// ProgressEntry is one entry of a progress report.
type ProgressEntry struct {
	Seq           int64  `json:"seq"`
	Kind          string `json:"kind"`
	ToolCallID    string `json:"tool_call_id,omitempty"`
	ToolName      string `json:"tool_name,omitempty"`
	IsError       bool   `json:"is_error,omitempty"`
	Summary       string `json:"summary,omitempty"`
	ContextTokens int64  `json:"context_tokens,omitempty"`
	Step          *Step  `json:"step,omitempty"`
}

// confirm asks the store to drop the commands of a kind; Confirm holds kinds as negative marks resolved by the grain.
func (m *Machine) confirm(kind string) {
	mark := map[string]int64{"turn.start": ConfirmStart, "turn": ConfirmTurn, "reminder": ConfirmReminder, "session.compact": ConfirmCompact}[kind]
	m.C.Confirm = append(m.C.Confirm, mark)
}

// Marks of Commit.Confirm that stand for kinds of commands rather than for one sequence number.
const (
	ConfirmStart = -1 // every turn.start
	ConfirmTurn  = -2 // every turn.start, turn.cancel and reminder
	// ConfirmReminder is every reminder.
	ConfirmReminder = -3
	// ConfirmCompact is every session.compact.
	ConfirmCompact = -4
)

// ReplyDraft is one reply of the runner.
type ReplyDraft struct {
	ReplyTo  MessageID `json:"reply_to,omitempty"`
	Content  string    `json:"content"`
	Metadata []byte    `json:"metadata,omitempty"`
}

// End is the runner's report that a turn is over.
type End struct {
	Turn    TurnID          `json:"turn"`
	Outcome Outcome         `json:"outcome"`
	Reason  string          `json:"reason,omitempty"`
	Error   string          `json:"error,omitempty"`
	Replies []ReplyDraft    `json:"replies,omitempty"`
	SDK     string          `json:"sdk,omitempty"`
	Context int64           `json:"context,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"` // JSON object
}

// Ended is the answer to End.
type Ended struct {
	Outcome   Outcome     `json:"outcome"`
	Duplicate bool        `json:"duplicate"`
	Replies   []MessageID `json:"replies"`
}

// EndTurn ends the running turn in one step (TURN-6). Older gives messages that replies name and that are not in the batch.
func (m *Machine) EndTurn(e End, older func(MessageID) (Message, bool)) (Ended, error) {
	if m.S.LastTurn == e.Turn && e.Turn != "" {
		if m.S.LastResult != e.Outcome && !m.S.LastForced {
			return Ended{}, fault.Newf(fault.Conflict, "turn_ended", "The turn has ended with outcome %s", m.S.LastResult)
		}
		return Ended{Outcome: m.S.LastResult, Duplicate: true, Replies: m.S.LastReply}, nil
	}
	t, err := m.running(e.Turn)
	if err != nil {
		return Ended{}, err
	}
	if c := t.Cancel; c != nil { // decided before: the replies are discarded (TURN-5)
		m.finish(c.Outcome, c.Reason, c.Requeue)
		return Ended{Outcome: c.Outcome, Replies: t.Replies}, nil
	}
	for _, r := range e.Replies {
		if _, err := m.reply(t, r, older, true); err != nil {
			return Ended{}, err
		}
	}
	if s := m.S.Session; s != nil {
		if e.SDK != "" {
			s.SDK = e.SDK
		}
		if n := m.counted(e.Context); n > 0 {
			s.Context = n
		}
	}
	reason := e.Reason
	if e.Outcome == Failed && reason == "" {
		reason = "agent_error"
	}
	if e.Outcome == Cancelled && reason == "" {
		reason = "cancelled"
	}
	if e.Error != "" {
		m.S.LastError, t.Error = e.Error, e.Error
	}
	t.Result = e.Result
	m.finish(e.Outcome, reason, false)
	return Ended{Outcome: e.Outcome, Replies: t.Replies}, nil
}

// reply appends one reply of the running turn (MSG-6, MSG-7). One to another agent goes its own way (MSG-14); stored says
// that nobody waits for the recipient's answer.
func (m *Machine) reply(t *Turn, r ReplyDraft, older func(MessageID) (Message, bool), stored bool) (MessageID, error) {
	to := r.ReplyTo
	if to == "" {
		if len(t.Batch) == 0 {
			return "", fault.New(fault.Invalid, "validation_failed", "reply_to_id is required in a turn without messages").At("reply_to_id", "is required in a turn without messages")
		}
		to = t.Batch[len(t.Batch)-1].ID
	}
	body := Body{Role: RoleAssistant, Content: r.Content, ReplyTo: to, Metadata: r.Metadata, Source: "agent"}
	if e := t.Entry(to); e != nil {
		e.Answered = e.Answered || e.Channel != ChannelAgent || stored
		body.Channel, body.Counterparty, body.PartyName, body.PartyType = e.Channel, e.Party, e.PartyName, e.PartyType
	} else {
		msg, ok := older(to)
		if !ok || msg.Role != RoleUser {
			return "", fault.New(fault.Invalid, "validation_failed", "reply_to_id is not a message to this agent").At("reply_to_id", "is not a message to this agent")
		}
		if msg.Status == Pending {
			if t.Early == nil {
				t.Early = map[MessageID]MessageID{}
			}
			t.Early[to] = "" // it counts as answered once it is taken (TURN-10)
		}
		body.Channel, body.Counterparty, body.PartyName, body.PartyType = msg.Channel, msg.Counterparty, msg.PartyName, msg.PartyType
	}
	id, err := m.tell(body, t, stored)
	if err != nil {
		return "", err
	}
	if body.Channel == ChannelAgent && !stored {
		return id, nil // it is a reply when the recipient has it
	}
	if e := t.Entry(to); e != nil {
		e.Reply = id
	} else if _, early := t.Early[to]; early {
		t.Early[to] = id
	}
	return id, nil
}

// append stores a message of the agent. To channel api it is delivered at once; a chat channel confirms later (MSG-6).
func (m *Machine) append(body Body, t *Turn) MessageID {
	id := MessageID(m.NewID())
	mk := Mark{Status: Delivered, DeliveredMS: AtCreation}
	if body.Channel.Chat() {
		mk = Mark{Status: Pending}
		if m.RelayTo(body.Counterparty) == nil {
			mk.Reason = "channel_unreachable" // it was unlinked (CHAN-12)
		} else {
			m.relay(id, body.Counterparty)
		}
	}
	if t != nil {
		mk.Session, mk.Turn = t.Session, t.ID
		t.Replies = append(t.Replies, id)
	}
	m.C.Append = append(m.C.Append, Append{ID: id, Body: body, Mark: mk})
	m.event("message.reply", map[string]any{"message_id": id.String()})
	return id
}

// Reply posts a reply during the turn (TURN-8).
func (m *Machine) Reply(id TurnID, r ReplyDraft, older func(MessageID) (Message, bool)) (MessageID, error) {
	t, err := m.running(id)
	if err != nil {
		return "", err
	}
	return m.reply(t, r, older, false)
}

// Tell posts a proactive message to the owner, or to another agent (MSG-8, MSG-14).
func (m *Machine) Tell(id TurnID, body Body) (MessageID, error) {
	if m.S.Turn != nil || id != "" {
		t, err := m.running(id)
		if err != nil {
			return "", err
		}
		return m.tell(body, t, false)
	}
	return m.tell(body, nil, false)
}

func (m *Machine) tell(body Body, t *Turn, stored bool) (MessageID, error) {
	if body.Channel == ChannelAgent {
		return m.intend(body, t, stored)
	}
	return m.append(body, t), nil
}

// MarkBatch moves messages forward for the runner: pending ones join the running turn (RUN-10). It returns how many changed.
func (m *Machine) MarkBatch(id TurnID, read bool, known []Message, asked []MessageID) (updated int, ignored []MessageID, err error) {
	t, err := m.running(id)
	if err != nil {
		return 0, nil, err
	}
	for _, want := range asked {
		i := slices.IndexFunc(known, func(x Message) bool { return x.ID == want })
		changed := false
		if i >= 0 && known[i].Role == RoleUser && known[i].Status == Pending && known[i].TaskID() == t.Task && t.Entry(want) == nil {
			m.take(known[i:i+1], true)
			changed = true
		}
		if e := t.Entry(want); e != nil && read && e.ReadMS == 0 {
			e.ReadMS = m.Now
			m.mark(e, "", "", -1)
			m.event("message.read", map[string]any{"message_id": e.ID.String(), "role": RoleUser, "channel": e.Channel, "turn_id": t.ID})
			changed = true
		}
		if changed {
			updated++
		} else {
			ignored = append(ignored, want)
		}
	}
	return updated, ignored, nil
}

// cancel makes a cancel of the running turn durable; one that is decided already stays (TURN-5, QUE-4).
func (m *Machine) cancel(command string) bool {
	t := m.S.Turn
	if t == nil || t.Cancel != nil {
		return false
	}
	c := cancels[command]
	c.Command, c.DueMS = command, m.Now+CancelGrace.Milliseconds()
	if !m.F.RunnerLive() {
		c.DueMS = m.Now
	}
	t.Cancel = &c
	if command != "agent_error" {
		m.command("turn.cancel", map[string]any{"turn_id": t.ID, "reason": command, "grace_ms": CancelGrace.Milliseconds()})
	}
	return true
}

// finalize ends a turn whose cancel was not answered (TURN-5).
func (m *Machine) finalize() {
	if c := m.S.Turn.Cancel; c != nil {
		m.finish(c.Outcome, c.Reason, c.Requeue)
	}
}

// finish ends the running turn: marks, session, records, events (TURN-6, TURN-10, LIFE-4).
func (m *Machine) finish(outcome Outcome, reason string, requeue bool) {
	t := m.S.Turn
	t.EndedMS, t.Outcome, t.Reason = m.Now, outcome, reason
	if outcome == Completed || outcome == AwaitingInput {
		t.Reason = ""
	}
	for i := range t.Batch {
		e := &t.Batch[i]
		if requeue && e.ReadMS == 0 && !e.Answered {
			if m.C.Requeue == nil {
				m.C.Requeue = map[MessageID]Place{}
			}
			m.C.Requeue[e.ID] = Place{e.Seq, e.Rank}
			m.C.Marks = append(m.C.Marks, MarkPut{ID: e.ID, Mark: Mark{Status: Pending}, Party: e.Party})
			m.event("message.pending", messagePending{e.ID.String(), RoleUser, e.Channel})
			continue
		}
		m.closeEntry(e, outcome, t.Reason)
	}
	m.endTask(outcome, t.Reason)
	m.confirm("turn")
	if c := m.S.Compaction; c != nil && c.Turn == t.ID {
		m.endCompaction("failed", "The turn ended")
	}
	m.putTurn(t)
	usage := map[string]any{"turn_id": t.ID, "session_id": t.Session, "attempt": t.Attempt, "outcome": outcome, "reason": orNil(t.Reason)}
	m.event("turn.ended", usage)
	m.endSession(outcome, reason)
	m.S.LastTurn, m.S.LastResult, m.S.LastReply, m.S.LastForced = t.ID, outcome, t.Replies, t.Cancel != nil
	m.S.Turn = nil
	m.S.ActiveMS = m.Now
	m.S.Crashes = 0
	m.head(HeadTurn, "")
	m.head(HeadLastTurn, string(t.ID))
	m.head(HeadTurnEnd, itoa(m.Now))
}

// closeEntry gives one message its outcome: an answered one counts as completed whatever became of the turn (TURN-10).
func (m *Machine) closeEntry(e *Entry, outcome Outcome, reason string) {
	unread := 0
	if e.ReadMS == 0 {
		e.ReadMS, unread = m.Now, -1
		m.event("message.read", map[string]any{"message_id": e.ID.String(), "role": RoleUser, "channel": e.Channel, "turn_id": m.S.Turn.ID})
	}
	if (outcome == Failed || outcome == Cancelled) && e.Answered {
		outcome, reason = Completed, ""
	}
	m.mark(e, outcome, reason, unread)
	m.notifyEntry(e, outcome, reason)
	if outcome == Failed || outcome == Cancelled {
		m.event("message.failed", map[string]any{"message_id": e.ID.String(), "role": RoleUser, "channel": e.Channel, "turn_id": m.S.Turn.ID, "reason": orNil(reason)})
	}
}

// endSession closes an ephemeral session with its last turn (SESS-1); a persistent one stays open (SESS-2).
func (m *Machine) endSession(outcome Outcome, reason string) {
	s := m.S.Session
	if s == nil {
		return
	}
	if s.Mode == Persistent {
		s.EndReason = ""
		if reason == "interrupted" {
			s.EndReason = "interrupted" // read by the next turn's hook, not an end
		}
		m.putSession()
		return
	}
	if m.goesOn(outcome) {
		s.Task = m.S.Turn.Task
		m.putSession()
		return
	}
	end := map[Outcome]string{Completed: "completed", AwaitingInput: "completed", Failed: "failed", Cancelled: "interrupted"}[outcome]
	if m.S.Turn.Cancel != nil && m.S.Turn.Cancel.Command == "stop" {
		end = "stopped"
	}
	if m.S.Deleting || m.S.Turn.Cancel != nil && m.S.Turn.Cancel.Command == "delete" {
		end = "deleted"
	}
	m.closeSession(end)
}
