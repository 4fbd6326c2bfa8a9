package api

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
)

//go:embed semantics.md
var semantics []byte

//go:embed sections.txt
var done string

var (
	heading  = regexp.MustCompile(`^## (\d+) (.*)`)
	ruleRow  = regexp.MustCompile(`^\| ([A-Z]+-\d+) \|`)
	testName = regexp.MustCompile(`func (Test\w+|Fuzz\w+)\(`)
	quoted   = regexp.MustCompile(`(?:^|[^A-Z])([A-Z]{2,5})[-_](\d{1,2})`)
)

// rule is one row of the contract.
type rule struct {
	id, section string
}

func contractRules(t *testing.T) (rules []*rule, titles map[string]string) {
	titles = map[string]string{}
	section := ""
	for sc := bufio.NewScanner(bytes.NewReader(semantics)); sc.Scan(); {
		if m := heading.FindStringSubmatch(sc.Text()); m != nil {
			section = m[1]
			titles[section] = m[2]
		}
		if m := ruleRow.FindStringSubmatch(sc.Text()); m != nil {
			rules = append(rules, &rule{id: m[1], section: section})
		}
	}
	if len(rules) < 100 {
		t.Fatalf("only %d rules were found in semantics.md", len(rules))
	}
	return rules, titles
}

// quotes collects which tests name which rules: in their own name, in that of a subtest, or in a failure they print.
func quotes(t *testing.T) map[string][]string {
	out := map[string][]string{}
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache") {
			if d != nil && d.IsDir() && err == nil {
				return fs.SkipDir
			}
			return err
		}
		isTest := strings.HasSuffix(path, "_test.go") || strings.Contains(path, "storetest") && strings.HasSuffix(path, ".go")
		if !isTest || strings.HasSuffix(path, "rules_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		current := strings.TrimPrefix(path, root+"/")
		for _, line := range strings.Split(string(b), "\n") {
			if m := testName.FindStringSubmatch(line); m != nil {
				current = strings.TrimPrefix(filepath.Dir(path), root+"/") + "." + m[1]
			}
			if strings.HasPrefix(strings.TrimSpace(line), "//") {
				continue // a comment proves nothing
			}
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				id := m[1] + "-" + m[2]
				if !slices.Contains(out[id], current) {
					out[id] = append(out[id], current)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRules prints the table rule → tests and fails when a finished section has a rule that no test quotes.
func TestRules(t *testing.T) {
	rules, titles := contractRules(t)
	by := quotes(t)
	finished := map[string]bool{}
	for _, l := range strings.Split(done, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			finished[l] = true
		}
	}
	var b strings.Builder
	missing := 0
	last := ""
	for _, r := range rules {
		if r.section != last {
			last = r.section
			mark := ""
			if finished[r.section] {
				mark = " (done)"
			}
			fmt.Fprintf(&b, "\n§%s %s%s\n", r.section, titles[r.section], mark)
		}
		tests := by[r.id]
		sort.Strings(tests)
		text := strings.Join(tests, " ")
		if text == "" {
			text = "–"
			if finished[r.section] {
				missing++
				t.Errorf("%s of the finished section %s is quoted by no test", r.id, r.section)
			}
		}
		fmt.Fprintf(&b, "  %-9s %s\n", r.id, text)
	}
	fmt.Println(b.String())
	if missing > 0 {
		t.Errorf("%d rules of finished sections lack a test", missing)
	}
}
