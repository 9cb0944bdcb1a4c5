package report

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// visible makes text fit for a line that a person reads: what is not printable, and
// what could change the direction or the place of other text, becomes an escape. It
// is at most about so many bytes long; what is cut ends in three dots.
func visible(s string, most int) string {
	if len(s) <= most && plain(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if b.Len()+size > most {
			b.WriteString("...")
			break
		}
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x`)
			b.WriteByte(hex[s[0]>>4])
			b.WriteByte(hex[s[0]&15])
		case strconv.IsPrint(r):
			b.WriteString(s[:size])
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

const hex = "0123456789abcdef"

// plain says that text is printable ASCII.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// commandLine joins arguments so that a person sees where each begins. A single one
// may be the title that a program has given itself, and stays as it is.
func commandLine(args []string, most int) string {
	if len(args) == 1 {
		return visible(args[0], most)
	}
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if b.Len() >= most {
			b.WriteString("...")
			break
		}
		text := visible(arg, most-b.Len())
		if arg == "" || strings.ContainsAny(arg, " \"'\\") {
			text = `"` + strings.ReplaceAll(text, `"`, `\"`) + `"`
		}
		b.WriteString(text)
	}
	return b.String()
}
