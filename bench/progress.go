package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress tells a person what is going on: one line that is written over on a terminal, one line per step elsewhere.
type progress struct {
	out      *os.File
	terminal bool
	started  time.Time
	name     string
}

func newProgress(out *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &progress{out: out, terminal: err == nil, started: time.Now()}
}

func (p *progress) section(name string) {
	p.name = name
	p.step("")
}

// step shows what is being done now; the next one replaces it.
func (p *progress) step(format string, args ...any) {
	text := fmt.Sprintf("%7s  %-11s  %s", time.Since(p.started).Round(time.Second), p.name, fmt.Sprintf(format, args...))
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%.110s", text)
		return
	}
	fmt.Fprintln(p.out, text)
}

// line shows something that stays.
func (p *progress) line(format string, args ...any) {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}
