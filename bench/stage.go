package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stage is a thread of this program that starts commands. They see the mounts that the thread sees.
type stage struct {
	calls chan func()
	over  chan struct{} // closed when the thread has ended
}

// newStage starts the thread. What prepare does to it, such as leaving a namespace, is done to it alone.
func newStage(prepare func() error) (*stage, error) {
	s := &stage{calls: make(chan func()), over: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(s.over)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := prepare()
		ready <- err
		if err != nil {
			return
		}
		for call := range s.calls {
			call()
		}
	}()
	return s, <-ready
}

func (s *stage) close() {
	close(s.calls)
	<-s.over
}

// unified gives the calling thread mounts of its own, with cgroup v2 where programs look for it that know no other
// place: on a hybrid host it is in a subdirectory there.
func unified(mount string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leave the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount(mount, usualCgroup, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", mount, usualCgroup, err)
	}
	return nil
}

// usualCgroup is where cgroup v2 is mounted on a host that has no v1.
const usualCgroup = "/sys/fs/cgroup"

// firing is one command to start from a stage.
type firing struct {
	argv, env []string
	box       *box
	in, out   *os.File
	session   bool // start it in a session of its own
	limit     time.Duration
}

// fire runs a program to its end. The time goes from right before it is cloned until it was reaped.
func (s *stage) fire(f firing) (time.Duration, syscall.WaitStatus, error) {
	var wall time.Duration
	var status syscall.WaitStatus
	var err error
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		wall, status, err = f.run()
	}
	<-done
	return wall, status, err
}

func (f firing) run() (wall time.Duration, status syscall.WaitStatus, err error) {
	pidfd := -1
	attr := &syscall.ProcAttr{
		Dir: "/", Env: f.env, Files: []uintptr{f.in.Fd(), f.out.Fd(), f.out.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: f.session, UseCgroupFD: true, CgroupFD: f.box.fd, PidFD: &pidfd},
	}
	runtime.GC() // now, rather than while it is measured
	started := time.Now()
	pid, err := syscall.ForkExec(f.argv[0], f.argv, attr)
	if err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", f.argv[0], err)
	}
	defer unix.Close(pidfd)
	late := f.wait(pidfd)
	_, err = syscall.Wait4(pid, &status, 0, nil)
	wall = time.Since(started)
	if err := errors.Join(late, err); err != nil {
		return 0, 0, fmt.Errorf("run %s: %w", f.argv[0], err)
	}
	return wall, status, nil
}

// wait returns when the program has ended. One that takes too long is killed with everything in its box; the box is of
// no use after that.
func (f firing) wait(pidfd int) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), f.limit, fmt.Errorf("not done in %v", f.limit))
	defer cancel()
	err := waitPidfd(ctx, pidfd, unix.POLLIN)
	if err == nil {
		return nil
	}
	return errors.Join(err, f.box.write("cgroup.kill", "1"))
}
