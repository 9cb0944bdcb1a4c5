package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Error is one thing that is wrong with a file.
type Error struct {
	File         string
	Line, Column int // from 1, Column in characters; both 0 if the file could not be read at all
	Msg          string
	Hint         string // what to do about it; may be empty

	err error // why the file could not be read
}

// Unwrap returns why the file could not be read, such as fs.ErrNotExist, or nil.
func (e *Error) Unwrap() error { return e.err }

// Error returns it on one line: "pitvisor.toml:12:3: unknown key "comand": did you mean "command"?"
func (e *Error) Error() string {
	s := e.File + ": " + e.Msg
	if e.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
	}
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Errors are all the things that are wrong with a file, in the order of the file.
type Errors []*Error

// Error returns one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each of them.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// problems collects what is wrong, by offset into the file.
type problems struct {
	all []problem
}

type problem struct {
	at        int
	msg, hint string
	other     *Error // in another file that the text at this place names
}

func (p *problems) add(at int, hint, format string, args ...any) {
	p.all = append(p.all, problem{at: at, msg: fmt.Sprintf(format, args...), hint: hint})
}

// errors returns the problems in the order of the file, with lines and columns.
func (p *problems) errors(file string, src []byte) Errors {
	slices.SortStableFunc(p.all, func(a, b problem) int { return cmp.Compare(a.at, b.at) })
	starts := lineStarts(src)
	var errs Errors
	for _, pr := range p.all {
		if pr.other != nil {
			errs = append(errs, pr.other)
			continue
		}
		line, column := position(src, starts, pr.at)
		errs = append(errs, &Error{File: file, Line: line, Column: column, Msg: pr.msg, Hint: pr.hint})
	}
	return errs
}

// lineStarts returns the offset at which each line begins.
func lineStarts(src []byte) []int {
	starts := []int{0}
	for i := 0; ; {
		n := bytes.IndexByte(src[i:], '\n')
		if n < 0 {
			return starts
		}
		i += n + 1
		starts = append(starts, i)
	}
}

// position returns the line and column of an offset. What is at the very end,
// behind a last newline, is told to be at the end of the last line.
func position(src []byte, starts []int, at int) (line, column int) {
	at = min(max(at, 0), len(src))
	if at == len(src) && at > 0 && src[at-1] == '\n' {
		at--
	}
	line = sort.Search(len(starts), func(i int) bool { return starts[i] > at })
	return line, utf8.RuneCount(src[starts[line-1]:at]) + 1
}

// quoted returns text for a message: quoted, and cut if it is long.
func quoted(text string) string {
	const most = 60
	if utf8.RuneCountInString(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	runes := []rune(text)
	return fmt.Sprintf("%q... (%d bytes)", string(runes[:most]), len(text))
}

// oneOf returns `"a", "b" or "c"`.
func oneOf(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = fmt.Sprintf("%q", w)
	}
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}
