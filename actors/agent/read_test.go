package agent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"troupe/actors/fault"
	"troupe/actors/field"
)

var settings = Settings{}.WithDefaults()

func plainSeal(_ ID, slot string, v Secret) (string, error) { return slot + "=" + v.Reveal(), nil }

func parse(t *testing.T, doc string) *field.Value {
	t.Helper()
	v, err := field.Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return &v
}

func created(t *testing.T, doc string) Spec {
	t.Helper()
	p, err := ReadCreate(parse(t, doc), settings)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := p.Apply(NewSpec("id", settings), plainSeal, settings)
	if err != nil {
		t.Fatal(err)
	}
	s.CreatedMS = 1
	return s
}

func updated(t *testing.T, s Spec, doc string) (Spec, []string, error) {
	t.Helper()
	p, err := ReadUpdate(parse(t, doc), settings)
	if err != nil {
		return s, nil, err
	}
	return p.Apply(s, plainSeal, settings)
}

func TestCFG_1_DefaultsAtCreate(t *testing.T) {
	s := created(t, `{"name":"a"}`)
	c := s.Config
	if s.PVCSize != "1Gi" || s.SystemPromptType != "append" || s.SessionMode != Ephemeral || *s.WarmthMS != 900000 || c.TimeoutSeconds != 3600 ||
		c.ReminderMS != 120000 || c.Memory != (MemoryConfig{"hierarchical", 1024, "persistent"}) || c.Model != "" ||
		!c.Compaction.Enabled || c.Compaction.Threshold != 120000 || c.Compaction.Model != "claude-haiku-4-5-20251001" || c.Compaction.Instructions != nil {
		t.Fatalf("defaults %+v", s)
	}
}

func TestCFG_2_NamesAndEmptyTexts(t *testing.T) {
	s := created(t, `{"name":"\u2003 ann\t","description":"","system_prompt":null}`)
	if s.Name != "ann" || s.Description != nil || s.SystemPrompt != nil {
		t.Fatalf("got %q %v %v", s.Name, s.Description, s.SystemPrompt)
	}
	for doc, field := range map[string]string{
		`{"name":"  "}`: "name",
		`{"name":"` + strings.Repeat("ä", 101) + `"}`: "name",
		`{"name":"a\u0000b"}`:                         "name",
		`{"name":"a","description":"x\u0000"}`:        "description",
		`{}`:                                          "name",
	} {
		_, err := ReadCreate(parse(t, doc), settings)
		if f := fault.Of(err); f == nil || f.Code != "validation_failed" || f.Details[0].Field != field {
			t.Errorf("%s: got %+v", doc, f)
		}
	}
}

func TestCFG_3_AbsentIsNotNull(t *testing.T) {
	if s := created(t, `{"name":"a","warmth_window_ms":null}`); s.WarmthMS != nil {
		t.Fatalf("null means never: %d", *s.WarmthMS)
	}
	s := created(t, `{"name":"a","warmth_window_ms":300000}`)
	if next, changed, err := updated(t, s, `{}`); err != nil || *next.WarmthMS != 300000 || len(changed) != 0 {
		t.Fatalf("absent changes nothing: %v %v %v", next.WarmthMS, changed, err)
	}
	if next, changed, err := updated(t, s, `{"warmth_window_ms":null}`); err != nil || next.WarmthMS != nil || !reflect.DeepEqual(changed, []string{"warmth_window_ms"}) {
		t.Fatalf("null: %v %v %v", next.WarmthMS, changed, err)
	}
}

func TestCFG_4_Merge(t *testing.T) {
	s := created(t, `{"name":"a","configuration":{"model":"m","compaction":{"instructions":"keep"},"custom_env":{"A":"1","B":"2"},
		"hook_messages":{"interrupt":"x {{message_count}}"},"mcp_servers":{"one":{"url":"https://a.example/mcp","headers":{"H":"v"}},"two":{"command":"c"}},
		"webhooks":{"task_complete":"https://a.example/x","agent_error":"https://a.example/y"}}}`)
	next, changed, err := updated(t, s, `{"configuration":{"model":null,"compaction":{"threshold_trigger":60000},"custom_env":{"A":null,"C":"3"},
		"hook_messages":{"interrupt":""},"mcp_servers":{"one":{"command":"d"},"two":null},"webhooks":{"message_complete":null}}}`)
	if err != nil {
		t.Fatal(err)
	}
	c := next.Config
	if c.Model != "" || c.Compaction.Threshold != 60000 || *c.Compaction.Instructions != "keep" || !reflect.DeepEqual(next.EnvNames(), []string{"B", "C"}) ||
		c.Hooks != nil || len(c.MCP) != 1 || c.MCP["one"].Type != "stdio" || next.Has(SlotMCP("one")) || !reflect.DeepEqual(c.Webhooks, map[string]string{"agent_error": "https://a.example/y"}) {
		t.Fatalf("merged %+v %v", c, next.Sealed)
	}
	if !ReplacesPod(changed) {
		t.Errorf("CFG-7: custom_env changed, but the pod is not replaced: %v", changed)
	}
	if !s.Has(SlotMCP("one")) || len(s.Config.MCP) != 2 {
		t.Error("the merge changed the spec it started from")
	}
	many := `{"configuration":{"custom_env":{`
	for i := range 20 {
		many += `"V` + itoa(int64(i)) + `":"x",`
	}
	if _, _, err := updated(t, s, many[:len(many)-1]+`}}}`); fault.Of(err) == nil || fault.Of(err).Details[0].Field != "configuration.custom_env" {
		t.Errorf("22 variables after the merge: %v", err)
	}
}

func TestCFG_6_ReservedNames(t *testing.T) {
	for _, name := range append([]string{"TROUPE_X"}, reservedEnv...) {
		_, err := ReadCreate(parse(t, `{"name":"a","configuration":{"custom_env":{"`+name+`":"x"}}}`), settings)
		if f := fault.Of(err); f == nil || f.Code != "reserved_env_name" || f.Details[0].Field != "configuration.custom_env."+name {
			t.Errorf("%s: %+v", name, f)
		}
	}
	created(t, `{"name":"a","configuration":{"custom_env":{"home":"x","troupe_x":"y"}}}`) // case-sensitive
}

func TestCFG_8_VolumesOnlyGrow(t *testing.T) {
	s := created(t, `{"name":"a","pvc_size":"2Gi"}`)
	for doc, want := range map[string]string{`{"pvc_size":"3Gi"}`: "3Gi", `{"pvc_size":"2048Mi"}`: "2Gi", `{"pvc_size":"2147483648"}`: "2Gi"} {
		if next, _, err := updated(t, s, doc); err != nil || next.PVCSize != want {
			t.Errorf("%s: %s %v", doc, next.PVCSize, err)
		}
	}
	if _, _, err := updated(t, s, `{"pvc_size":"1Gi"}`); fault.Of(err) == nil || fault.Of(err).Code != "pvc_shrink" {
		t.Errorf("shrink: %v", err)
	}
	for _, bad := range []string{"0", "101Gi", "1gi", "-1", "1e99999999", ".", ""} {
		if _, err := ReadCreate(parse(t, `{"name":"a","pvc_size":"`+bad+`"}`), settings); fault.Of(err) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestQuantityBytes(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "1k": 1000, "1Ki": 1024, "1.5Gi": 1610612736, ".5": 1, "1e3": 1000, "1E": 1e18, "1E3": 1000, "12E-1": 2, "5M": 5e6} {
		if got, ok := QuantityBytes(s); !ok || got != want {
			t.Errorf("%s: %d %v, want %d", s, got, ok, want)
		}
	}
}

func TestCFG_10_PromptTypes(t *testing.T) {
	s := created(t, `{"name":"a","system_prompt":"p","system_prompt_type":"replace"}`)
	if s.SystemPromptType != "replace" || *s.SystemPrompt != "p" {
		t.Fatalf("%+v", s)
	}
	if _, err := ReadCreate(parse(t, `{"name":"a","system_prompt_type":"prepend"}`), settings); err == nil {
		t.Error("an unknown type was accepted")
	}
}

func TestERR_4_EveryFaultAtOnceInDocumentOrder(t *testing.T) {
	_, err := ReadCreate(parse(t, `{"configuration":{"compaction":{"threshold_trigger":1},"custom_env":{"1X":"v"}},"initial_files":[{"path":"a","content":"x"},{"path":"./a","content":"y"}],"name":7,"warmth_window_ms":5.0}`), settings)
	var got []string
	for _, d := range fault.Of(err).Details {
		got = append(got, d.Field)
	}
	want := []string{"configuration.compaction.threshold_trigger", "configuration.custom_env.1X", "initial_files[1].path", "name", "warmth_window_ms"}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if r := fault.Of(err).Details[0].Reason; !strings.Contains(r, "50000") || !strings.Contains(r, "180000") {
		t.Errorf("the bound is not named: %s", r)
	}
}

func TestERR_5_UnknownMembersAndTypes(t *testing.T) {
	for doc, field := range map[string]string{
		`{"name":"a","configuration":{"x":1}}`:                                                                  "configuration.x",
		`{"name":"a","configuration":{"compaction":{"x":1}}}`:                                                   "configuration.compaction.x",
		`{"name":"a","slack_bot_token":{"bot_token":"xoxb-1","signing_secret":"s","app_token":"xapp-1","x":1}}`: "slack_bot_token.x",
		`{"name":"a","initial_files":[{"path":"p","content":"","x":1}]}`:                                        "initial_files[0].x",
		`{"name":"a","output_token_balance":"5"}`:                                                               "output_token_balance",
		`{"name":"a","output_token_balance":5.0}`:                                                               "output_token_balance",
		`{"name":"a","output_token_balance":5e0}`:                                                               "output_token_balance",
		`{"name":"a","output_token_balance":9007199254740992}`:                                                  "output_token_balance",
	} {
		_, err := ReadCreate(parse(t, doc), settings)
		if f := fault.Of(err); f == nil || f.Details[0].Field != field {
			t.Errorf("%s: got %+v, want %s", doc, f, field)
		}
	}
	created(t, `{"name":"a","unknown":{"deep":1}}`) // ignored elsewhere
}

func TestFILE_5_Files(t *testing.T) {
	p, err := ReadCreate(parse(t, `{"name":"a","initial_files":[{"path":"/workspace/a/../b","content":"aGk=","encoding":"base64"}]}`), settings)
	if err != nil || len(p.InitialFiles) != 1 || p.InitialFiles[0].Path != "b" || string(p.InitialFiles[0].Content) != "hi" {
		t.Fatalf("%+v %v", p.InitialFiles, err)
	}
	for doc, code := range map[string]string{
		`[{"path":"a","content":"aGk","encoding":"base64"}]`: "validation_failed",
		`[{"path":"../a","content":""}]`:                     "path_outside_workspace",
		`[{"path":"workspace","content":""}]`:                "validation_failed",
	} {
		if _, err := ReadCreate(parse(t, `{"name":"a","initial_files":`+doc+`}`), settings); fault.Of(err) == nil || fault.Of(err).Code != code {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestOUT_2_WebhookAliases(t *testing.T) {
	s := created(t, `{"name":"a","configuration":{"webhooks":{"task_complete":"https://a.example/x"}}}`)
	if s.Config.Webhooks["message_complete"] != "https://a.example/x" || len(s.Config.Webhooks) != 1 {
		t.Fatalf("%v", s.Config.Webhooks)
	}
	if _, err := ReadCreate(parse(t, `{"name":"a","configuration":{"webhooks":{"task_complete":"https://a.example/x","message_complete":"https://a.example/y"}}}`), settings); err == nil {
		t.Error("both names with different values were accepted")
	}
}

func TestOUT_9_URLsRefusedAtSave(t *testing.T) {
	for _, u := range []string{"http://a.example", "https://127.0.0.1/x", "https://10.0.0.1", "https://[::1]/", "https://169.254.169.254/", "https://u:p@a.example",
		"https://localhost/x", "https://[::ffff:10.0.0.1]/", "ftp://a.example", "https://", "https://100.64.0.1/", "https://2130706433", "https://127.1", "https://0x7f.1", "https://e.com:99999"} {
		if CheckURL(u, settings) == "" {
			t.Errorf("%s was accepted", u)
		}
	}
	if r := CheckURL("https://a.example:8443/x?y", settings); r != "" {
		t.Error(r)
	}
	if r := CheckURL("http://127.0.0.1:99/x", Settings{AllowHosts: []string{"127.0.0.1"}}); r != "" {
		t.Error(r)
	}
}

func FuzzReadUpdate(f *testing.F) {
	f.Add(`{"name":"a","configuration":{"custom_env":{"A":null},"hook_messages":{"interrupt":"{{x}}"}},"files":{"add":[{"path":"a","content":"b"}],"delete":["c"]}}`)
	f.Add(`{"warmth_window_ms":null,"pvc_size":"1e9","slack_bot_token":null}`)
	base := NewSpec("id", settings)
	base.CreatedMS = 1
	f.Fuzz(func(t *testing.T, doc string) {
		v, err := field.Parse([]byte(doc))
		if err != nil {
			return
		}
		p, err := ReadUpdate(&v, settings)
		if err != nil {
			if fault.Of(err).Kind == fault.Internal {
				t.Fatalf("%q: %v", doc, err)
			}
			return
		}
		once, _, err := p.Apply(base, plainSeal, settings)
		if err != nil {
			return
		}
		twice, _, err := p.Apply(once, plainSeal, settings)
		if err != nil {
			t.Fatalf("%q cannot be repeated: %v", doc, err)
		}
		a, _ := json.Marshal(once)
		b, _ := json.Marshal(twice)
		if string(a) != string(b) {
			t.Fatalf("%q is not idempotent:\n%s\n%s", doc, a, b)
		}
	})
}

func FuzzWorkspacePath(f *testing.F) {
	f.Add("workspace/a/../b")
	f.Add("/../../etc/passwd")
	f.Fuzz(func(t *testing.T, p string) {
		got, err := WorkspacePath(p)
		if err != nil {
			return
		}
		for _, seg := range strings.Split(got, "/") {
			if seg == ".." || seg == "" || strings.HasPrefix(got, "/") {
				t.Fatalf("%q became %q", p, got)
			}
		}
	})
}
