package channels

import (
	"strconv"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// Markup is how a network writes what Markdown can say. A mark that is empty is left out.
type Markup struct {
	Escape                    func(string) string // of text; nil: as it is
	Code                      func(string) string // of code; nil: as Escape
	Bold, Italic, Strike      [2]string
	Literal                   [2]string // code in a line
	Block                     func(language, code string) string
	Link                      func(text, url string) string
	QuoteLine, Bullet, Indent string
	Quote                     [2]string // around a quotation, instead of QuoteLine
}

var markdown = goldmark.New(goldmark.WithExtensions(extension.Strikethrough, extension.Linkify)).Parser()

// Convert writes Markdown in a network's markup. What the markup cannot say stays as text. A text that the parser fails on is written as it
// is: a reply must not take its agent down.
func (m *Markup) Convert(src string) (out string) {
	defer func() {
		if recover() != nil {
			out = (&writer{m: m}).escape(src)
		}
	}()
	w := &writer{m: m, src: []byte(src)}
	w.blocks(markdown.Parse(text.NewReader(w.src)), "")
	return strings.TrimRight(w.out.String(), "\n")
}

type writer struct {
	m   *Markup
	src []byte
	out strings.Builder
}

func (w *writer) escape(s string) string {
	if w.m.Escape == nil {
		return s
	}
	return w.m.Escape(s)
}

func (w *writer) code(s string) string {
	if w.m.Code == nil {
		return w.escape(s)
	}
	return w.m.Code(s)
}

// blocks writes the blocks below a node, with a blank line between them unless they are items of a tight list.
func (w *writer) blocks(parent ast.Node, indent string) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		if n != parent.FirstChild() {
			if l, list := parent.(*ast.List); list && l.IsTight || parent.Kind() == ast.KindListItem && n.Kind() == ast.KindList {
				w.out.WriteString("\n" + indent)
			} else {
				w.out.WriteString("\n\n" + indent)
			}
		}
		w.block(n, indent)
	}
}

func (w *writer) block(n ast.Node, indent string) {
	switch n := n.(type) {
	case *ast.Heading:
		w.mark(w.m.Bold, n, indent)
	case *ast.FencedCodeBlock:
		w.out.WriteString(w.m.Block(string(n.Language(w.src)), w.lines(n)))
	case *ast.CodeBlock:
		w.out.WriteString(w.m.Block("", w.lines(n)))
	case *ast.HTMLBlock:
		html := w.lines(n)
		if n.HasClosure() {
			html += "\n" + string(n.ClosureLine.Value(w.src))
		}
		w.out.WriteString(w.escape(strings.TrimRight(html, "\n")))
	case *ast.ThematicBreak:
		w.out.WriteString("———")
	case *ast.Blockquote:
		if w.m.Quote[0] != "" {
			w.out.WriteString(w.m.Quote[0])
			w.blocks(n, indent)
			w.out.WriteString(w.m.Quote[1])
			return
		}
		w.out.WriteString(w.m.QuoteLine)
		w.blocks(n, indent+w.m.QuoteLine)
	case *ast.List:
		w.blocks(n, indent)
	case *ast.ListItem:
		mark := w.m.Bullet
		if l, ok := n.Parent().(*ast.List); ok && l.IsOrdered() {
			at := l.Start
			for s := n.PreviousSibling(); s != nil; s = s.PreviousSibling() {
				at++
			}
			mark = strconv.Itoa(at) + ". "
		}
		w.out.WriteString(mark)
		w.blocks(n, indent+w.m.Indent)
	default:
		w.inlines(n, indent)
	}
}

func (w *writer) lines(n ast.Node) string {
	var b strings.Builder
	for i := range n.Lines().Len() {
		seg := n.Lines().At(i)
		b.Write(seg.Value(w.src))
	}
	return strings.TrimRight(b.String(), "\n")
}

func (w *writer) mark(m [2]string, n ast.Node, indent string) {
	w.out.WriteString(m[0])
	w.inlines(n, indent)
	w.out.WriteString(m[1])
}

func (w *writer) inlines(parent ast.Node, indent string) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		w.inline(n, indent)
	}
}

func (w *writer) inline(n ast.Node, indent string) {
	switch n := n.(type) {
	case *ast.Text:
		w.out.WriteString(w.escape(plain(n.Value(w.src))))
		if n.SoftLineBreak() || n.HardLineBreak() {
			w.out.WriteString("\n" + indent)
		}
	case *ast.String:
		w.out.WriteString(w.escape(string(n.Value)))
	case *ast.CodeSpan:
		w.out.WriteString(w.m.Literal[0] + w.code(w.raw(n)) + w.m.Literal[1])
	case *ast.Emphasis:
		if n.Level == 2 {
			w.mark(w.m.Bold, n, indent)
		} else {
			w.mark(w.m.Italic, n, indent)
		}
	case *extast.Strikethrough:
		w.mark(w.m.Strike, n, indent)
	case *ast.Link:
		w.out.WriteString(w.m.Link(w.below(n, indent), string(n.Destination)))
	case *ast.Image:
		w.out.WriteString(w.m.Link(w.below(n, indent), string(n.Destination)))
	case *ast.AutoLink:
		w.out.WriteString(w.escape(string(n.Label(w.src))))
	case *ast.RawHTML:
		for i := range n.Segments.Len() {
			seg := n.Segments.At(i)
			w.out.WriteString(w.escape(string(seg.Value(w.src))))
		}
	default:
		w.inlines(n, indent)
	}
}

// below writes what is below a node apart.
func (w *writer) below(n ast.Node, indent string) string {
	apart := &writer{m: w.m, src: w.src}
	apart.inlines(n, indent)
	return apart.out.String()
}

// raw is the text below a node as it stands.
func (w *writer) raw(n ast.Node) string {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if t, ok := c.(*ast.Text); ok {
			b.Write(t.Value(w.src))
			if t.SoftLineBreak() {
				b.WriteByte(' ')
			}
		}
	}
	return b.String()
}

const punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// plain resolves the backslash escapes of Markdown.
func plain(b []byte) string {
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) && strings.IndexByte(punctuation, b[i+1]) >= 0 {
			i++
		}
		out.WriteByte(b[i])
	}
	return out.String()
}
