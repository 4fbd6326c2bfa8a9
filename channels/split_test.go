package channels

import (
	"strings"
	"testing"
	"unicode"

	"github.com/rivo/uniseg"
)

func bodies(ps []Piece) (out []string) {
	for _, p := range ps {
		out = append(out, p.Text())
	}
	return out
}

func TestCHAN_9_WhereATextIsCut(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		limit int
		want  []string
	}{
		"it fits":                    {"hello", 10, []string{"hello"}},
		"nothing":                    {" \n ", 10, nil},
		"at the last blank line":     {"one\n\ntwo\n\nthree", 11, []string{"one\n\ntwo", "three"}},
		"else at a line break":       {"one\ntwo\nthree", 9, []string{"one\ntwo", "three"}},
		"else at a blank":            {"one two three", 9, []string{"one two", "three"}},
		"else anywhere":              {"abcdefghij", 4, []string{"abcd", "efgh", "ij"}},
		"never inside a grapheme":    {"👩‍👩‍👧👩‍👩‍👧", 10, []string{"👩‍👩‍👧", "👩‍👩‍👧"}},
		"never inside an escape":     {`abc\*def`, 4, []string{"abc", `\*de`, "f"}},
		"nor inside a reference":     {"ab&amp;cd", 5, []string{"ab", "&amp;", "cd"}},
		"a fence is made whole":      {"```go\nline one\nline two\n```\nend", 20, []string{"```go\nline one\n```", "```go\nline two\n```", "end"}},
		"a fence of more and tildes": {"~~~~\n```\nx x x x x x x\n~~~~", 17, []string{"~~~~\n```\n~~~~", "~~~~\nx x x x\n~~~~", "~~~~\n x x x\n~~~~"}},
		"two units are counted":      {"😀😀😀", 4, []string{"😀😀", "😀"}},
	} {
		if got := bodies(Split(tt.text, tt.limit, Units)); strings.Join(got, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%s: %q, not %q", name, got, tt.want)
		}
	}
}

func words(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// FuzzSplit: whatever comes in, the bodies are the text, every part is within the limit, and no grapheme is cut (CHAN-9).
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"one two", "```go\nx\n```", "a\\*b &amp; c", "👩‍👩‍👧 é", "~~~\n\n```\n~~~~\n", strings.Repeat("word ", 50), "```", "`````\n```\n`````"} {
		f.Add(s, 20)
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if limit < 1 || limit > 5000 || len(text) > 20000 || !valid(text) {
			return
		}
		var joined strings.Builder
		for _, p := range Split(text, limit, Units) {
			joined.WriteString(p.Body)
			if n := Units(p.Text()); n > limit && uniseg.GraphemeClusterCount(p.Body) > 1 && len(p.Open)+len(p.Close) == 0 && !awkward(p.Body) {
				t.Errorf("a part of %d units, the limit is %d: %q", n, limit, p.Text())
			}
		}
		if got, want := words(joined.String()), words(text); got != want {
			t.Errorf("joined %q, the text is %q", got, want)
		}
	})
}

// awkward is a part that may be larger than a tiny limit: an escape, which is not cut.
func awkward(s string) bool { return strings.ContainsAny(s, `\\&`) }

func valid(s string) bool { return strings.ToValidUTF8(s, "") == s }
