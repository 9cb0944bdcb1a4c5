package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/internal/config"
)

// The forms in which lines of workers are printed.
const (
	linesText = config.ShowText // worker, a mark and the line
	linesJSON = config.ShowJSON // one object a line
	linesRaw  = "raw"           // the line alone
)

// outLine is one line of a worker.
type outLine struct {
	Time    time.Time `json:"time"`
	Run     string    `json:"run,omitempty"`
	Pool    string    `json:"pool"`
	Worker  string    `json:"worker"`
	Start   uint64    `json:"start,omitempty"`
	Stream  string    `json:"stream"`
	Message *string   `json:"message,omitempty"`
	Base64  string    `json:"message_base64,omitempty"` // in place of Message: it is no UTF-8
	Partial bool      `json:"partial,omitempty"`        // it goes on in the next line of this stream
	Lost    int64     `json:"lost_bytes,omitempty"`     // before this line

	text []byte
}

// lineSource is the stream that a line is of.
type lineSource struct{ run, worker, stream string }

// linePrinter prints lines of workers. Lines of stderr have a ! where those of
// stdout have a |, so that they can be told apart without colours.
type linePrinter struct {
	out    *bufio.Writer
	form   string
	stamps bool // text has the time
	width  int  // of the names
	clean  bool // a terminal: control characters are made visible
	paint  painter
	seen   map[string]int // worker → colour
	buf    []byte         // of one line
	within lineSource     // raw: whose line goes on in its next piece; else empty
	json   *json.Encoder
}

func (a *app) newLinePrinter(out io.Writer, form string) *linePrinter {
	p := &linePrinter{
		out: bufio.NewWriterSize(out, 64<<10), form: form, clean: isTerminal(out),
		paint: painter(a.colors(out)), seen: map[string]int{},
	}
	p.json = json.NewEncoder(p.out)
	p.json.SetEscapeHTML(false)
	return p
}

// widen makes room for a worker's name, and gives it the next colour.
func (p *linePrinter) widen(worker string) {
	p.width = max(p.width, len(worker))
	p.color(worker)
}

func (p *linePrinter) color(worker string) style {
	n, known := p.seen[worker]
	if !known {
		n = len(p.seen)
		p.seen[worker] = n
	}
	return palette(n)
}

// print prints one line; an error sticks until Flush.
func (p *linePrinter) print(l *outLine) {
	switch p.form {
	case linesJSON:
		p.printJSON(l)
	case linesRaw:
		p.printRaw(l)
	case linesText:
		p.printText(l)
	}
}

// printRaw puts the pieces of a long line together again, unless something comes between.
func (p *linePrinter) printRaw(l *outLine) {
	from := lineSource{l.Run, l.Worker, l.Stream}
	if p.within != (lineSource{}) && (p.within != from || l.Lost > 0) {
		_ = p.out.WriteByte('\n')
	}
	p.within = lineSource{}
	switch {
	case l.Partial:
		p.within = from
		_, _ = p.out.Write(p.shown(l.text))
	case l.Lost == 0 || len(l.text) > 0:
		p.write(l.text)
	}
}

func (p *linePrinter) printJSON(l *outLine) {
	if utf8.Valid(l.text) {
		text := string(l.text)
		l.Message, l.Base64 = &text, ""
	} else {
		l.Message, l.Base64 = nil, base64.StdEncoding.EncodeToString(l.text)
	}
	_ = p.json.Encode(l) // it can fail only as Flush will
}

func (p *linePrinter) printText(l *outLine) {
	prefix := p.prefix(l)
	if l.Lost > 0 {
		_, _ = io.WriteString(p.out, prefix)
		_, _ = io.WriteString(p.out, p.paint.paint(styleDim, fmt.Sprintf("[%d bytes are missing here]", l.Lost))+"\n")
		if len(l.text) == 0 {
			return
		}
	}
	_, _ = io.WriteString(p.out, prefix)
	p.write(l.text)
}

// write writes the text of a line and its end; an error sticks until Flush.
func (p *linePrinter) write(text []byte) {
	_, _ = p.out.Write(p.shown(text))
	_ = p.out.WriteByte('\n')
}

// shown is a text as it may go to where it goes.
func (p *linePrinter) shown(text []byte) []byte {
	if p.clean {
		return printable(text)
	}
	return text
}

const stampForm = "2006-01-02T15:04:05.000Z07:00"

func (p *linePrinter) prefix(l *outLine) string {
	mark := "| "
	if l.Stream == "stderr" {
		mark = p.paint.paint(styleRed, "!") + " "
	}
	p.buf = p.buf[:0]
	if p.stamps {
		p.buf = append(p.buf, p.paint.paint(styleDim, l.Time.Local().Format(stampForm))...)
		p.buf = append(p.buf, ' ')
	}
	p.buf = append(p.buf, p.paint.paint(p.color(l.Worker), fmt.Sprintf("%-*s ", p.width, l.Worker))...)
	p.buf = append(p.buf, mark...)
	return string(p.buf)
}
