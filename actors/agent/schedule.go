package agent

import (
	"slices"
	"strings"
	"time"
	"unicode"

	"troupe/actors/cron"
	"troupe/actors/fault"
	"troupe/actors/field"
)

// Limits of schedules (SCHED-1, "30 Limits").
const (
	MaxSchedules        = 50
	MaxScheduleName     = 255
	MaxScheduleTemplate = 5000
	MaxCron             = 255
	MaxZone             = 64
	KeptExecutions      = 1000
	catchUp             = time.Hour       // a missed slot younger than that fires after all (SCHED-8)
	aheadYears          = 8               // an expression must have a slot by then (SCHED-2)
	SlotLook            = 5 * time.Second // what is due is worked out now; this is in case that nothing is heard of it
)

// Schedule is a message that an agent gets at the slots of a cron expression (§21).
type Schedule struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Cron      string    `json:"cron"`
	Template  string    `json:"template"`
	Zone      string    `json:"zone"`
	Enabled   bool      `json:"enabled"`
	NextMS    int64     `json:"next_ms,omitempty"` // the slot that is due next; 0: none
	LastMS    int64     `json:"last_ms,omitempty"` // when it last queued a message
	LastID    MessageID `json:"last_id,omitempty"` // and which one
	Count     int64     `json:"count,omitempty"`   // successes
	Kept      int       `json:"kept,omitempty"`    // executions on record
	CreatedMS int64     `json:"created_ms"`
	UpdatedMS int64     `json:"updated_ms"`
}

// How an execution ended.
const (
	ExecSuccess = "success" // the message is queued
	ExecFailed  = "failed"
	ExecSkipped = "skipped"
	ExecMissed  = "missed"
)

// Execution is one entry of a schedule's history.
type Execution struct {
	ID      string    `json:"id"`
	SlotMS  int64     `json:"slot_ms"`
	AtMS    int64     `json:"at_ms"`
	Status  string    `json:"status"`
	Message MessageID `json:"message,omitempty"`
	Error   string    `json:"error,omitempty"`
	Missed  int       `json:"missed,omitempty"`
}

// SchedulePatch is what create and update give; nil: not given.
type SchedulePatch struct {
	Name     *string `json:"name,omitempty"`
	Cron     *string `json:"cron,omitempty"`
	Template *string `json:"template,omitempty"`
	Zone     *string `json:"zone,omitempty"`
	Enabled  *bool   `json:"enabled,omitempty"`
}

var scheduleVariables = []string{"date", "time", "schedule.name"}

// ReadSchedule reads the body of create (all of it) or update (what changes).
func ReadSchedule(doc *field.Value, create bool) (p SchedulePatch, err error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	if create {
		r.Require("name", "cron_expression", "message_template")
	}
	if s, ok := r.String("name", field.Text{Min: 1, Max: MaxScheduleName}); ok {
		if s = strings.TrimFunc(s, unicode.IsSpace); s == "" {
			r.Fail("name", "must contain a character that is not blank")
		}
		p.Name = &s
	}
	if s, ok := r.String("cron_expression", field.Text{Min: 1, Max: MaxCron}); ok {
		if _, err := cron.Parse(s); err != nil {
			r.FailCode("cron_expression", err.Error(), "invalid_cron")
		}
		p.Cron = &s
	}
	if s, ok := r.String("timezone", field.Text{Min: 1, Max: MaxZone}); ok {
		if _, err := cron.Zone(s); err != nil {
			r.FailCode("timezone", err.Error(), "invalid_timezone")
		}
		p.Zone = &s
	}
	if s, ok := r.String("message_template", field.Text{Min: 1, Max: MaxScheduleTemplate}); ok {
		if strings.TrimFunc(s, unicode.IsSpace) == "" {
			r.Fail("message_template", "must contain a character that is not blank")
		}
		p.Template = &s
	}
	if b, ok := r.Bool("enabled"); ok {
		p.Enabled = &b
	}
	if err := errs.Err(); err != nil || p.Template == nil {
		return p, err
	}
	return p, CheckTemplate(*p.Template, scheduleVariables)
}

// Apply changes a schedule; from then on it counts from now (SCHED-11). Errors: fault.Invalid invalid_cron when it has no slot (SCHED-2).
func (p SchedulePatch) Apply(s *Schedule, nowMS int64) (changed bool, err error) {
	before := *s
	for dst, v := range map[*string]*string{&s.Name: p.Name, &s.Cron: p.Cron, &s.Template: p.Template, &s.Zone: p.Zone} {
		if v != nil {
			*dst = *v
		}
	}
	if p.Enabled != nil {
		s.Enabled = *p.Enabled
	}
	if s.Cron != before.Cron || s.Zone != before.Zone || s.Enabled != before.Enabled {
		err = s.arm(nowMS)
	}
	return *s != before, err
}

// arm finds the next slot after now.
func (s *Schedule) arm(nowMS int64) error {
	expr, zone, err := s.parsed()
	if err != nil {
		return err
	}
	now := time.UnixMilli(nowMS)
	next := expr.Next(now, zone)
	if next.IsZero() || next.After(now.AddDate(aheadYears, 0, 0)) {
		return fault.New(fault.Invalid, "invalid_cron", "cron_expression has no slot in the next 8 years").At("cron_expression", "has no slot in the next 8 years")
	}
	s.NextMS = 0
	if s.Enabled {
		s.NextMS = next.UnixMilli()
	}
	return nil
}

func (s *Schedule) parsed() (*cron.Expr, *time.Location, error) {
	expr, err := cron.Parse(s.Cron)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "invalid_cron", "cron_expression "+err.Error()).At("cron_expression", err.Error())
	}
	zone, err := cron.Zone(s.Zone)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "invalid_timezone", "timezone "+err.Error()).At("timezone", err.Error())
	}
	return expr, zone, nil
}

// StampIn prints an instant with the offset of a zone (SCHED-4); nil for zero.
func StampIn(ms int64, zone string) *string {
	z, err := cron.Zone(zone)
	if ms == 0 || err != nil {
		return StampOrNil(ms)
	}
	s := time.UnixMilli(ms).In(z).Format("2006-01-02T15:04:05.000Z07:00")
	return &s
}

// Scheduled is what the machine is given to decide on schedules.
type Scheduled struct {
	All     []Schedule
	Slots   map[string]Slot        // of schedules that are due, as far as they are worked out; nil: not at all
	Waiting map[MessageID]bool     // last messages that are still pending (SCHED-7)
	Oldest  map[string][]Execution // of schedules whose history is full
}

// schedule finds a schedule by its id.
func (m *Machine) schedule(id string) (*Schedule, error) {
	if m.S.Deleting {
		return nil, Gone()
	}
	for i := range m.Schedules.All {
		if s := &m.Schedules.All[i]; s.ID == id {
			return s, nil
		}
	}
	return nil, fault.New(fault.NotFound, "not_found", "Schedule not found")
}

// AddSchedule stores a new schedule.
func (m *Machine) AddSchedule(id string, p SchedulePatch) (Schedule, error) {
	s := Schedule{ID: id, Zone: "UTC", Enabled: true, CreatedMS: m.Now, UpdatedMS: m.Now}
	if m.S.Deleting {
		return s, Gone()
	}
	if len(m.Schedules.All) >= MaxSchedules {
		return s, fault.Newf(fault.Invalid, "limit_reached", "An agent can have %d schedules", MaxSchedules)
	}
	if _, err := p.Apply(&s, m.Now); err != nil {
		return s, err
	}
	m.Schedules.All = append(m.Schedules.All, s)
	m.putSchedule(&s, false)
	m.nextSlot()
	return s, nil
}

// ChangeSchedule applies a patch.
func (m *Machine) ChangeSchedule(id string, p SchedulePatch) (Schedule, error) {
	s, err := m.schedule(id)
	if err != nil {
		return Schedule{}, err
	}
	changed, err := p.Apply(s, m.Now)
	if err != nil || !changed {
		return *s, err
	}
	s.UpdatedMS = max(m.Now, s.UpdatedMS)
	m.putSchedule(s, true)
	m.nextSlot()
	return *s, nil
}

// ToggleSchedule flips enabled (SCHED-11).
func (m *Machine) ToggleSchedule(id string) (Schedule, error) {
	s, err := m.schedule(id)
	if err != nil {
		return Schedule{}, err
	}
	flipped := !s.Enabled
	return m.ChangeSchedule(id, SchedulePatch{Enabled: &flipped})
}

// DropSchedule deletes a schedule with its history.
func (m *Machine) DropSchedule(id string, history []Execution) error {
	if _, err := m.schedule(id); err != nil {
		return err
	}
	for _, x := range history {
		m.record(Record{Kind: RecordExecution, Group: id, ID: x.ID})
	}
	m.record(Record{Kind: RecordSchedule, ID: id})
	m.Schedules.All = slices.DeleteFunc(m.Schedules.All, func(s Schedule) bool { return s.ID == id })
	m.nextSlot()
	return nil
}

func (m *Machine) putSchedule(s *Schedule, known bool) {
	m.record(Record{Kind: RecordSchedule, ID: s.ID, Score: s.CreatedMS, Body: Encode(s), Known: known})
}

// nextSlot notes the earliest slot of all schedules, for the clock.
func (m *Machine) nextSlot() {
	m.S.SlotMS = 0
	for i := range m.Schedules.All {
		if n := m.Schedules.All[i].NextMS; n > 0 && (m.S.SlotMS == 0 || n < m.S.SlotMS) {
			m.S.SlotMS = n
		}
	}
}

// SlotDue says whether the actor of a schedule has something to work out.
func (m *Machine) SlotDue() bool { return m.S.SlotMS > 0 && m.S.SlotMS <= m.Now && !m.S.Deleting }

// Slot is what a due schedule comes to at one instant: worked out by the schedule's own actor, committed by its agent.
type Slot struct {
	Of      Schedule // as it was then; if it has changed since, or the slot has become too old, nothing is committed
	Missed  int      // slots that nothing is made up for
	FireMS  int64    // the slot whose message is to be queued; 0: none
	Content string   // of that message
	NextMS  int64    // the slot that is due next; 0: none
}

// Slot works out what is due. What was missed is counted from the stored slot (SCHED-8).
func (s *Schedule) Slot(nowMS int64) Slot {
	out := Slot{Of: *s}
	expr, zone, err := s.parsed()
	if err != nil { // a zone that this node does not know: the next one may
		out.NextMS = nowMS + time.Minute.Milliseconds()
		return out
	}
	now, slot := time.UnixMilli(nowMS), time.UnixMilli(s.NextMS)
	newest, n, next := expr.Between(slot, now, zone)
	if n > 0 { // the control plane was away
		out.Missed, slot = n, newest
	}
	if !next.IsZero() {
		out.NextMS = next.UnixMilli()
	}
	if now.Sub(slot) >= catchUp {
		out.Missed++
		return out
	}
	local := slot.In(zone)
	out.FireMS = slot.UnixMilli()
	out.Content = RenderMap(s.Template, map[string]string{"date": local.Format(time.DateOnly), "time": local.Format(time.TimeOnly), "schedule.name": s.Name})
	return out
}

// lookSchedules commits the slots that were worked out. Everything is in one commit: a slot can neither be lost nor fire twice (SCHED-6).
func (m *Machine) lookSchedules() bool {
	if !m.SlotDue() || m.Schedules.Slots == nil {
		return false
	}
	due, fired := 0, 0
	for i := range m.Schedules.All {
		s := &m.Schedules.All[i]
		if !s.Due(m.Now) {
			continue
		}
		due++
		if x, ok := m.Schedules.Slots[s.ID]; ok && x.Of == *s && x.holds(m.Now) {
			m.takeSlot(s, &x)
			fired++
		}
	}
	if due > 0 && fired == 0 {
		return false
	}
	m.nextSlot()
	return true
}

// holds says whether a slot comes to the same now: it does not once the next one is due, or what it fires is too old (SCHED-8).
func (x *Slot) holds(nowMS int64) bool {
	return (x.NextMS == 0 || x.NextMS > nowMS) && (x.FireMS == 0 || nowMS-x.FireMS < catchUp.Milliseconds())
}

// Due says whether a slot of the schedule is.
func (s *Schedule) Due(nowMS int64) bool { return s.NextMS > 0 && s.NextMS <= nowMS }

func (m *Machine) takeSlot(s *Schedule, x *Slot) {
	if x.Missed > 0 {
		m.execution(s, Execution{SlotMS: s.NextMS, Status: ExecMissed, Missed: x.Missed})
	}
	if x.FireMS > 0 {
		m.fire(s, x)
	}
	s.NextMS = x.NextMS
	m.putSchedule(s, true)
}

// fire queues the message of one slot, or says why not (SCHED-7, SCHED-9).
func (m *Machine) fire(s *Schedule, slot *Slot) {
	x := Execution{SlotMS: slot.FireMS, Status: ExecFailed}
	switch {
	case m.S.Status == Stopped:
		x.Error = "Agent is stopped"
	case m.S.Status == Errored:
		x.Error = "Agent is in error state"
	case s.LastID != "" && m.Schedules.Waiting[s.LastID]:
		x.Status = ExecSkipped
	case m.F.Pending >= int64(m.Set.MaxPending):
		x.Error = "The agent's queue is full"
	default:
		x.Status, x.Message = ExecSuccess, MessageID(m.NewID())
		m.C.Append = append(m.C.Append, Append{ID: x.Message, Queue: true, Mark: Mark{Status: Pending}, Body: Body{Role: RoleUser, Channel: ChannelAPI, QueueMode: "collect", Content: slot.Content,
			Source: "schedule", SourceUUID: s.ID, Counterparty: string(m.Spec.Account), PartyName: m.Spec.Owner, PartyType: "user"}})
		m.event("message.pending", messagePending{x.Message.String(), RoleUser, ChannelAPI})
		m.F.Pending++
		m.Lags = append(m.Lags, m.Now-x.SlotMS)
		s.LastMS, s.LastID = m.Now, x.Message
		s.Count++
		m.S.ActiveMS = max(m.S.ActiveMS, m.Now)
	}
	m.execution(s, x)
}

// execution adds an entry to the history and drops what is beyond its length.
func (m *Machine) execution(s *Schedule, x Execution) {
	x.ID, x.AtMS = m.NewID(), m.Now
	m.record(Record{Kind: RecordExecution, Group: s.ID, ID: x.ID, Score: m.Now, Body: Encode(x)})
	s.Kept++
	for old := m.Schedules.Oldest[s.ID]; s.Kept > KeptExecutions && len(old) > 0; old = old[1:] {
		m.record(Record{Kind: RecordExecution, Group: s.ID, ID: old[0].ID})
		m.Schedules.Oldest[s.ID] = old[1:]
		s.Kept--
	}
}
