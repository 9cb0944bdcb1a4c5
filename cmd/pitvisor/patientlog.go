package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// logPiece is what a pipe takes without waiting once it takes anything: a page.
const logPiece = 4096

// patientLog is a log to a pipe or a terminal that may stop taking anything, as nobody reads
// it. Workers are not to wait for that: a message that has waited for logPatience is lost,
// the ones after it do not wait, and the first one that is taken again says how many.
type patientLog struct {
	slog.Handler
	out *patientWriter
}

// patient makes the log of a file that may not take everything. Other writers never wait.
func patient(w io.Writer, handler func(io.Writer) slog.Handler) slog.Handler {
	file, ok := bare(w).(*os.File)
	if !ok {
		return handler(w)
	}
	out := &patientWriter{file: file, patience: logPatience}
	return patientLog{handler(out), out}
}

func (p patientLog) Handle(ctx context.Context, r slog.Record) error {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	if p.out.lost > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("lost_before", p.out.lost))
	}
	return p.Handler.Handle(ctx, r)
}

func (p patientLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return patientLog{p.Handler.WithAttrs(attrs), p.out}
}

func (p patientLog) WithGroup(name string) slog.Handler {
	return patientLog{p.Handler.WithGroup(name), p.out}
}

// patientWriter writes messages, each with a call of its own, by one goroutine at a time.
type patientWriter struct {
	file     *os.File
	patience time.Duration

	mu   sync.Mutex // held by who logs
	lost int        // messages that have waited in vain since the last one that was written
	torn bool       // the last one was not written to its end
}

func (p *patientWriter) Write(message []byte) (int, error) {
	rest := message
	if p.torn {
		rest = append([]byte{'\n'}, rest...)
	}
	patience := p.patience
	if p.lost > 0 {
		patience = 0
	}
	until := time.Now().Add(patience)
	for first := true; len(rest) > 0; first = false {
		if !p.takes(until) {
			p.lost++
			p.torn = p.torn || !first
			return 0, os.ErrDeadlineExceeded
		}
		n, err := p.file.Write(rest[:min(len(rest), logPiece)])
		if err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	p.lost, p.torn = 0, false
	return len(message), nil
}

// takes waits until the file takes something, or has an error to tell.
func (p *patientWriter) takes(until time.Time) bool {
	raw, err := p.file.SyscallConn() // Fd would change the mode of a file that others have, too
	if err != nil {
		return true
	}
	full := false
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		for {
			n, err := unix.Poll(fds, int(max(0, time.Until(until)).Milliseconds()))
			if err != unix.EINTR {
				full = err == nil && n == 0
				return
			}
		}
	})
	return !full
}
