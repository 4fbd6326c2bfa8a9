package agent

import (
	"slices"

	"troupe/actors/fault"
)

// ReadReplies marks delivered replies as read by the user (MSG-6); other ids are ignored and returned.
func (m *Machine) ReadReplies(known []Message, asked []MessageID) (updated int, ignored []MessageID) {
	for _, id := range asked {
		i := slices.IndexFunc(known, func(x Message) bool { return x.ID == id })
		if i < 0 || known[i].Role != RoleAssistant || known[i].Status != Delivered {
			ignored = append(ignored, id)
			continue
		}
		known[i].Status = Read // so that an id that is listed twice counts once
		mk := known[i].Mark
		mk.ReadMS = m.Now
		m.C.Marks = append(m.C.Marks, MarkPut{ID: id, Mark: mk, Party: known[i].Counterparty})
		m.event("message.read", map[string]any{"message_id": id.String(), "role": RoleAssistant, "channel": known[i].Channel})
		updated++
	}
	return updated, ignored
}

// SetTranscript notes the runner's transcript behind the open session. A lost one closes the session and moves the
// running turn to a new one (RUN-8).
func (m *Machine) SetTranscript(id SessionID, sdk string, context int64, lost bool) error {
	s := m.S.Session
	if s == nil || s.ID != id {
		return fault.New(fault.Conflict, "session_closed", "The session is closed")
	}
	if lost {
		old := *s
		m.closeSession("lost")
		fresh := Session{ID: SessionID(m.NewID()), Mode: old.Mode, Trigger: old.Trigger, StartedMS: m.Now, Turns: 1, Incarnation: old.Incarnation, Epoch: old.Epoch}
		m.S.Session = &fresh
		s = &fresh
		m.event("session.started", map[string]any{"session_id": s.ID, "mode": s.Mode})
		m.head(HeadSession, string(s.ID))
		if t := m.S.Turn; t != nil {
			m.record(Record{Kind: RecordTurn, Group: string(t.Session), ID: string(t.ID)}) // it moves to the new session
			t.Session, t.Number, t.Start = s.ID, 1, "new"
			m.putTurn(t)
		}
	}
	s.SDK = sdk
	if context > 0 {
		s.Context = m.counted(context)
	}
	m.putSession()
	return nil
}

// CheckRunner refuses calls of a runner that has been replaced (FENCE-4).
func (m *Machine) CheckRunner(g *RunnerGuard) error {
	switch {
	case m.S.Deleting || m.F.Incarnation != g.Incarnation:
		return Refused("key")
	case g.Epoch != 0 && m.F.RunnerEpoch != g.Epoch:
		return fault.New(fault.Conflict, "stale_runner", "A newer runner has attached")
	}
	return nil
}

// Report takes the runner's execution status; a fatal error moves the agent to error (LIFE-9).
func (m *Machine) Report(execution, text string, fatal bool) {
	m.head(HeadExecution, execution)
	if text == "" {
		return
	}
	m.S.LastError = text
	if fatal {
		m.Fail(text)
	}
}
