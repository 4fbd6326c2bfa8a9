package agent

import (
	"regexp"
	"strings"

	"troupe/actors/fault"
)

// placeholder is a {{name}} with spaces allowed inside the braces; braces around anything else are literal text (HOOK-3).
var placeholder = regexp.MustCompile(`\{\{ *([A-Za-z_][A-Za-z0-9_.\[\]-]*) *\}\}`)

// Placeholders returns the names used in text, each once, in order.
func Placeholders(text string) []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
		if !seen[m[1]] {
			seen[m[1]] = true
			out = append(out, m[1])
		}
	}
	return out
}

// CheckTemplate refuses a text that uses a placeholder which is not offered (HOOK-4).
// Errors: fault.Invalid with code invalid_template, naming it.
func CheckTemplate(text string, offered []string) error {
	for _, name := range Placeholders(text) {
		if !contains(offered, name) {
			return fault.Newf(fault.Invalid, "invalid_template", "{{%s}} is not offered here; known: %s", name, strings.Join(offered, ", "))
		}
	}
	return nil
}

// Render substitutes in one pass: inserted values are never scanned again (HOOK-3). A name that get does not know becomes empty.
func Render(text string, get func(name string) (string, bool)) string {
	var b strings.Builder
	rest := text
	for {
		loc := placeholder.FindStringSubmatchIndex(rest)
		if loc == nil {
			b.WriteString(rest)
			return b.String()
		}
		b.WriteString(rest[:loc[0]])
		if v, ok := get(rest[loc[2]:loc[3]]); ok {
			b.WriteString(v)
		}
		rest = rest[loc[1]:]
	}
}

// RenderMap is Render with the values of a map.
func RenderMap(text string, values map[string]string) string {
	return Render(text, func(n string) (string, bool) { v, ok := values[n]; return v, ok })
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
