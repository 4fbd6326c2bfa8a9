package agent

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"troupe/actors/fault"
	"troupe/actors/field"
)

// Limits of triggers (TRIG-1, RATE-3, "30 Limits").
const (
	MaxTriggers        = 25
	MaxTriggerName     = 255
	MaxTriggerTemplate = 5000
	MaxTriggerBody     = 1 << 20
	TriggerRate        = 100 // accepted proofs per minute
	TriggerFailures    = 300 // calls without a valid proof per minute
)

// InboundTrigger is an address at which the outside can wake an agent (§22). Secret is sealed.
type InboundTrigger struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Template  string `json:"template"`
	Enabled   bool   `json:"enabled"`
	Secret    string `json:"secret"`
	Account   string `json:"account,omitempty"` // of the agent, and its owner's name: what a message needs, so that a call reads no more
	Owner     string `json:"owner,omitempty"`
	CreatedMS int64  `json:"created_ms"`
	UpdatedMS int64  `json:"updated_ms"`
}

// SlotTrigger is the slot of a trigger's secret.
func SlotTrigger(id string) string { return "trigger/" + id }

// TriggerPatch is what create and update give; nil: not given.
type TriggerPatch struct {
	Name     *string `json:"name,omitempty"`
	Template *string `json:"template,omitempty"`
	Enabled  *bool   `json:"enabled,omitempty"`
}

// ReadTrigger reads the body of create (all of it) or update (what changes).
func ReadTrigger(doc *field.Value, create bool) (TriggerPatch, error) {
	errs := &field.Errors{}
	r := field.Read(doc, "", errs)
	var p TriggerPatch
	if create {
		r.Require("name", "message_template")
	}
	if s, ok := r.String("name", field.Text{Min: 1, Max: MaxTriggerName}); ok {
		if s = strings.TrimFunc(s, unicode.IsSpace); s == "" {
			r.Fail("name", "must contain a character that is not blank")
		}
		p.Name = &s
	}
	if s, ok := r.String("message_template", field.Text{Min: 1, Max: MaxTriggerTemplate}); ok {
		p.Template = &s
	}
	if b, ok := r.Bool("enabled"); ok {
		p.Enabled = &b
	}
	if err := errs.Err(); err != nil || p.Template == nil {
		return p, err
	}
	return p, checkTriggerTemplate(*p.Template)
}

// Apply changes a trigger and says whether anything did.
func (p TriggerPatch) Apply(t *InboundTrigger) (changed bool) {
	before := *t
	if p.Name != nil {
		t.Name = *p.Name
	}
	if p.Template != nil {
		t.Template = *p.Template
	}
	if p.Enabled != nil {
		t.Enabled = *p.Enabled
	}
	return *t != before
}

// payloadPath is a way into a payload: payload, then members and indexes.
var payloadPath = regexp.MustCompile(`^payload(\.[A-Za-z0-9_-]+|\[\d{1,9}\])*$`)

func checkTriggerTemplate(text string) error {
	for _, name := range Placeholders(text) {
		if !payloadPath.MatchString(name) && !slices.Contains([]string{"trigger.name", "date", "time"}, name) {
			return fault.Newf(fault.Invalid, "invalid_template", "{{%s}} is not offered here; known: payload and paths into it such as payload.a.b or payload.items[0].id, trigger.name, date, time", name)
		}
	}
	return nil
}

// truncated ends a text that was cut (TRIG-6).
const truncated = "…[truncated]"

// Timed says whether the text depends on the time of the call.
func (t *InboundTrigger) Timed() bool {
	return slices.ContainsFunc(Placeholders(t.Template), func(name string) bool { return name == "date" || name == "time" })
}

// Render makes the message of one call (TRIG-5, TRIG-6). Errors: fault.Invalid when nothing but blanks comes out.
func (t *InboundTrigger) Render(payload *field.Value, now time.Time) (string, error) {
	now = now.UTC()
	text := Render(t.Template, func(name string) (string, bool) {
		switch name {
		case "trigger.name":
			return t.Name, true
		case "date":
			return now.Format(time.DateOnly), true
		case "time":
			return now.Format(time.TimeOnly), true
		}
		return pick(payload, name), true
	})
	text = strings.ReplaceAll(text, "\x00", "")
	if strings.TrimFunc(text, unicode.IsSpace) == "" {
		return "", fault.New(fault.Invalid, "validation_failed", "The rendered message is blank").At("message_template", "renders to nothing but blanks with this payload")
	}
	if utf8.RuneCountInString(text) > MaxContent {
		keep := MaxContent - utf8.RuneCountInString(truncated)
		end := 0
		for range keep {
			_, n := utf8.DecodeRuneInString(text[end:])
			end += n
		}
		text = text[:end] + truncated
	}
	return text, nil
}

// pick follows a path into a payload. A missing path and null are empty, strings raw, numbers as written, the rest compact JSON.
func pick(v *field.Value, path string) string {
	rest := strings.TrimPrefix(path, "payload")
	for rest != "" && v != nil {
		switch rest[0] {
		case '.':
			end := strings.IndexAny(rest[1:], ".[")
			if end < 0 {
				end = len(rest) - 1
			}
			next, _ := v.Get(rest[1 : end+1]) // nil for no such member, or no object
			v, rest = next, rest[end+1:]
		default: // [n]
			end := strings.IndexByte(rest, ']')
			i, err := strconv.Atoi(rest[1:end])
			if err != nil || v.Kind != field.Array || i >= len(v.Items) {
				return ""
			}
			v, rest = &v.Items[i], rest[end+1:]
		}
	}
	switch {
	case v == nil || v.Kind == field.Null:
		return ""
	case v.Kind == field.String || v.Kind == field.Number:
		return v.Text
	}
	return string(v.JSON())
}

// AddTrigger stores a new trigger; count is how many there are.
func (m *Machine) AddTrigger(t InboundTrigger, count int) (InboundTrigger, error) {
	if m.S.Deleting {
		return t, Gone()
	}
	if count >= MaxTriggers {
		return t, fault.Newf(fault.Invalid, "limit_reached", "An agent can have %d triggers", MaxTriggers)
	}
	t.CreatedMS, t.UpdatedMS = m.Now, m.Now
	m.putTrigger(&t)
	return t, nil
}

// ChangeTrigger applies a patch.
func (m *Machine) ChangeTrigger(t InboundTrigger, p TriggerPatch) (InboundTrigger, error) {
	if m.S.Deleting {
		return t, Gone()
	}
	if p.Apply(&t) {
		t.UpdatedMS = max(m.Now, t.UpdatedMS)
		m.putTrigger(&t)
	}
	return t, nil
}

func (m *Machine) putTrigger(t *InboundTrigger) {
	m.record(Record{Kind: RecordTrigger, ID: t.ID, Score: t.CreatedMS, Body: Encode(t)})
}

// DropTrigger deletes a trigger.
func (m *Machine) DropTrigger(id string) error {
	if m.S.Deleting {
		return Gone()
	}
	m.record(Record{Kind: RecordTrigger, ID: id})
	return nil
}
