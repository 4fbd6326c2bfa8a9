package agent

import "strconv"

// unread counts what the running turn has not seen: messages that wait, and those that the runner pulled in and did not read
// (REM-2). Oldest is when the first of them was accepted.
func (m *Machine) unread(pending []Message) (count, oldest int64) {
	count = m.F.Pending
	for _, x := range pending { // not in the order of their acceptance: tasks have priorities
		if m.S.Turn.Entry(x.ID) == nil && (oldest == 0 || x.CreatedMS < oldest) {
			oldest = x.CreatedMS
		}
	}
	for i := range m.S.Turn.Batch {
		if e := &m.S.Turn.Batch[i]; e.Late && e.ReadMS == 0 {
			count++
			if oldest == 0 || e.CreatedMS < oldest {
				oldest = e.CreatedMS
			}
		}
	}
	return count, oldest
}

// NextReminder is when the runner is to be told of how many unread messages (§13), 0 for never. It follows from the oldest of them
// and the last reminder, so nothing has to be armed: a count that drops to zero starts the interval anew by itself (REM-3), and
// what was missed is not made up for (REM-4).
func (m *Machine) NextReminder(pending []Message) (at, count int64) {
	t := m.S.Turn
	if t == nil || m.S.Status != Active || t.SentMS == 0 || t.Cancel != nil || m.S.Compaction != nil || !m.F.RunnerLive() || m.S.Pod.Phase != PodUp { // REM-1
		return 0, 0
	}
	count, oldest := m.unread(pending)
	if count <= 0 { // fewer than none: a message came between the count and the look at the queue
		return 0, 0
	}
	return max(oldest, t.RemindedMS) + m.Spec.Config.ReminderMS, count
}

// remind sends the reminder that is due.
func (m *Machine) remind(pending []Message) bool {
	at, count := m.NextReminder(pending)
	if m.remindMS = at; at == 0 || m.Now < at {
		return false
	}
	t := m.S.Turn
	t.RemindedMS, m.remindMS = m.Now, m.Now+m.Spec.Config.ReminderMS
	m.confirm("reminder") // a newer one replaces it
	prompt := RenderMap(m.Spec.Config.HookText(HookReminder), map[string]string{"message_count": strconv.FormatInt(count, 10)})
	m.command("reminder", map[string]any{"turn_id": t.ID, "message_count": count, "prompt": prompt})
	m.event("reminder.sent", map[string]any{"turn_id": t.ID, "message_count": count})
	return true
}
