package main

import (
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := bare(w).(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// colors reports whether output to w is coloured.
func (a *app) colors(w io.Writer) bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

type style string

const (
	styleRed    style = "\x1b[31m"
	styleGreen  style = "\x1b[32m"
	styleYellow style = "\x1b[33m"
	styleDim    style = "\x1b[2m"
	styleReset  style = "\x1b[0m"
)

// palette colours the prefixes of workers; red is kept for trouble.
func palette(n int) style {
	all := [...]style{"\x1b[36m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[33m", "\x1b[96m", "\x1b[92m", "\x1b[95m", "\x1b[94m", "\x1b[93m"}
	return all[n%len(all)]
}

// painter colours words, or leaves them alone.
type painter bool

func (p painter) paint(s style, text string) string {
	if !p || text == "" || s == "" {
		return text
	}
	return string(s) + text + string(styleReset)
}

// printable makes a worker's line safe on a terminal: control characters become
// the replacement character, except tabs and colours (ESC [ … m), which are
// ended before the next line begins.
func printable(text []byte) []byte {
	if isPlain(text) {
		return text
	}
	out := make([]byte, 0, len(text)+len(styleReset))
	colored := false
	for len(text) > 0 {
		if n := colorLen(text); n > 0 {
			out, text, colored = append(out, text[:n]...), text[n:], true
			continue
		}
		r, n := utf8.DecodeRune(text)
		if r != '\t' && unicode.IsControl(r) {
			r = utf8.RuneError
		}
		out, text = utf8.AppendRune(out, r), text[n:]
	}
	if colored {
		out = append(out, styleReset...)
	}
	return out
}

func isPlain(text []byte) bool {
	for _, b := range text {
		if b < 0x20 && b != '\t' || b >= 0x7f {
			return false
		}
	}
	return true
}

// colorLen is the length of the colour sequence that text begins with, or 0.
func colorLen(text []byte) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i, b := range text[2:] {
		switch {
		case b == 'm':
			return i + 3
		case b != ';' && (b < '0' || b > '9'):
			return 0
		}
	}
	return 0
}
