package channels

import (
	"strings"
	"unicode"

	"github.com/rivo/uniseg"
)

// Piece is one part of a text. Open and Close are what is repeated so that a code fence which goes on is whole in every part.
type Piece struct{ Open, Body, Close string }

// Text is the piece as it stands alone.
func (p Piece) Text() string { return p.Open + p.Body + p.Close }

// Split cuts Markdown into pieces whose size is at most limit: at the last blank line, else line break, else blank, else anywhere, but never
// inside a grapheme or an escape (CHAN-9). The bodies, joined, are the text, white space at the cuts aside. Size must not be negative; a
// single grapheme that is larger than the limit is a piece of its own.
func Split(text string, limit int, size func(string) int) (out []Piece) {
	open := "" // the line that opened the fence which goes on
	for rest := text; strings.TrimSpace(rest) != ""; {
		whole := Piece{Open: reopen(open), Body: rest}
		if len(rest) <= 4*limit && size(whole.Text()) <= limit {
			return append(out, whole)
		}
		fits := func(n int) bool { return size(piece(open, rest[:n]).Text()) <= limit }
		n := cut(rest, boundaries(rest, 4*limit), fits)
		p := piece(open, rest[:n])
		next := fence(rest[:n], open)
		trim := unicode.IsSpace
		if next != "" {
			trim = func(r rune) bool { return r == '\n' || r == '\r' } // the indent of the next line belongs to the code
		}
		p.Body = strings.TrimRightFunc(p.Body, trim)
		rest, open = strings.TrimLeftFunc(rest[n:], trim), next
		if strings.TrimSpace(p.Body) != "" {
			out = append(out, p)
		}
	}
	return out
}

// piece is a part that begins under an open fence, or "".
func piece(open, body string) Piece {
	p := Piece{Open: reopen(open), Body: body}
	if f := fence(body, open); f != "" {
		p.Close = "\n" + marker(f)
	}
	return p
}

func reopen(open string) string {
	if open == "" {
		return ""
	}
	return open + "\n"
}

// boundaries are the ends of graphemes, up to some bytes.
func boundaries(s string, most int) (ends []int) {
	state, n := -1, 0
	for len(s) > 0 && n < most {
		var g string
		g, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		n += len(g)
		ends = append(ends, n)
	}
	return ends
}

// cut finds where to end the first part.
func cut(s string, ends []int, fits func(int) bool) int {
	lo, hi := 0, len(ends)-1 // the largest that fits, as far as sizes grow
	for lo < hi {
		if mid := (lo + hi + 1) / 2; fits(ends[mid]) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	for lo > 0 && (!fits(ends[lo]) || escapes(s, ends[lo])) {
		lo--
	}
	n := ends[lo]
	if n == len(s) {
		return n
	}
	head := s[:n]
	if strings.IndexByte(" \t\n", s[n]) >= 0 {
		head = s[:n+1] // the cut may lie right at one
	}
	for _, at := range []func(string) int{lastBlankLine, lastBreak, lastBlank} {
		if k := at(head); k > 0 && k <= n && strings.TrimSpace(s[:k]) != "" && fits(k) && !escapes(s, k) {
			return k
		}
	}
	return n
}

// lastBlankLine is where the last blank line begins.
func lastBlankLine(s string) int {
	for end := len(s); ; {
		i := strings.LastIndexByte(s[:end], '\n')
		if i < 0 {
			return -1
		}
		j := strings.LastIndexByte(s[:i], '\n')
		if j >= 0 && strings.TrimSpace(s[j:i]) == "" {
			return j
		}
		end = i
	}
}

func lastBreak(s string) int { return strings.LastIndexByte(s, '\n') }

func lastBlank(s string) int { return strings.LastIndexAny(s, " \t") }

// escapes says whether a cut at n would part an escape: a backslash from its character, or a character reference.
func escapes(s string, n int) bool {
	head := s[:n]
	if back := n - len(strings.TrimRight(head, `\`)); back%2 == 1 {
		return true
	}
	i := strings.LastIndexByte(head, '&')
	if i < 0 || n-i > 32 {
		return false
	}
	end := i + 1 + strings.IndexByte(s[i+1:min(len(s), i+33)], ';')
	if end <= n-1 || end == i {
		return false
	}
	for _, r := range s[i+1 : end] {
		if r != '#' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return true
}

// fence returns the line that opened the code fence in which s ends, "" for none; open is the one in which it begins.
func fence(s, open string) string {
	for line := range strings.Lines(s) {
		t := strings.TrimLeft(strings.TrimRight(line, "\r\n"), " ")
		if m := marker(t); m == "" {
			continue
		} else if open == "" {
			if m[0] != '`' || !strings.Contains(t[len(m):], "`") { // else it is code in a line
				open = strings.TrimRight(t, " ")
			}
		} else if was := marker(open); m[0] == was[0] && len(m) >= len(was) && strings.TrimSpace(t[len(m):]) == "" {
			open = ""
		}
	}
	return open
}

// marker is the fence at the beginning of a line, "" if there is none.
func marker(line string) string {
	for _, c := range []string{"`", "~"} {
		if n := len(line) - len(strings.TrimLeft(line, c)); n >= 3 {
			return line[:n]
		}
	}
	return ""
}
