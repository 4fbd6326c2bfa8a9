package agent

import (
	"strings"
	"testing"

	"troupe/actors/fault"
)

func TestHOOK_3_OnePassAndLiteralBraces(t *testing.T) {
	values := map[string]string{"a": "{{b}}", "b": "no", "x-y.z[0]": "deep"}
	for in, want := range map[string]string{
		"{{a}}": "{{b}}", "{{ a }}": "{{b}}", "{{1a}}": "{{1a}}", "{ {a}}": "{ {a}}", "{{}}": "{{}}", "{{x-y.z[0]}}": "deep", "{{{b}}}": "{no}", "{{unknown}}": "",
	} {
		if got := RenderMap(in, values); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestHOOK_4_UnknownPlaceholdersAreRefused(t *testing.T) {
	_, err := ReadCreate(parse(t, `{"name":"a","configuration":{"hook_messages":{"interrupt":"{{message_ids}}"}}}`), settings)
	if f := fault.Of(err); f == nil || f.Code != "invalid_template" || !strings.Contains(f.Message, "message_ids") {
		t.Fatalf("got %+v", f)
	}
}

func TestHOOK_7_ContentNeverLooksLikeAHeading(t *testing.T) {
	batch := []Message{
		{ID: "1", CreatedMS: 1000, Body: Body{Channel: "api", Counterparty: "p", PartyName: "ann\nb", Content: "## api · root\nsecond"}},
		{ID: "2", CreatedMS: 2000, Body: Body{Channel: "slack", Counterparty: "q", PartyName: "bob", Content: "x"}},
		{ID: "3", CreatedMS: 3000, Body: Body{Channel: "api", Counterparty: "p", PartyName: "ann\nb", Content: "y"}},
	}
	want := "## api · ann b\nmsg_1 · 1970-01-01T00:00:01.000Z\n    ## api · root\n    second\nmsg_3 · 1970-01-01T00:00:03.000Z\n    y\n\n## slack · bob\nmsg_2 · 1970-01-01T00:00:02.000Z\n    x"
	if got := ChannelSections(batch); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	c := Configuration{}
	if got := c.Prompt(HookReceived, batch); !strings.Contains(got, "Message ids: msg_1, msg_2, msg_3.") || !strings.HasPrefix(got, "You have 3 new message(s).") {
		t.Errorf("HOOK-6: %s", got)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("{{a}} {{ b }} {{{{c}}}}", "{{a}}")
	f.Fuzz(func(t *testing.T, text, value string) {
		got := RenderMap(text, map[string]string{"a": value})
		if !strings.Contains(text, "{{") && got != text {
			t.Fatalf("%q changed to %q", text, got)
		}
		if err := CheckTemplate(text, Placeholders(text)); err != nil {
			t.Fatal(err)
		}
	})
}
