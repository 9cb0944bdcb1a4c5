package confine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is what is run. Only Args must be set.
type Program struct {
	Args  []string
	Env   []string // nil is the caller's
	Dir   string   // as it is seen there; "" is "/"
	Limit time.Duration
}

// Result is how a program ended.
type Result struct {
	Status unix.WaitStatus
	Late   bool          // it ran into its limit
	Left   []string      // processes that outlived it
	Took   time.Duration // with all that was needed before and after
}

// grace is how long a program that ran into its limit may take to say where it is.
const grace = 10 * time.Second

// Run runs a program in a container of its own to its end. Both its outputs go to out.
// A program that fails is no error. One that runs into its limit gets SIGQUIT, so that
// a Go program prints its goroutines, and is killed ten seconds later.
func (c Container) Run(ctx context.Context, p Program, out io.Writer) (Result, error) {
	began := time.Now()
	group, err := makeGroup("container")
	if err != nil {
		return Result{}, err
	}
	r, err := c.run(ctx, group, p, out)
	err = errors.Join(err, group.remove())
	r.Took = time.Since(began)
	return r, err
}

func (c Container) run(ctx context.Context, group *group, p Program, out io.Writer) (Result, error) {
	if c.Entry {
		return c.runEntry(ctx, group, p, out)
	}
	lifeline, alive, err := os.Pipe() // its end tells the container that we are gone
	if err != nil {
		return Result{}, err
	}
	defer func() { _, _ = lifeline.Close(), alive.Close() }() // nothing is written
	report, theirs, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = report.Close() }() // only read
	c.Files, c.Dir, c.Lifeline, c.Report = 0, p.Dir, 3, 4
	argv, err := c.Argv([]string{enterName}, p.Args)
	if err != nil {
		return Result{}, errors.Join(err, theirs.Close())
	}
	r, err := group.container(p, argv, lifeline, theirs).run(ctx, group, out)
	if err != nil {
		return r, err
	}
	text, err := io.ReadAll(report)
	if err != nil || len(text) == 0 {
		return r, err // it was killed, or could not be made and has said why
	}
	var o outcome
	if err := json.Unmarshal(text, &o); err != nil {
		return r, fmt.Errorf("read the report of the container: %w", err)
	}
	r.Status, r.Left = unix.WaitStatus(o.Status), o.Left
	return r, nil
}

// runEntry is run for a program that is PID 1 itself. Nothing can outlive it.
func (c Container) runEntry(ctx context.Context, group *group, p Program, out io.Writer) (Result, error) {
	c.Files, c.Dir = 0, p.Dir
	argv, err := c.Argv([]string{enterName}, p.Args)
	if err != nil {
		return Result{}, err
	}
	return group.container(p, argv).run(ctx, group, out)
}

// container is the program on its way into a container in the group.
func (g *group) container(p Program, argv []string, extra ...*os.File) started {
	p.Dir = "" // the host's, where it begins
	return started{
		program: p, path: "/proc/self/exe", argv: argv, extra: extra,
		sys: &syscall.SysProcAttr{Cloneflags: Cloneflags, UseCgroupFD: true, CgroupFD: g.fd, Setsid: true},
	}
}

// started is a program on its way.
type started struct {
	program Program
	path    string
	argv    []string
	extra   []*os.File // descriptors 3 and on; closed by run
	sys     *syscall.SysProcAttr
}

// run starts the program and waits until it and everything in the group has ended.
func (s started) run(ctx context.Context, group *group, out io.Writer) (r Result, err error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer func() { _ = reader.Close() }() // read to its end, or given up
	pid, pidfd, err := s.start(writer)
	for _, f := range append(s.extra, writer) {
		_ = f.Close() // the program has it
	}
	if err != nil {
		return r, fmt.Errorf("start %q: %w", s.argv, err)
	}
	defer func() { _ = unix.Close(pidfd) }() // only held the process
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, reader) // a writer that fails is the caller's
		close(copied)
	}()
	r.Late, err = watch(ctx, pidfd, s.program.Limit, group)
	if err != nil {
		return r, err
	}
	if _, err := wait4(pid, &r.Status); err != nil {
		return r, fmt.Errorf("reap process %d: %w", pid, err)
	}
	r.Left = group.settle()
	if err := group.kill(); err != nil {
		return r, err
	}
	select {
	case <-copied:
	case <-time.After(grace): // a process elsewhere has it open
	}
	return r, ctx.Err()
}

// start starts the program with both its outputs to one file.
func (s started) start(output *os.File) (pid, pidfd int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, -1, err
	}
	defer func() { _ = null.Close() }() // nothing to lose
	files := []uintptr{null.Fd(), output.Fd(), output.Fd()}
	for _, f := range s.extra {
		files = append(files, f.Fd())
	}
	pidfd = -1
	s.sys.PidFD = &pidfd
	env := s.program.Env
	if env == nil {
		env = os.Environ()
	}
	attr := &syscall.ProcAttr{Dir: cmp.Or(s.program.Dir, "/"), Env: env, Files: files, Sys: s.sys}
	pid, _, err = syscall.StartProcess(s.path, s.argv, attr)
	return pid, pidfd, err
}

// wait4 reaps one child, which is a zombie.
func wait4(pid int, status *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, status, 0, nil)
		if err != unix.EINTR {
			return got, err
		}
	}
}

// watch waits for the end of a process and sees to it that it comes.
func watch(ctx context.Context, pidfd int, limit time.Duration, group *group) (bool, error) {
	var late atomic.Bool
	kill := func() { _ = group.kill() } // remove says what is still there
	stop := context.AfterFunc(ctx, kill)
	defer stop()
	if limit > 0 {
		warn := time.AfterFunc(limit, func() {
			late.Store(true)
			_ = unix.PidfdSendSignal(pidfd, unix.SIGQUIT, nil, 0) // a Go program says where it is
		})
		defer warn.Stop()
		end := time.AfterFunc(limit+grace, kill)
		defer end.Stop()
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return late.Load(), nil
		}
		if err != unix.EINTR {
			return late.Load(), fmt.Errorf("wait for the program: %w", err)
		}
	}
}

// Exit describes the end of a program: "exit code 1", "ended by SIGKILL".
func (r Result) Exit() string {
	if r.Status.Signaled() {
		return "ended by " + unix.SignalName(r.Status.Signal())
	}
	return fmt.Sprintf("exit code %d", r.Status.ExitStatus())
}

// environ is what programs of an ordinary user see: of the caller's nothing that
// points into the caller's own places.
func environ(home, tmp string, more []string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "TMPDIR=" + tmp, "SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb",
		"GOCACHE=" + home + "/.cache/go-build", "GOPATH=" + home + "/go", "GOFLAGS=" + os.Getenv("GOFLAGS"),
	}
	for _, one := range more {
		name, _, _ := strings.Cut(one, "=")
		env = slices.DeleteFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
	}
	return append(env, more...)
}
