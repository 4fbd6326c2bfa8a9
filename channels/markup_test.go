package channels

import (
	"html"
	"strings"
	"testing"
)

var plainMarkup = Markup{Escape: html.EscapeString, Bold: [2]string{"<b>", "</b>"}, Italic: [2]string{"<i>", "</i>"}, Strike: [2]string{"<s>", "</s>"}, Literal: [2]string{"<code>", "</code>"},
	QuoteLine: "> ", Bullet: "• ", Indent: "  ", Block: func(l, c string) string { return "<pre " + l + ">" + html.EscapeString(c) + "</pre>" },
	Link: func(text, url string) string { return "<a " + html.EscapeString(url) + ">" + text + "</a>" }}

func TestCHAN_8_WhatMarkdownBecomes(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                            "plain",
		"**b** *i* ~~s~~ `c<d`":            "<b>b</b> <i>i</i> <s>s</s> <code>c&lt;d</code>",
		"# Title\n\ntext":                  "<b>Title</b>\n\ntext",
		"[a & b](https://x.test/?q=1&r=2)": "<a https://x.test/?q=1&amp;r=2>a &amp; b</a>",
		"- one\n- two\n  - three":          "• one\n• two\n  • three",
		"3. three\n4. four":                "3. three\n4. four",
		"> quoted\n> more":                 "> quoted\n> more",
		"```go\nif a < b {\n\t}\n```":      "<pre go>if a &lt; b {\n\t}</pre>",
		"1 < 2 & 3 > 2":                    "1 &lt; 2 &amp; 3 &gt; 2",
		`\*not italic\*`:                   "*not italic*",
		"<script>alert(1)</script>":        "&lt;script&gt;alert(1)&lt;/script&gt;",
		"line one\nline two":               "line one\nline two",
		"**never closed":                   "**never closed",
		"a\n\n---\n\nb":                    "a\n\n———\n\nb",
		"inline <b>html</b>":               "inline &lt;b&gt;html&lt;/b&gt;",
	} {
		if got := plainMarkup.Convert(in); got != want {
			t.Errorf("%q becomes %q, not %q", in, got, want)
		}
	}
}

// FuzzConvert: nothing of a text becomes markup that the converter did not write, and it never fails.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{"**b**", "<b>", "[x](y)", "```\n<x>", "- a\n  1. b\n> c", "&lt;", "![i](j \"k\")", "<https://x.test>"} {
		f.Add(s)
	}
	bare := plainMarkup
	bare.Bold, bare.Italic, bare.Strike, bare.Literal, bare.QuoteLine = [2]string{}, [2]string{}, [2]string{}, [2]string{}, ""
	bare.Block = func(_, c string) string { return html.EscapeString(c) }
	bare.Link = func(text, url string) string { return text + html.EscapeString(url) }
	f.Fuzz(func(t *testing.T, s string) {
		if got := bare.Convert(s); strings.ContainsAny(got, "<>") {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
