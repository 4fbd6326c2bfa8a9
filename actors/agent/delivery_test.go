package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// owing is a machine whose agent has every webhook, at ms 1000.
func owing() *Machine {
	n := 0
	m := &Machine{Now: 1000, NewID: func() string { n++; return fmt.Sprintf("id-%d", n) }}
	m.Spec.ID = "a"
	m.Spec.Config.Webhooks = map[string]string{}
	for _, e := range WebhookEvents {
		m.Spec.Config.Webhooks[e] = "https://r.test/" + e
	}
	m.S.Status = Active
	return m
}

// sent are the bodies of the events of a step.
func sent(m *Machine) (out []string) {
	for _, r := range m.C.Records {
		if r.Kind == RecordPayload {
			out = append(out, string(r.Body))
		}
	}
	return out
}

func TestOUT_3_TheBody(t *testing.T) {
	m := owing()
	m.S.Turn = &Turn{ID: "t1", Session: "s1", Error: "It broke", Batch: []Entry{
		{ID: "m1", Channel: ChannelAPI, Reply: "r1", Metadata: true}, {ID: "m2", Channel: ChannelAPI}}}
	m.C.Append = []Append{{ID: "r1", Body: Body{Content: "<b>\n"}}}
	m.Loaded = map[MessageID]Message{"m1": {Body: Body{Metadata: json.RawMessage(`{"k":"<"}`)}}}
	m.notifyEntry(&m.S.Turn.Batch[0], Completed, "")
	m.notifyEntry(&m.S.Turn.Batch[1], Failed, "timeout")
	m.notifyError("agent_error", "why")
	want := []string{
		`{"event":"message_complete","delivery_id":"whd_id-1","agent_id":"a","message_id":"msg_m1","reply_id":"msg_r1","content":"<b>\n","error":null,"reason":null,"metadata":{"k":"<"},"session_id":"s1","turn_id":"t1","occurred_at":"1970-01-01T00:00:01.000Z"}`,
		`{"event":"message_failed","delivery_id":"whd_id-2","agent_id":"a","message_id":"msg_m2","reply_id":null,"content":null,"error":"It broke","reason":"timeout","metadata":{},"session_id":"s1","turn_id":"t1","occurred_at":"1970-01-01T00:00:01.000Z"}`,
		`{"event":"agent_error","delivery_id":"whd_id-3","agent_id":"a","message_id":null,"reply_id":null,"content":null,"error":"why","reason":"agent_error","metadata":{},"session_id":null,"turn_id":null,"occurred_at":"1970-01-01T00:00:01.000Z"}`,
	}
	if got := sent(m); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if m.S.Owed != 3 || m.S.NotifyMS != 1000 || len(m.Missing) != 0 || len(m.Fresh) != 3 {
		t.Errorf("%d owed, next at %d, missing %v", m.S.Owed, m.S.NotifyMS, m.Missing)
	}
}

func TestOUT_1_WhatIsToldOfTheAgent(t *testing.T) {
	m := owing()
	m.Fail("The disk is gone")
	if got := sent(m); len(got) != 1 || !strings.Contains(got[0], `"event":"agent_error"`) || !strings.Contains(got[0], "The disk is gone") {
		t.Errorf("LIFE-9: %v", got)
	}
	m = owing()
	m.S.Session = &Session{ID: "s1"}
	m.S.Compaction = &Compacting{ID: "c1", Session: "s1", Attempt: compactAttempts}
	m.failCompaction("no")
	if got := sent(m); len(got) != 1 || !strings.Contains(got[0], `"reason":"compaction_failed"`) {
		t.Errorf("COMP-5: %v", got)
	}
	m = owing()
	if err := m.Delete(true); err != nil {
		t.Fatal(err)
	}
	m.notifyError("agent_error", "x")
	if got := sent(m); len(got) != 0 {
		t.Errorf("OUT-10: a deleted agent says %v", got)
	}
	m = owing()
	m.S.Turn = &Turn{Batch: []Entry{{ID: "m1", Reply: "r9"}}}
	m.notifyEntry(&m.S.Turn.Batch[0], Completed, "")
	if !slices.Equal(m.Missing, []MessageID{"r9"}) {
		t.Errorf("a reply of an earlier step must be loaded: %v", m.Missing)
	}
}

func TestOUT_8_WhenADeliveryIsTriedAgain(t *testing.T) {
	m := owing()
	m.notifyError("agent_error", "x")
	d := m.Fresh[0].Delivery
	var at []time.Duration
	began := m.Now
	for d.Status == DeliveryPending {
		m.C = Commit{}
		result := m.Attempted(d, Attempt{Code: 500, Error: "Receiver answered 500"}, 0, 0)
		for _, r := range m.C.Records {
			if r.Kind == RecordDelivery {
				d = mustDecode[Delivery](r.Body)
			}
			if r.Kind == RecordOwed && (r.Body == nil) != (d.Status == DeliveryDead) {
				t.Fatalf("the outbox says %s of %+v", r.Body, d)
			}
		}
		if d.Status == DeliveryDead {
			if result != "dead" || m.S.Owed != 0 || m.S.NotifyMS != 0 || d.NextMS != 0 {
				t.Errorf("%s, %d owed, %+v", result, m.S.Owed, d)
			}
			break
		}
		if m.S.NotifyMS != d.NextMS {
			t.Errorf("next at %d, the agent looks at %d", d.NextMS, m.S.NotifyMS)
		}
		at = append(at, time.Duration(d.NextMS-m.Now)*time.Millisecond)
		m.Now = d.NextMS
	}
	if d.Attempts < 12 || d.Attempts > 16 || m.Now-began > DeliveryBudget.Milliseconds() {
		t.Errorf("%d attempts in %d ms", d.Attempts, m.Now-began)
	}
	for i, want := range []time.Duration{5, 15, 45, 135, 405, 1215, 3645, 10935, 14400, 14400} {
		if want *= time.Second; at[i] < want*4/5 || at[i] > want*6/5 {
			t.Errorf("pause %d is %v, the table says %v", i, at[i], want)
		}
	}
	for _, tt := range []struct {
		name    string
		attempt Attempt
		result  string
		least   time.Duration
	}{
		{"a receiver that is gone", Attempt{Code: 410}, "dead", 0},
		{"one that says when", Attempt{Code: 503, After: 20 * time.Minute}, "retried", 20 * time.Minute},
		{"one that says much later", Attempt{Code: 429, After: 30 * time.Hour}, "retried", MaxRetryAfter},
		{"taken", Attempt{Code: 202}, "delivered", 0},
		{"a redirect", Attempt{Code: 302}, "retried", 4 * time.Second},
		{"no answer", Attempt{Error: strings.Repeat("ü", 600)}, "retried", 4 * time.Second},
	} {
		m := owing()
		m.notifyError("agent_error", "x")
		d := m.Fresh[0].Delivery
		m.C = Commit{}
		got := m.Attempted(d, tt.attempt, 0, 0)
		d = mustDecode[Delivery](m.C.Records[0].Body)
		if got != tt.result || d.NextMS != 0 && d.NextMS-m.Now < tt.least.Milliseconds() || len([]rune(d.Error)) > MaxDeliveryNote || d.NextMS > m.Now+MaxRetryAfter.Milliseconds() {
			t.Errorf("%s: %s, next in %d ms", tt.name, got, d.NextMS-m.Now)
		}
	}
}

func TestOUT_8_TheEarliestOfManyIsLookedAtNext(t *testing.T) {
	m := owing()
	m.S.Owed = 3
	m.Attempted(Delivery{ID: "x", Event: EventError, Status: DeliveryPending}, Attempt{Code: 500}, 2000, 0)
	if m.S.NotifyMS != 2000 {
		t.Errorf("looked at %d", m.S.NotifyMS)
	}
	m.Attempted(Delivery{ID: "x", Event: EventError, Status: DeliveryPending}, Attempt{Code: 200}, 600_000, 1)
	if want := m.Now + deliveryLook.Milliseconds(); m.S.NotifyMS != want || m.S.Owed != 2 {
		t.Errorf("one is under way: looked at %d, not %d", m.S.NotifyMS, want)
	}
	m.S.NotifyMS = m.Now
	if due := m.Due(); due != m.Now+deliveryLook.Milliseconds() {
		t.Errorf("due at %d", due)
	}
}

func TestOUT_8_TheLogIsKeptForThirtyDays(t *testing.T) {
	m := owing()
	m.Now = 40 * 24 * 3_600_000
	old, young := int64(9*24*3_600_000), int64(11*24*3_600_000)
	m.Prune([]Delivery{{ID: "1", CreatedMS: old, Status: DeliveryDone}, {ID: "2", CreatedMS: old, Status: DeliveryPending}, {ID: "3", CreatedMS: young, Status: DeliveryDead}})
	var gone []string
	for _, r := range m.C.Records {
		if r.Body == nil {
			gone = append(gone, r.Kind+"/"+r.ID)
		}
	}
	if !slices.Equal(gone, []string{"delivery/1", "payload/1"}) {
		t.Errorf("dropped %v", gone)
	}
}

func TestOUT_6_TheURLIsShownWithoutSecrets(t *testing.T) {
	for raw, want := range map[string]string{
		"https://r.test/x":                        "https://r.test/x",
		"https://u:p@r.test/x?a=1&b=&c#f":         "https://r.test/x?a=***&b=***&c",
		"https://r.test:8443/%2F?token=a%26b&q=2": "https://r.test:8443/%2F?token=***&q=***",
	} {
		if got := ShownURL(raw); got != want {
			t.Errorf("%s is shown as %s, not %s", raw, got, want)
		}
	}
}
