package seal

import (
	"strings"
	"testing"
)

func box(t *testing.T) *Box {
	t.Helper()
	key, err := ParseKey(NewKey())
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSEC_1_SealedValuesAreBoundToOwnerAndSlot(t *testing.T) {
	b := box(t)
	sealed, err := b.Seal("agent-1", "anthropic_api_key", "sk-ant-secret")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sealed, "secret") {
		t.Fatalf("the value shows in %q", sealed)
	}
	if got, err := b.Open("agent-1", "anthropic_api_key", sealed); err != nil || got != "sk-ant-secret" {
		t.Fatalf("got %q, %v", got, err)
	}
	other := box(t)
	for name, open := range map[string]func() (string, error){
		"another owner": func() (string, error) { return b.Open("agent-2", "anthropic_api_key", sealed) },
		"another slot":  func() (string, error) { return b.Open("agent-1", "discord_bot_token", sealed) },
		"another key":   func() (string, error) { return other.Open("agent-1", "anthropic_api_key", sealed) },
		"a cut value":   func() (string, error) { return b.Open("agent-1", "anthropic_api_key", sealed[:len(sealed)-3]) },
		"no value":      func() (string, error) { return b.Open("agent-1", "anthropic_api_key", "") },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s opened it: %q", name, got)
		}
	}
}

func TestParseKeyRefusesWhatIsNo32Bytes(t *testing.T) {
	for _, s := range []string{"", "short", "!!!!", "AAAA"} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("ParseKey(%q) was accepted", s)
		}
	}
}

func TestFENCE_4_RuntimeKeysNameTheirIncarnation(t *testing.T) {
	b := box(t)
	const id = "019cd20a-0d00-7c31-9a4e-5b1f0d2c7e90"
	key := b.RuntimeKey(id, 3).Reveal()
	got, inc, ok := b.ParseRuntimeKey(key)
	if !ok || got != id || inc != 3 {
		t.Fatalf("got %s %d %v", got, inc, ok)
	}
	for _, forged := range []string{"", "trk_", strings.Replace(key, "_3_", "_4_", 1), key[:len(key)-1] + "!", "sk_" + key, box(t).RuntimeKey(id, 3).Reveal()} {
		if _, _, ok := b.ParseRuntimeKey(forged); ok {
			t.Errorf("%q was accepted", forged)
		}
	}
}
