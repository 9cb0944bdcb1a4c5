package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestRawLongLines: the pieces of a line are put together, unless another line is between.
func TestRawLongLines(t *testing.T) {
	var out bytes.Buffer
	p := &linePrinter{out: bufio.NewWriter(&out), form: linesRaw, seen: map[string]int{}}
	for _, l := range []outLine{
		{Worker: "web/0", Partial: true, text: []byte("a")},
		{Worker: "web/0", Partial: true, text: []byte("b")},
		{Worker: "web/0", text: []byte("c")},
		{Worker: "web/0", Partial: true, text: []byte("d")},
		{Worker: "web/1", text: []byte("other")},
		{Worker: "web/0", text: []byte("e")},
		{Worker: "web/0", Partial: true, text: []byte("f")},
		{Worker: "web/0", Lost: 7},
		{Worker: "web/0", text: []byte("g")},
		{Worker: "web/0", text: nil},
	} {
		p.print(&l)
	}
	if err := p.out.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "abc\nd\nother\ne\nf\ng\n\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzLinePrinter: whatever a worker prints, a line stays one line, does to a terminal
// nothing but colour it, and is in JSON what it was.
func FuzzLinePrinter(f *testing.F) {
	for _, text := range []string{"plain", "\x1b[31mred", "\x1b]0;title\x07", "\x1b[2J\r\x08", "\xff\x00\x80", "\u009b31m\u2028\u202e", "\x1b[", "\x1b[1;", "\t日本\x7f"} {
		f.Add([]byte(text), int64(0))
	}
	colours := regexp.MustCompile("\x1b\\[[0-9;]*m")
	f.Fuzz(func(t *testing.T, text []byte, lost int64) {
		text = bytes.ReplaceAll(text, []byte("\n"), nil)
		for _, form := range []string{linesText, linesRaw, linesJSON} {
			var out bytes.Buffer
			p := &linePrinter{out: bufio.NewWriter(&out), form: form, clean: true, paint: painter(true), seen: map[string]int{}}
			p.json = json.NewEncoder(p.out)
			p.print(&outLine{Worker: "web/0", Pool: "web", Stream: "stderr", Lost: max(0, lost%1000), text: text})
			if err := p.out.Flush(); err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(out.Bytes(), []byte("\n"))
			if form == linesJSON {
				var l outLine
				if err := json.Unmarshal(out.Bytes(), &l); err != nil || lines != 1 {
					t.Fatalf("%q is printed as %q: %v", text, out.Bytes(), err)
				}
				back := []byte(nil)
				if l.Message != nil {
					back = []byte(*l.Message)
				} else {
					back, _ = base64.StdEncoding.DecodeString(l.Base64)
				}
				if !bytes.Equal(back, text) {
					t.Errorf("%q came back as %q", text, back)
				}
				continue
			}
			if lines > 2 || lines > 1 && lost%1000 <= 0 {
				t.Errorf("%q is printed as %d lines: %q", text, lines, out.Bytes())
			}
			rest := colours.ReplaceAll(out.Bytes(), nil)
			if !utf8.Valid(rest) || bytes.ContainsFunc(rest, func(r rune) bool { return r != '\t' && r != '\n' && unicode.IsControl(r) }) {
				t.Errorf("%q is printed as %q", text, rest)
			}
			if colours.Match(text) && !bytes.HasSuffix(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte(styleReset)) {
				t.Errorf("%q leaves the terminal coloured: %q", text, out.Bytes())
			}
		}
	})
}
