package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	jobGroup   = cgroupRoot + "/program"
)

// controllers lists the controllers that a cgroup has.
func controllers(dir string) ([]string, error) {
	text, err := os.ReadFile(dir + "/cgroup.controllers")
	return strings.Fields(string(text)), err
}

// enableControllers switches every controller on for the cgroups below the root,
// as systemd does where all is delegated.
func enableControllers() error {
	have, err := controllers(cgroupRoot)
	if err != nil {
		return err
	}
	for _, c := range have {
		if err := writeFile(cgroupRoot+"/cgroup.subtree_control", "+"+c); err != nil {
			return fmt.Errorf("enable the controller %s: %w", c, err)
		}
	}
	return nil
}

// writeFile writes without the runtime's poller, which parks for ever where a
// cgroup file answers EAGAIN.
func writeFile(name, text string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	_, err = unix.Write(fd, []byte(text))
	return errors.Join(err, unix.Close(fd))
}

// runProgram runs one program in a cgroup of its own, reaping every orphan
// meanwhile, and ends what it left.
func runProgram(p Program, env []string, out io.Writer) (*Exit, []string, error) {
	if err := os.Mkdir(jobGroup, 0o755); err != nil {
		return nil, nil, err
	}
	group, err := unix.Open(jobGroup, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", jobGroup, err)
	}
	began := time.Now()
	exit, left, err := runChild(p, env, out, group)
	_ = unix.Close(group) // only named a place
	if exit != nil {
		exit.Seconds = time.Since(began).Seconds()
	}
	return exit, left, errors.Join(err, cleanUp())
}

// guestEnv is what programs see.
func guestEnv(more ...string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb",
	}, more...)
}

func runChild(p Program, env []string, out io.Writer, group int) (*Exit, []string, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = null.Close() }() // nothing to lose
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = r.Close() }() // read to its end, or given up
	pidfd := -1
	pid, _, err := syscall.StartProcess(p.Path, append([]string{p.Path}, p.Args...), &syscall.ProcAttr{
		Dir:   p.Dir,
		Env:   guestEnv(append(slices.Clone(env), p.Env...)...),
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{PidFD: &pidfd, UseCgroupFD: true, CgroupFD: group, Setsid: true},
	})
	_ = w.Close() // the child has it
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	defer func() { _ = unix.Close(pidfd) }() // only held the process
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, r) // the host sees that output is missing
		close(copied)
	}()
	exit := watch(pid, pidfd, p.limit())
	var left []string
	within(100*time.Millisecond, func() bool { // to end by themselves
		left = living()
		return len(left) == 0
	})
	killAll()
	select {
	case <-copied:
	case <-time.After(10 * time.Second): // a process that does not die has it open
	}
	return exit, left, nil
}

// watch waits for the end of the child and enforces its limit.
func watch(pid, pidfd int, limit time.Duration) *Exit {
	var late atomic.Bool
	warn := time.AfterFunc(limit, func() {
		late.Store(true)
		_ = unix.PidfdSendSignal(pidfd, unix.SIGQUIT, nil, 0) // a Go program says where it is
	})
	defer warn.Stop()
	kill := time.AfterFunc(limit+10*time.Second, killAll)
	defer kill.Stop()
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil) // PID 1 reaps everybody's orphans
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &Exit{Code: -1, Signal: err.Error(), Late: late.Load()}
		}
		if got != pid {
			continue
		}
		if status.Signaled() {
			return &Exit{Code: -1, Signal: unix.SignalName(status.Signal()), Late: late.Load()}
		}
		return &Exit{Code: status.ExitStatus(), Late: late.Load()}
	}
}

// processes lists the numbers of all processes but this one and the kernel's.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Kernel threads are children of thread 2.
		if ppid := statusField(pid, "PPid:"); pid != 2 && ppid != "2" && ppid != "" {
			pids = append(pids, pid)
		}
	}
	return pids
}

func statusField(pid int, key string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// killAll kills every process but this one. Frozen ones die on cgroup v2, too.
func killAll() {
	for _, pid := range processes() {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		// Every process here is to die: it does not matter whose number it is by now.
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_ = unix.Close(fd)
	}
}

// living reaps what has ended and names what has not.
func living() []string {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var names []string
	for _, pid := range processes() {
		names = append(names, fmt.Sprintf("%d (%s, %s)", pid, statusField(pid, "Name:"), statusField(pid, "State:")))
	}
	return names
}

// cleanUp ends what is left and removes all cgroups.
func cleanUp() error {
	var left []string
	var failed error
	ok := within(10*time.Second, func() bool {
		killAll()
		left = living()
		failed = removeGroups()
		return len(left) == 0 && failed == nil
	})
	if !ok && failed == nil {
		failed = fmt.Errorf("cannot be killed: %s", strings.Join(left, ", "))
	}
	return failed
}

// removeGroups removes every cgroup, deepest first.
func removeGroups() error {
	var dirs []string
	err := filepath.WalkDir(cgroupRoot, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && path != cgroupRoot {
			dirs = append(dirs, path)
		}
		return nil // it may go away meanwhile
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if rmErr := unix.Rmdir(dir); rmErr != nil && !errors.Is(rmErr, unix.ENOENT) {
			err = fmt.Errorf("remove %s: %w", dir, rmErr)
		}
	}
	return err
}
