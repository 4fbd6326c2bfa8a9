package agent

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"troupe/actors/fault"
	"troupe/actors/field"
)

func TestTRIG_5_TemplatesReachIntoThePayload(t *testing.T) {
	payload := parse(t, `{"a":{"b":"x","n":1.50,"big":12345678901234567890,"t":true,"z":null,"l":[{"id":7},[2,3]],"o":{"k":"v <&>"}},"items":[{"id":"one"}],"a-b":"dash","{{a}}":1}`)
	tr := InboundTrigger{Name: "deploys"}
	at := time.Date(2026, 2, 26, 14, 30, 5, 0, time.FixedZone("x", 3600))
	for in, want := range map[string]string{
		"{{payload.a.b}}": "x", "{{payload.a.n}}": "1.50", "{{payload.a.big}}": "12345678901234567890", "{{payload.a.t}}": "true", "[{{payload.a.z}}]": "[]",
		"[{{payload.a.nothing.more}}]": "[]", "{{payload.a.l[0].id}}": "7", "{{payload.a.l[1][1]}}": "3", "[{{payload.a.l[9]}}]": "[]", "[{{payload.a.b[0]}}]": "[]",
		"{{payload.a.l}}": `[{"id":7},[2,3]]`, "{{payload.a.o}}": `{"k":"v <&>"}`, "{{payload.items[0].id}}": "one", "{{payload.a-b}}": "dash",
		"{{trigger.name}} {{date}} {{ time }}": "deploys 2026-02-26 13:30:05", "[{{payload.items[0].id.x}}]": "[]",
	} {
		tr.Template = in
		if err := checkTriggerTemplate(in); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if got, err := tr.Render(payload, at); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
	tr.Template = "{{payload[0].x}}"
	if got, _ := tr.Render(parse(t, `[{"x":"root {{payload}}"}]`), at); got != "root {{payload}}" {
		t.Errorf("HOOK-3: %q", got)
	}
	for _, bad := range []string{"{{payloads}}", "{{payload..a}}", "{{payload.a[x]}}", "{{payload.}}", "{{name}}", "{{payload[-1]}}", "{{payload.a.}}"} {
		if f := fault.Of(checkTriggerTemplate(bad)); f == nil || f.Code != "invalid_template" {
			t.Errorf("%s: %+v", bad, f)
		}
	}
}

func TestTRIG_6_LongTextIsCutAndBlankTextRefused(t *testing.T) {
	tr := InboundTrigger{Template: "{{payload.text}}"}
	got, err := tr.Render(parse(t, `{"text":"`+strings.Repeat("é", MaxContent+5)+`"}`), time.Now())
	if err != nil || utf8.RuneCountInString(got) != MaxContent || !strings.HasSuffix(got, "é…[truncated]") {
		t.Errorf("%d code points, ends %q, %v", utf8.RuneCountInString(got), got[max(0, len(got)-20):], err)
	}
	got, _ = tr.Render(parse(t, `{"text":"`+strings.Repeat("é", MaxContent)+`"}`), time.Now())
	if strings.Contains(got, "truncated") {
		t.Error("a text of exactly the limit was cut")
	}
	if _, err := tr.Render(parse(t, `{"text":" \n\t "}`), time.Now()); !fault.Is(err, fault.Invalid) {
		t.Errorf("blank: %v", err)
	}
}

func TestTRIG_1_AtMostTwentyFive(t *testing.T) {
	m := &Machine{Now: 5}
	if _, err := m.AddTrigger(InboundTrigger{ID: "t"}, MaxTriggers-1); err != nil || len(m.C.Records) != 1 {
		t.Errorf("%v, %+v", err, m.C.Records)
	}
	if f := fault.Of(func() error { _, err := m.AddTrigger(InboundTrigger{ID: "u"}, MaxTriggers); return err }()); f == nil || f.Code != "limit_reached" {
		t.Errorf("%+v", f)
	}
}

func FuzzTriggerTemplate(f *testing.F) {
	f.Add("{{payload.a[0]}} {{date}}", `{"a":[1]}`)
	f.Add("{{payload[0].b}}", `[{"b":{"c":null}}]`)
	f.Fuzz(func(t *testing.T, template, doc string) {
		v, err := field.Parse([]byte(doc))
		if err != nil || checkTriggerTemplate(template) != nil {
			return
		}
		tr := InboundTrigger{Template: template}
		if got, err := tr.Render(&v, time.Unix(0, 0)); err == nil && utf8.RuneCountInString(got) > MaxContent {
			t.Errorf("%d code points", utf8.RuneCountInString(got))
		}
	})
}
