package config

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
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

// Errors are all the things that are wrong with a configuration, in the order of its
// files; of more than 100 the rest is counted.
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

// Place is where something stands.
type Place struct {
	File         string
	Line, Column int // from 1, Column in characters
}

// String returns "pitvisor.toml:12:3".
func (p Place) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// document is one of the files. Their texts are numbered through as if they stood one
// behind the other, so a number says both which file it is and where in it.
type document struct {
	name   string // as the user named it
	number int    // from 0
	src    []byte
	base   int // where its text begins
	starts []int
}

// position returns the line and column of an offset.
func (doc *document) position(at int) (line, column int) {
	if doc.starts == nil {
		doc.starts = lineStarts(doc.src)
	}
	return position(doc.src, doc.starts, at-doc.base)
}

const (
	maxErrors   = 100    // that are told of
	maxProblems = 10_000 // that are kept at least, to tell of those that come first
)

// problems collects what is wrong, by offset into the files.
type problems struct {
	docs  []*document
	all   []problem
	count int          // also of those that are not kept
	mutes int          // those of count that are told of elsewhere
	muted map[int]bool // where something wrong was told of already
	noted map[int]bool // where the next ones are, if that is asked for
}

type problem struct {
	at        int
	msg, hint string
	other     *Error // in another file that the text at this place names
}

// open begins a file.
func (p *problems) open(name string, src []byte) *document {
	doc := &document{name: name, number: len(p.docs), src: src}
	if n := len(p.docs); n > 0 {
		doc.base = p.docs[n-1].base + len(p.docs[n-1].src) + 1 // the end of a file is a place as well
	}
	p.docs = append(p.docs, doc)
	return doc
}

func (p *problems) add(at int, hint, format string, args ...any) {
	p.put(problem{at: at, msg: fmt.Sprintf(format, args...), hint: hint})
}

func (p *problems) put(pr problem) {
	p.count++
	if p.noted != nil {
		p.noted[pr.at] = true
	}
	if p.muted[pr.at] {
		p.mutes++
		return
	}
	p.all = append(p.all, pr)
	if len(p.all) == 2*maxProblems {
		p.sort()
		p.all = p.all[:maxProblems]
	}
}

// once tells of what check finds, and of nothing that is found there later.
func (p *problems) once(check func()) {
	p.noted = make(map[int]bool)
	check()
	if p.muted == nil {
		p.muted = make(map[int]bool)
	}
	maps.Copy(p.muted, p.noted)
	p.noted = nil
}

// sort puts them in the order of the files.
func (p *problems) sort() {
	slices.SortStableFunc(p.all, func(a, b problem) int { return cmp.Compare(a.at, b.at) })
}

// place says where an offset is.
func (p *problems) place(at int) Place {
	i := sort.Search(len(p.docs), func(i int) bool { return p.docs[i].base > at })
	doc := p.docs[max(i-1, 0)]
	line, column := doc.position(at)
	return Place{File: doc.name, Line: line, Column: column}
}

// errors returns the problems in the order of the files, with lines and columns. What
// several pools have from the same place is told once.
func (p *problems) errors() Errors {
	p.sort()
	told := make(map[problem]bool, len(p.all))
	var errs Errors
	repeated := 0
	for _, pr := range p.all {
		if told[pr] {
			repeated++
			continue
		}
		told[pr] = true
		if len(errs) == maxErrors {
			continue
		}
		if pr.other != nil {
			errs = append(errs, pr.other)
			continue
		}
		at := p.place(pr.at)
		errs = append(errs, &Error{File: at.File, Line: at.Line, Column: at.Column, Msg: pr.msg, Hint: pr.hint})
	}
	if more := p.count - p.mutes - repeated - len(errs); len(errs) == maxErrors && more > 0 {
		errs = append(errs, &Error{File: errs[maxErrors-1].File, Msg: fmt.Sprintf("and %d more errors", more)})
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
	for at < len(src) && at > 0 && !utf8.RuneStart(src[at]) {
		at-- // the parser counts bytes
	}
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
