package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that the benchmark started, held by its pidfd.
type process struct {
	pid   int // for /proc and for printing
	pidfd int
	log   string
	done  chan struct{}    // closed when it was reaped
	state *os.ProcessState // after done
	ended time.Time        // after done
}

// startIn starts a program right inside a box; its output goes to the end of the file log.
func startIn(b *box, argv, env []string, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	p := &process{log: log, done: make(chan struct{})}
	started, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Env:   env,
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: b.fd, PidFD: &p.pidfd},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	p.pid = started.Pid
	go func() {
		defer close(p.done)
		p.state, _ = started.Wait() // nil when somebody else reaped it; then nothing is known
		p.ended = time.Now()
	}()
	return p, nil
}

func (p *process) signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns when the process has ended.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", p.pid, context.Cause(ctx))
	}
}

// close gives the pidfd back; the process must be dead or about to be killed with its box.
func (p *process) close() {
	<-p.done
	_ = unix.Close(p.pidfd) // nothing to lose
}

// tail is the end of what the process said, for error messages.
func (p *process) tail() string {
	return tailOf(p.log)
}

func tailOf(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// handle opens a pidfd of a process that reported itself. The caller closes it.
func handle(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	return fd, nil
}

// alive tells whether the process behind a pidfd still runs; a zombie does not.
func alive(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 0
		}
	}
}

// waitPidfd returns when the process behind a pidfd shows one of the events: POLLIN is exited, POLLHUP is reaped, so
// that the number is free again.
func waitPidfd(ctx context.Context, pidfd int, events int16) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: events & unix.POLLIN}}
	for ctx.Err() == nil {
		_, err := unix.Poll(fds, 20)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("poll pidfd: %w", err)
		}
		if fds[0].Revents&events != 0 {
			return nil
		}
	}
	return fmt.Errorf("wait for the end of a process: %w", context.Cause(ctx))
}

// usage is what a set of processes holds.
type usage struct {
	Processes int
	PSS       int64 // bytes
	Threads   int
	FDs       int
	Switches  int64 // context switches of the threads that live
}

// measure adds up what /proc says about processes. One that ends meanwhile is left out.
func measure(pids []int) (usage, error) {
	var u usage
	for _, pid := range pids {
		one, err := measureOne(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return u, err
		}
		u.Processes++
		u.PSS += one.PSS
		u.Threads += one.Threads
		u.FDs += one.FDs
		u.Switches += one.Switches
	}
	return u, nil
}

func measureOne(pid int) (usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	var u usage
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		return u, err
	}
	u.PSS = field(rollup, "Pss:") << 10
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return u, err
	}
	u.FDs = len(fds)
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return u, err
	}
	for _, task := range tasks {
		status, err := os.ReadFile(dir + "/task/" + task.Name() + "/status")
		if err != nil {
			continue // the thread has ended
		}
		u.Threads++
		u.Switches += field(status, "voluntary_ctxt_switches:") + field(status, "nonvoluntary_ctxt_switches:")
	}
	return u, nil
}

// field is the number after a name at the start of a line, 0 when there is none.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		rest, found := bytes.CutPrefix(line, []byte(name))
		if !found {
			continue
		}
		words := bytes.Fields(rest)
		if len(words) == 0 {
			return 0
		}
		n, err := strconv.ParseInt(string(words[0]), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

// pause waits, or until ctx is over.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
