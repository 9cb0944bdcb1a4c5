package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lane is a wrapper with the cell in which it works.
type lane struct {
	wrapper
	stage     *stage
	cell      *cell
	null, log *os.File
	session   bool // commands get a session of their own, to be without a terminal
}

func (l *lane) open(b *bench) error {
	var err error
	if l.cell, err = b.newCell(); err != nil {
		return err
	}
	if l.null, err = os.Open(os.DevNull); err != nil {
		return err
	}
	l.log, err = os.OpenFile(l.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	return err
}

func (l *lane) logFile() string {
	return filepath.Join(l.cell.dir, "log")
}

// close works also on a half-open lane.
func (l *lane) close(ctx context.Context) error {
	for _, f := range []*os.File{l.null, l.log} {
		if f != nil {
			_ = f.Close() // what was said is for error messages only
		}
	}
	c := l.cell
	l.null, l.log, l.cell = nil, nil, nil
	if c == nil {
		return nil
	}
	return c.close(ctx)
}

// fire runs one command in the lane and sees to it that it ended with the right code and left nothing.
func (l *lane) fire(ctx context.Context, command []string, code int) (shot, error) {
	var s shot
	if l.cell == nil || l.log == nil {
		return s, fmt.Errorf("cell: %w", errAbsent)
	}
	argv, err := l.argv(l.cell, command)
	if err != nil {
		return s, err
	}
	before, err := l.cell.box.cpu()
	if err != nil {
		return s, err
	}
	var status syscall.WaitStatus
	s.Wall, status, err = l.stage.fire(firing{
		argv: argv, env: append(shotEnv(), l.env...), box: l.cell.sup, in: l.null, out: l.log,
		session: l.session, limit: 20 * time.Second,
	})
	if err == nil && (!status.Exited() || status.ExitStatus() != code) {
		err = fmt.Errorf("%s, want code %d", ending(status), code)
	}
	if err != nil {
		return s, fmt.Errorf("%w; its last words: %s", err, tailOf(l.logFile()))
	}
	if err := l.checkClean(ctx); err != nil {
		return s, err
	}
	after, err := l.cell.box.cpu()
	s.CPU = after - before
	return s, err
}

// onTerminal tells whether this program has a controlling terminal. Without one no session of their own is needed to
// keep commands from it; a session is a group of its own to the scheduler (autogroup), and whoever needs two processes
// would be measured mostly by what else runs on the machine.
func onTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	_ = tty.Close() // was only looked for
	return true
}

// ending says in words how a process ended.
func ending(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "ended by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("ended with code %d", status.ExitStatus())
}

// checkClean is the error of a command of which something is left.
func (l *lane) checkClean(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.cell.box.waitEmpty(short); err != nil {
		return err
	}
	n, err := l.cell.box.cgroups()
	if err == nil && n > cellCgroups {
		err = fmt.Errorf("left %d cgroups", n-cellCgroups)
	}
	return err
}

// shotEnv is the environment that all wrappers get.
func shotEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/", "LC_ALL=C"}
}
