package auth

import (
	"log/slog"
	"strings"
	"testing"

	"troupe/actors/account"
	"troupe/persistence/seal"
)

func service(t *testing.T) *Service {
	t.Helper()
	key, err := seal.ParseKey(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return New(nil, box, slog.New(slog.DiscardHandler))
}

func TestSEC_4_BothSidesAreHashedFirst(t *testing.T) {
	s := service(t)
	short, long := s.KeyHash("sk_shinzo_x"), s.KeyHash("sk_shinzo_"+strings.Repeat("x", 500))
	if len(short) != len(long) || short == long || strings.Contains(long, "shinzo") {
		t.Fatalf("%q %q", short, long)
	}
	stored := HashPassword("correct horse")
	for _, wrong := range []string{"", "c", "correct hors", "correct horse ", strings.Repeat("x", 200)} {
		if CheckPassword(stored, wrong) {
			t.Errorf("%q was accepted", wrong)
		}
	}
	if !CheckPassword(stored, "correct horse") || CheckPassword("", "decoy") || CheckPassword("broken", "x") {
		t.Error("password check")
	}
}

func TestAUTH_3_ForgedTokens(t *testing.T) {
	s, other := service(t), service(t)
	good, err := s.Token(account.Account{ID: "a", Email: "a@acme.test"})
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := other.Token(account.Account{ID: "a", Email: "a@acme.test"})
	p := strings.Split(good, ".")
	for name, tok := range map[string]string{
		"another key":  foreign,
		"alg none":     "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + p[1] + ".",
		"no signature": p[0] + "." + p[1] + ".",
		"cut":          good[:len(good)-2],
		"garbage":      "x.y.z",
	} {
		if _, err := s.token(t.Context(), tok); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
