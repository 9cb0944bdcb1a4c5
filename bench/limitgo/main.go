// Command limitgo is the Go floor of the benchmarks: the least that a supervisor of a pool must do, in plain Go.
//
//	limitgo DIR COUNT COMMAND...
//	limitgo oneshot ROOT FILE|- COMMAND...
//
// It does what limit.c does with cgroups: one cgroup DIR/run/<slot>.<start> per start of a worker, clone3 right into it,
// one epoll on all pidfds, a new cgroup per restart, and on SIGINT or SIGTERM one cgroup.kill, wait, remove. Its
// second form is the floor of one command, as in oneshot.c. It is not a supervisor to use: it has no limits, no
// back-off, no readiness and no registry.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopToken is the epoll data of the eventfd that asks for the stop; all other data are slots.
const stopToken = -1

type worker struct {
	pidfd int
	start int
}

type floor struct {
	dir, run int
	epoll    int
	stop     int
	command  []string
	attr     syscall.ProcAttr
	workers  []worker
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == oneshotMode {
		code, err := oneshot(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "limitgo:", err)
			os.Exit(1)
		}
		os.Exit(code)
	}
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: limitgo DIR COUNT COMMAND...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "limitgo:", err)
		os.Exit(1)
	}
}

func run(dir, count string, command []string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	f, err := open(dir, n, command)
	if err != nil {
		return err
	}
	for slot := range f.workers {
		if err := f.start(slot); err != nil {
			return err
		}
	}
	f.say("started")
	if err := f.loop(); err != nil {
		return err
	}
	return f.stopAll()
}

func open(dir string, n int, command []string) (*floor, error) {
	f := &floor{command: command, workers: make([]worker, n)}
	var err error
	if f.dir, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if f.run, err = makeCgroup(f.dir, "run"); err != nil {
		return nil, err
	}
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if f.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	fd := null.Fd()
	f.attr = syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{fd, fd, fd}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-signals
		// An eventfd takes 8 bytes in host order; any value but zero wakes the epoll.
		_, _ = unix.Write(f.stop, []byte{1, 0, 0, 0, 0, 0, 0, 1})
	}()
	return f, f.watch(f.stop, stopToken)
}

func (f *floor) watch(fd int, token int32) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: token}
	if err := unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("watch fd %d: %w", fd, err)
	}
	return nil
}

func (f *floor) leaf(slot int) string {
	return strconv.Itoa(slot) + "." + strconv.Itoa(f.workers[slot].start)
}

func (f *floor) start(slot int) error {
	w := &f.workers[slot]
	w.start++
	leaf, err := makeCgroup(f.run, f.leaf(slot))
	if err != nil {
		return err
	}
	attr := f.attr
	attr.Sys = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: leaf, PidFD: &w.pidfd}
	_, err = syscall.ForkExec(f.command[0], f.command, &attr)
	_ = unix.Close(leaf) // read-only; nothing to lose
	if err != nil {
		return fmt.Errorf("start %s: %w", f.command[0], err)
	}
	return f.watch(w.pidfd, int32(slot))
}

// loop restarts what exits and returns when the stop is asked for.
func (f *floor) loop() error {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for events: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if event.Fd == stopToken {
				return nil
			}
			if err := f.restart(int(event.Fd)); err != nil {
				return err
			}
		}
	}
}

func (f *floor) restart(slot int) error {
	if err := f.reap(slot); err != nil {
		return err
	}
	if err := f.remove(slot); err != nil {
		return err
	}
	return f.start(slot)
}

func (f *floor) reap(slot int) error {
	fd := f.workers[slot].pidfd
	for {
		err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED, nil)
		if err == nil {
			return unix.Close(fd)
		}
		if err != unix.EINTR {
			return fmt.Errorf("reap worker %d: %w", slot, err)
		}
	}
}

// remove removes the leaf of a worker that has exited, with whatever the worker left in it.
func (f *floor) remove(slot int) error {
	name := f.leaf(slot)
	err := unix.Unlinkat(f.run, name, unix.AT_REMOVEDIR)
	if err != unix.EBUSY {
		return err
	}
	leaf, err := unix.Openat(f.run, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open leaf %s: %w", name, err)
	}
	err = killCgroup(leaf)
	_ = unix.Close(leaf) // read-only; nothing to lose
	if err != nil {
		return err
	}
	return unix.Unlinkat(f.run, name, unix.AT_REMOVEDIR)
}

func (f *floor) stopAll() error {
	f.say("stopping")
	if err := killCgroup(f.run); err != nil {
		return err
	}
	for slot := range f.workers {
		if err := f.reap(slot); err != nil {
			return err
		}
		if err := f.remove(slot); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(f.dir, "run", unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove run: %w", err)
	}
	f.say("gone")
	return nil
}

func (f *floor) say(event string) {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // the monotonic clock is always there
	fmt.Printf("{\"event\":%q,\"workers\":%d,\"ns\":%d}\n", event, len(f.workers), t.Nano())
}

func makeCgroup(parent int, name string) (int, error) {
	if err := unix.Mkdirat(parent, name, 0o755); err != nil {
		return -1, fmt.Errorf("make cgroup %s: %w", name, err)
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup %s: %w", name, err)
	}
	return fd, nil
}

// killCgroup kills everything in a cgroup and returns when nothing is left. cgroup.events is rate limited by the
// kernel, hence the growing time-outs.
func killCgroup(dir int) error {
	kill, err := unix.Openat(dir, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open cgroup.kill: %w", err)
	}
	defer unix.Close(kill)
	if _, err := unix.Write(kill, []byte("1")); err != nil {
		return fmt.Errorf("write cgroup.kill: %w", err)
	}
	events, err := unix.Openat(dir, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open cgroup.events: %w", err)
	}
	defer unix.Close(events)
	text := make([]byte, 256)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		n, err := unix.Pread(events, text, 0)
		if err != nil {
			return fmt.Errorf("read cgroup.events: %w", err)
		}
		if strings.Contains(string(text[:n]), "populated 0") {
			return nil
		}
		timeout := unix.NsecToTimespec(wait.Nanoseconds())
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}, &timeout, nil) // re-read in any case
	}
}
