package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"troupe/actors/fault"
)

// slots is a bench at an instant, with schedules.
func slots(t *testing.T, at string) *bench {
	b := newBench(t)
	b.at(at)
	b.m.Schedules = Scheduled{Waiting: map[MessageID]bool{}, Oldest: map[string][]Execution{}}
	return b
}

func (b *bench) at(text string) {
	b.t.Helper()
	x, err := time.Parse(time.RFC3339, text)
	if err != nil {
		b.t.Fatal(err)
	}
	b.m.Now = x.UnixMilli()
}

func (b *bench) schedule(id, doc string) Schedule {
	b.t.Helper()
	p, err := ReadSchedule(parse(b.t, doc), true)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := b.m.AddSchedule(id, p)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// slot fires what is due and returns the entries and messages of that step.
func (b *bench) slot() (entries []Execution, messages []Append) {
	b.t.Helper()
	b.m.C = Commit{}
	b.m.Schedules.Slots = map[string]Slot{}
	for i := range b.m.Schedules.All {
		if s := &b.m.Schedules.All[i]; s.Due(b.m.Now) {
			b.m.Schedules.Slots[s.ID] = s.Slot(b.m.Now)
		}
	}
	b.m.lookSchedules()
	for _, r := range b.m.C.Records {
		if r.Kind == RecordExecution && r.Body != nil {
			var x Execution
			if err := json.Unmarshal(r.Body, &x); err != nil {
				b.t.Fatal(err)
			}
			entries = append(entries, x)
		}
	}
	return entries, b.m.C.Append
}

func stamp(t *testing.T, ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

const daily = `{"name":"digest","cron_expression":"0 9 * * *","timezone":"Europe/Berlin","message_template":"{{schedule.name}} of {{date}} at {{time}}"}`

func TestSCHED_6_AFiringIsOneStep(t *testing.T) {
	b := slots(t, "2026-03-09T07:59:59Z")
	s := b.schedule("s", daily)
	if stamp(t, s.NextMS) != "2026-03-09T08:00:00Z" || b.m.S.SlotMS != s.NextMS || b.m.Due() > s.NextMS {
		t.Fatalf("armed for %s, the agent looks at %s", stamp(t, s.NextMS), stamp(t, b.m.Due()))
	}
	if entries, messages := b.slot(); len(entries)+len(messages) > 0 {
		t.Errorf("early: %v %v", entries, messages)
	}
	b.at("2026-03-09T08:00:00Z")
	entries, messages := b.slot()
	if len(entries) != 1 || len(messages) != 1 || entries[0].Status != ExecSuccess || entries[0].Message != messages[0].ID || stamp(t, entries[0].SlotMS) != "2026-03-09T08:00:00Z" {
		t.Fatalf("%+v %+v", entries, messages)
	}
	m := messages[0]
	if !m.Queue || m.Body.Content != "digest of 2026-03-09 at 09:00:00" || m.Body.Source != "schedule" || m.Body.SourceUUID != "s" || m.Body.Counterparty != string(b.m.Spec.Account) || m.Body.QueueMode != "collect" {
		t.Errorf("SCHED-10: %+v", m)
	}
	got := b.m.Schedules.All[0]
	if got.LastMS != b.m.Now || got.Count != 1 || stamp(t, got.NextMS) != "2026-03-10T08:00:00Z" || b.m.S.SlotMS != got.NextMS { // SCHED-12
		t.Errorf("%+v", got)
	}
	if entries, messages := b.slot(); len(entries)+len(messages) > 0 {
		t.Errorf("twice: %v %v", entries, messages)
	}
}

func TestSCHED_7_OneThatStillWaitsIsNotJoinedByAnother(t *testing.T) {
	b := slots(t, "2026-03-09T07:00:00Z")
	b.schedule("s", daily)
	b.at("2026-03-09T08:00:00.2Z")
	_, first := b.slot()
	b.m.Schedules.Waiting[first[0].ID] = true
	b.at("2026-03-10T08:00:00Z")
	if entries, messages := b.slot(); len(messages) != 0 || len(entries) != 1 || entries[0].Status != ExecSkipped || entries[0].Message != "" {
		t.Errorf("%+v %+v", entries, messages)
	}
	if s := b.m.Schedules.All[0]; s.Count != 1 || stamp(t, s.NextMS) != "2026-03-11T08:00:00Z" {
		t.Errorf("%+v", s)
	}
	b.m.Schedules.Waiting = map[MessageID]bool{} // it is being processed, or done
	b.at("2026-03-11T08:00:00Z")
	if _, messages := b.slot(); len(messages) != 1 {
		t.Errorf("%+v", messages)
	}
}

func TestSCHED_8_TheControlPlaneWasDown(t *testing.T) {
	for _, tt := range []struct {
		name, cron, back string
		missed           int
		fires            string // the slot
	}{
		{"a moment", "*/10 * * * *", "2026-03-09T10:10:03Z", 0, "2026-03-09T10:10:00Z"},
		{"over one slot", "*/10 * * * *", "2026-03-09T10:23:00Z", 1, "2026-03-09T10:20:00Z"},
		{"over many", "*/10 * * * *", "2026-03-10T10:23:00Z", 145, "2026-03-10T10:20:00Z"},
		{"the newest is just young enough", "0 * * * *", "2026-03-09T13:59:59Z", 2, "2026-03-09T13:00:00Z"},
		{"the newest is an hour old", "0 9 * * *", "2026-03-10T10:00:00Z", 1, ""},
		{"over days", "0 9 * * *", "2026-03-12T11:00:00Z", 3, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := slots(t, "2026-03-09T10:05:00Z")
			s := b.schedule("s", `{"name":"n","cron_expression":"`+tt.cron+`","message_template":"x"}`)
			b.at(tt.back)
			entries, messages := b.slot()
			var missed int
			var fired string
			for _, x := range entries {
				switch x.Status {
				case ExecMissed:
					missed = x.Missed
					if x.SlotMS != s.NextMS || x.Message != "" {
						t.Errorf("%+v", x)
					}
				case ExecSuccess:
					fired = stamp(t, x.SlotMS)
				}
			}
			if missed != tt.missed || fired != tt.fires || (len(messages) == 1) != (tt.fires != "") || b.m.Schedules.All[0].NextMS <= b.m.Now {
				t.Errorf("missed %d, fired %q, next %s", missed, fired, stamp(t, b.m.Schedules.All[0].NextMS))
			}
		})
	}
}

func TestSCHED_9_AgentsThatTakeNothing(t *testing.T) {
	for _, tt := range []struct {
		status  Status
		pending int64
		result  string
		says    string
	}{{Active, 0, ExecSuccess, ""}, {Paused, 0, ExecSuccess, ""}, {Stopped, 0, ExecFailed, "Agent is stopped"}, {Errored, 0, ExecFailed, "Agent is in error state"},
		{Active, int64(settings.WithDefaults().MaxPending), ExecFailed, "queue is full"}} {
		b := slots(t, "2026-03-09T07:00:00Z")
		b.m.Set = settings.WithDefaults()
		b.schedule("s", daily)
		b.m.S.Status, b.m.F.Pending = tt.status, tt.pending
		b.at("2026-03-09T08:00:00Z")
		entries, messages := b.slot()
		if len(entries) != 1 || entries[0].Status != tt.result || !strings.Contains(entries[0].Error, tt.says) || (len(messages) == 1) != (tt.result == ExecSuccess) {
			t.Errorf("%s: %+v, %d messages", tt.status, entries, len(messages))
		}
		if s := b.m.Schedules.All[0]; (s.Count == 1) != (tt.result == ExecSuccess) || s.NextMS == 0 {
			t.Errorf("%s: %+v", tt.status, s)
		}
	}
}

func TestSCHED_11_ChangesCountFromNow(t *testing.T) {
	b := slots(t, "2026-03-09T07:00:00Z")
	b.schedule("s", daily)
	for _, want := range []bool{false, true} {
		b.at("2026-03-09T12:00:00Z") // a slot has passed
		s, err := b.m.ToggleSchedule("s")
		if err != nil || s.Enabled != want || (s.NextMS == 0) == want || want && stamp(t, s.NextMS) != "2026-03-10T08:00:00Z" || b.m.S.SlotMS != s.NextMS {
			t.Errorf("%+v, %v", s, err)
		}
		if entries, _ := b.slot(); len(entries) > 0 {
			t.Errorf("made up for: %+v", entries)
		}
	}
	p, err := ReadSchedule(parse(t, `{"timezone":"Asia/Tokyo"}`), false)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := b.m.ChangeSchedule("s", p); err != nil || stamp(t, s.NextMS) != "2026-03-10T00:00:00Z" {
		t.Errorf("%+v, %v", s, err)
	}
	if p, err = ReadSchedule(parse(t, `{"name":"other"}`), false); err != nil {
		t.Fatal(err)
	}
	was := b.m.Schedules.All[0].NextMS
	if s, err := b.m.ChangeSchedule("s", p); err != nil || s.NextMS != was || s.Name != "other" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSCHED_1_FiftyAreEnough(t *testing.T) {
	b := slots(t, "2026-03-09T07:00:00Z")
	for i := range MaxSchedules {
		b.schedule(fmt.Sprint(i), daily)
	}
	p, _ := ReadSchedule(parse(t, daily), true)
	if _, err := b.m.AddSchedule("x", p); fault.Of(err) == nil || fault.Of(err).Code != "limit_reached" {
		t.Errorf("%v", err)
	}
	if err := b.m.DropSchedule("7", []Execution{{ID: "e"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.AddSchedule("x", p); err != nil {
		t.Error(err)
	}
	if _, err := b.m.ToggleSchedule("7"); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}

func TestSCHED_2_WhatABodySays(t *testing.T) {
	for doc, code := range map[string]string{
		`{"name":"n","cron_expression":"* * * * * *","message_template":"x"}`:                               "invalid_cron",
		`{"name":"n","cron_expression":"@reboot","message_template":"x"}`:                                   "invalid_cron",
		`{"name":"n","cron_expression":"* * * * *","message_template":"x","timezone":"Local"}`:              "invalid_timezone",
		`{"name":"n","cron_expression":"* * * * *","message_template":"{{payload}}"}`:                       "invalid_template",
		`{"name":"n","cron_expression":"* * * * *"}`:                                                        "validation_failed",
		`{"name":" ","cron_expression":"* * * * *","message_template":"x"}`:                                 "validation_failed",
		`{"name":"n","cron_expression":"* * * * *","message_template":"` + strings.Repeat("x", 5001) + `"}`: "validation_failed",
	} {
		if _, err := ReadSchedule(parse(t, doc), true); fault.Of(err) == nil || fault.Of(err).Code != code {
			t.Errorf("%s: %v, want %s", doc, err, code)
		}
	}
	b := slots(t, "2026-03-09T07:00:00Z")
	p, err := ReadSchedule(parse(t, `{"name":"n","cron_expression":"0 0 31 2 *","message_template":"x","enabled":false}`), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.AddSchedule("s", p); fault.Of(err) == nil || fault.Of(err).Code != "invalid_cron" {
		t.Errorf("an expression without a slot: %v", err)
	}
}

func TestTheHistoryOfAScheduleIsBounded(t *testing.T) {
	b := slots(t, "2026-03-09T10:05:00Z")
	b.schedule("s", `{"name":"n","cron_expression":"*/10 * * * *","message_template":"x"}`)
	b.m.Schedules.All[0].Kept = KeptExecutions
	b.m.Schedules.Oldest["s"] = []Execution{{ID: "old-1"}, {ID: "old-2"}}
	b.at("2026-03-09T10:25:00Z") // one missed, one fired
	b.slot()
	var dropped []string
	for _, r := range b.m.C.Records {
		if r.Kind == RecordExecution && r.Body == nil {
			dropped = append(dropped, r.ID)
		}
	}
	if fmt.Sprint(dropped) != "[old-1 old-2]" || b.m.Schedules.All[0].Kept != KeptExecutions {
		t.Errorf("dropped %v, kept %d", dropped, b.m.Schedules.All[0].Kept)
	}
}

func TestSCHED_4_StampsHaveTheOffsetOfTheZone(t *testing.T) {
	b := slots(t, "2026-03-09T07:00:00Z")
	s := b.schedule("s", daily)
	if got := StampIn(s.NextMS, s.Zone); got == nil || *got != "2026-03-09T09:00:00.000+01:00" {
		t.Errorf("%v", got)
	}
	if got := StampIn(s.NextMS, "UTC"); *got != "2026-03-09T08:00:00.000Z" {
		t.Errorf("%v", *got)
	}
	if StampIn(0, s.Zone) != nil {
		t.Error("no instant has a stamp")
	}
}

// TestSCHED_6_OnlyWhatWasWorkedOutOfTheScheduleAsItIs: a slot of a schedule that has changed since is worked out again, and a schedule whose
// actor has not answered does not keep the others.
func TestSCHED_6_OnlyWhatWasWorkedOutOfTheScheduleAsItIs(t *testing.T) {
	b := slots(t, "2026-03-09T07:00:00Z")
	for _, id := range []string{"changed", "silent", "well"} {
		b.schedule(id, daily)
	}
	b.at("2026-03-09T08:00:00Z")
	b.m.Schedules.Slots = map[string]Slot{"changed": b.m.Schedules.All[0].Slot(b.m.Now), "well": b.m.Schedules.All[2].Slot(b.m.Now)}
	b.m.Schedules.All[0].Template = "another"
	slot := b.m.S.SlotMS
	b.m.C = Commit{}
	if !b.m.lookSchedules() || len(b.m.C.Append) != 1 || b.m.C.Append[0].Body.SourceUUID != "well" {
		t.Errorf("%+v", b.m.C.Append)
	}
	if b.m.S.SlotMS != slot || !b.m.SlotDue() || b.m.Due() <= b.m.Now {
		t.Errorf("what is left is due at %s; it looks at %s", stamp(t, b.m.S.SlotMS), stamp(t, b.m.Due()))
	}
	b.m.C = Commit{}
	if b.m.lookSchedules() || len(b.m.C.Records) > 0 {
		t.Errorf("nothing new was worked out: %+v", b.m.C)
	}
	if _, messages := b.slot(); len(messages) != 2 || b.m.SlotDue() {
		t.Errorf("%+v", messages)
	}
	for at, again := range map[string]string{"2026-03-10T08:59:59Z": "", "2026-03-10T09:00:00Z": ExecMissed} { // the store was away between
		b := slots(t, "2026-03-10T07:00:00Z")
		b.schedule("s", daily)
		b.at("2026-03-10T08:00:00Z")
		b.m.Schedules.Slots = map[string]Slot{"s": b.m.Schedules.All[0].Slot(b.m.Now)}
		b.at(at)
		b.m.C = Commit{}
		if took := b.m.lookSchedules(); took != (again == "") {
			t.Errorf("at %s a slot of 08:00 was taken: %v", at, took)
		}
		if entries, messages := b.slot(); again != "" && (len(entries) != 1 || entries[0].Status != again || len(messages) > 0) {
			t.Errorf("at %s: %+v", at, entries)
		}
	}
	b.m.S.SlotMS = b.m.Now // of a schedule that is not there
	b.slot()
	if stamp(t, b.m.S.SlotMS) != "2026-03-10T08:00:00Z" {
		t.Errorf("the next slot is %s", stamp(t, b.m.S.SlotMS))
	}
}
