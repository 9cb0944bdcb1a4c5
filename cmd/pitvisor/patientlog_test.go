package main

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// fillPipe writes to a pipe until it takes no more.
func fillPipe(t *testing.T, w *os.File) {
	t.Helper()
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	line := bytes.Repeat([]byte{'x'}, 100)
	line[99] = '\n'
	for {
		if _, err := unix.Write(fd, line); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

// Nobody reads the supervisor's own log: workers start and are stopped all the same, and
// whoever reads it later is told of what is missing.
func TestALogThatNobodyReadsStopsNothing(t *testing.T) {
	w := newWorld(t)
	config := w.config(sleepers("web", 2))
	r, out := pipe(t)
	defer func() { _ = r.Close() }()
	fillPipe(t, out)
	up := linuxtest.Command{Args: w.argv("up", "-f", config), Stderr: out}.Start(t)
	_ = out.Close() // it has its own
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, stderr, code := w.tool("wait", "--timeout", "60s")
		return code == exitOK, stderr
	})
	read := make(chan string)
	go func() {
		text, _ := io.ReadAll(r)
		read <- string(text)
	}()
	if err := up.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	linuxtest.ExitCause(t, up.Wait(t, patience), exitOK)
	if text := <-read; !strings.Contains(text, `"lost_before":`) || !strings.Contains(text, "stopped clean") {
		t.Errorf("the log does not tell of lost messages and of the end:\n%.500s", strings.TrimLeft(text, "x\n"))
	}
}

// A message that was cut off is ended, and the first one after it counts the lost ones.
func TestPatientLog(t *testing.T) {
	r, out := pipe(t)
	defer func() { _ = r.Close() }()
	fillPipe(t, out)
	if _, err := io.ReadFull(r, make([]byte, logPiece)); err != nil { // room for one piece
		t.Fatal(err)
	}
	handler := patient(out, func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }).(patientLog)
	handler.out.patience = 1
	log := slog.New(handler.WithAttrs([]slog.Attr{slog.Int("a", 1)}))
	log.Info("long", "text", strings.Repeat("y", 2*logPiece))
	log.Info("lost")
	if handler.out.lost != 2 || !handler.out.torn {
		t.Fatalf("lost %d, torn %v, want 2 lost and the first torn", handler.out.lost, handler.out.torn)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			if line := s.Text(); strings.HasPrefix(line, "time=") {
				lines <- line
			}
		}
	}()
	linuxtest.Wait(t, patience, func() (bool, string) {
		return handler.out.takes(time.Now()), "the pipe is full"
	})
	log.Info("taken")
	_ = out.Close() // the end of what is read
	var got []string
	for line := range lines {
		got = append(got, line)
	}
	if len(got) != 2 || !strings.HasSuffix(got[0], "yyy") || !strings.HasSuffix(got[1], "msg=taken a=1 lost_before=2") {
		t.Errorf("read %q", got)
	}
}
