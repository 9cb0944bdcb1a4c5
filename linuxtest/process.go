package linuxtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Command says how to start a [Process]. Only Args must be set.
type Command struct {
	Args   []string // Args[0] is the path
	Env    []string // nil is the environment of the test
	Dir    string   // "" is the working directory of the test
	Cgroup string   // directory of the cgroup to be born in; "" is the test's own
	PID    int      // the number it must get; 0 is any
	Stdin  *os.File // nil is /dev/null, and so for the next two
	Stdout *os.File
	Stderr *os.File
	Extra  []*os.File // become descriptors 3 and up; not together with PID

	cloneflags uintptr
	beside     *Process // whose namespaces it is started in; nil is our own
}

// Process is a child of the test, held by a pidfd.
type Process struct {
	pid    int
	fd     int
	reaped bool
	status unix.WaitStatus
}

// Start starts a program that is killed and reaped at the end of the test.
func Start(tb testing.TB, argv ...string) *Process {
	tb.Helper()
	return Command{Args: argv}.Start(tb)
}

// Start starts the program. At the end of the test it is killed and reaped. With
// PID set the kernel gives it exactly that number: the test is skipped without
// the privilege and fails when the number is taken.
func (c Command) Start(tb testing.TB) *Process {
	tb.Helper()
	p, err := c.start()
	needPID(tb, err)
	if err != nil {
		tb.Fatalf("start %q: %v", c.Args, err)
	}
	tb.Cleanup(func() { p.end(tb) })
	return p
}

func (c Command) start() (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	defer func() { _ = null.Close() }() // nothing was written
	files := [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}
	for i, f := range []*os.File{c.Stdin, c.Stdout, c.Stderr} {
		if f != nil {
			files[i] = int(f.Fd())
		}
	}
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	group := -1
	if c.Cgroup != "" {
		group, err = unix.Open(c.Cgroup, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open the cgroup %s: %w", c.Cgroup, err)
		}
		defer func() { _ = unix.Close(group) }() // only named a place
	}
	if c.PID != 0 && (len(c.Extra) > 0 || c.cloneflags != 0 || c.beside != nil) {
		return nil, errors.New("a chosen PID together with Extra or other namespaces")
	}
	if c.PID != 0 && !clone3Refused() {
		return cloneAs(c, env, files, group)
	}
	p := &Process{fd: -1}
	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   env,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys:   &syscall.SysProcAttr{PidFD: &p.fd, UseCgroupFD: group >= 0, CgroupFD: max(group, 0), Cloneflags: c.cloneflags},
	}
	for _, f := range c.Extra {
		attr.Files = append(attr.Files, f.Fd())
	}
	if c.PID != 0 {
		return p, p.startAs(c, attr)
	}
	if p.pid, err = startBeside(c.beside, c.Args, attr); err != nil {
		return nil, err
	}
	return p, nil
}

// PID returns its number, for printing and for giving it to another process.
func (p *Process) PID() int { return p.pid }

// FD returns the pidfd, valid until the end of the test.
func (p *Process) FD() int { return p.fd }

// Signal sends a signal through the pidfd. os.ErrProcessDone when it was reaped.
func (p *Process) Signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Kill ends it with SIGKILL, waits and reaps it.
func (p *Process) Kill(tb testing.TB) {
	tb.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Fatalf("kill process %d: %v", p.pid, err)
	}
	p.Wait(tb, 10*time.Second)
}

// Alive says whether it has not exited. A zombie is not alive.
func (p *Process) Alive() bool { return !p.reaped && !readable(p.fd, 0) }

// Wait waits until it exits, reaps it and says how it ended. It fails the test
// when that takes longer than within.
func (p *Process) Wait(tb testing.TB, within time.Duration) unix.WaitStatus {
	tb.Helper()
	status, ok, err := p.wait(within)
	if err != nil {
		tb.Fatalf("wait for process %d: %v", p.pid, err)
	}
	if !ok {
		tb.Fatalf("still alive after %v: process %s", within, readProc(p.pid))
	}
	return status
}

func (p *Process) wait(within time.Duration) (unix.WaitStatus, bool, error) {
	if p.reaped {
		return p.status, true, nil
	}
	if !readable(p.fd, within) {
		return 0, false, nil
	}
	// A zombie keeps its number and only we may reap it, so wait4 by number
	// cannot meet a stranger; waitid would not give the raw status.
	for {
		_, err := unix.Wait4(p.pid, &p.status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("reap process %d: %w", p.pid, err)
		}
		p.reaped = true
		return p.status, true, nil
	}
}

// end is the clean-up of Start. A second call does nothing.
func (p *Process) end(tb testing.TB) {
	tb.Helper()
	if p.fd < 0 {
		return
	}
	if !p.reaped {
		_ = p.Signal(unix.SIGKILL) // it may have exited just now
		if _, ok, err := p.wait(10 * time.Second); err != nil || !ok {
			tb.Errorf("process %s does not end after SIGKILL: %v", readProc(p.pid), err)
		}
	}
	if err := unix.Close(p.fd); err != nil {
		tb.Errorf("close the pidfd of process %d: %v", p.pid, err)
	}
	p.fd = -1
}

// readable says whether fd becomes readable within the time.
func readable(fd int, within time.Duration) bool {
	deadline := time.Now().Add(within)
	for {
		left := max(time.Until(deadline), 0)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		// Rounded up, or the last millisecond is spent polling.
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if n > 0 {
			return true
		}
		// The Go runtime interrupts system calls; anything else ends the wait.
		if (err != nil && !errors.Is(err, unix.EINTR)) || time.Now().After(deadline) || left == 0 {
			return false
		}
	}
}

// Output starts the program, waits for its end and returns what it wrote to its
// standard output. It fails the test when the exit code is not 0.
func (c Command) Output(tb testing.TB, within time.Duration) string {
	tb.Helper()
	out, err := os.CreateTemp(tb.TempDir(), "out")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = out.Close() }() // read below
	c.Stdout = out
	status := c.Start(tb).Wait(tb, within)
	data, err := os.ReadFile(out.Name())
	if err != nil {
		tb.Fatal(err)
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		tb.Fatalf("%q: wait status %#x, stdout %q", c.Args, uint32(status), data)
	}
	return string(bytes.TrimSpace(data))
}
