package workspace

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"troupe/http/runnerproto"
)

// Limits of a search (FS-10).
const (
	searchWithin = 30 * time.Second
	maxSearched  = 5 << 20 // of a file whose content is looked at
	sniffed      = 8 << 10 // of a file, for a NUL
	maxMatches   = 50      // lines of one file
	maxLine      = 500     // characters of one line
	maxFound     = 8 << 20 // bytes of lines in one answer
)

// glob matches a pattern against the base name, or against the path below the searched directory if it has a slash.
type glob struct {
	pattern string
	fold    bool
}

func newGlob(pattern string, caseSensitive bool) (*glob, error) {
	g := &glob{strings.TrimPrefix(pattern, "/"), !caseSensitive}
	if g.fold {
		g.pattern = strings.ToLower(g.pattern)
	}
	if !doublestar.ValidatePattern(g.pattern) {
		return nil, &Refusal{400, "invalid_pattern", "The pattern is no valid glob"}
	}
	return g, nil
}

func (g *glob) match(rel string) bool {
	if g == nil {
		return true
	}
	if !strings.Contains(g.pattern, "/") {
		rel = path.Base(rel)
	}
	if g.fold {
		rel = strings.ToLower(rel)
	}
	return doublestar.MatchUnvalidated(g.pattern, rel)
}

// matcher is a search made ready.
type matcher struct {
	name, only *glob // nil: names are not looked at; every file is
	line       *regexp.Regexp
}

func newMatcher(s runnerproto.Search) (*matcher, error) {
	m := &matcher{}
	var nameErr, lineErr error
	if s.Type != "content" {
		m.name, nameErr = newGlob(s.Query, s.CaseSensitive)
	}
	if s.Type != "filename" {
		expr := s.Query
		if !s.CaseSensitive {
			expr = "(?i)" + expr
		}
		if m.line, lineErr = regexp.Compile(expr); lineErr != nil {
			m.line, lineErr = nil, &Refusal{400, "invalid_pattern", "The query is no valid RE2 expression"}
		}
	}
	if m.name == nil && m.line == nil { // with type both, one of them is enough: *.go is a glob and no expression
		return nil, errors.Join(nameErr, lineErr)
	}
	if s.FilePattern != "" {
		var err error
		if m.only, err = newGlob(s.FilePattern, s.CaseSensitive); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Search looks for names and contents (FS-10).
func (w *Workspace) Search(ctx context.Context, s runnerproto.Search) (*runnerproto.Found, error) {
	m, err := newMatcher(s)
	if err != nil {
		var r *Refusal
		errors.As(err, &r)
		return nil, r
	}
	if err := w.directory(s.Path); err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, searchWithin)
	defer cancel()
	room := maxFound
	out := &runnerproto.Found{Results: []runnerproto.Match{}}
	err = w.walk(within, s.Path, "", true, s.IncludeHidden, func(rel, full string, st fs.FileInfo) error {
		if st.Mode()&fs.ModeSymlink != 0 || !m.only.match(rel) || m.only != nil && st.IsDir() {
			return nil
		}
		named := m.name != nil && m.name.match(rel)
		var lines []string
		if m.line != nil && st.Mode().IsRegular() {
			lines = w.grep(within, full, m.line)
		}
		if !named && len(lines) == 0 {
			return nil
		}
		if len(out.Results) == s.MaxResults || room <= 0 {
			return errEnough
		}
		for _, l := range lines {
			room -= len(l)
		}
		typ, size, _ := w.look(full, st)
		out.Results = append(out.Results, runnerproto.Match{Path: shown(full), Type: typ, Size: size, Matches: lines})
		return nil
	})
	out.Truncated = err != nil || within.Err() != nil
	if err != nil && !errors.Is(err, errEnough) && within.Err() == nil {
		return nil, refuse(err)
	}
	out.Total = len(out.Results)
	return out, nil
}

// grep returns the lines of a text file that match.
func (w *Workspace) grep(ctx context.Context, p string, re *regexp.Regexp) (out []string) {
	f, st, err := w.open(p)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st.Size() > maxSearched {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSearched))
	if err != nil || bytes.IndexByte(b[:min(len(b), sniffed)], 0) >= 0 {
		return nil
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, maxSearched+1)
	for sc.Scan() && len(out) < maxMatches && ctx.Err() == nil {
		if line := sc.Bytes(); re.Match(line) {
			out = append(out, clip(string(bytes.TrimRight(line, "\r"))))
		}
	}
	return out
}

func clip(s string) string {
	n := 0
	for i := range s {
		if n == maxLine {
			return strings.ToValidUTF8(s[:i], "�")
		}
		n++
	}
	return strings.ToValidUTF8(s, "�")
}
