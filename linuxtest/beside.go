package linuxtest

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// startBeside starts a program in the namespaces of another process, all but the
// cgroup's: where namespaces are borders of delegation (the mount option nsdelegate)
// nothing can be started across one. See modeBeside. It is our child all the same;
// nil is our own namespaces.
func startBeside(other *Process, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	if other == nil {
		pid, err = StartProcess(args[0], args, attr)
		return pid, err
	}
	onThread(func() {
		if err = joinNamespaces(other); err == nil {
			pid, err = StartProcess(args[0], args, attr)
		}
	})
	return pid, err
}

// joinNamespaces changes the calling thread for good.
func joinNamespaces(other *Process) error {
	// Our own child, not reaped: the number is its own.
	proc := fmt.Sprintf("/proc/%d/", other.pid)
	// The top of a mount namespace need not be the root of those who live there.
	root, err := unix.Open(proc+"root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %sroot: %w", proc, err)
	}
	defer func() { _ = unix.Close(root) }() // a path; nothing to lose
	// The kernel wants a thread that shares its directories with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the directories: %w", err)
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"pid", unix.CLONE_NEWPID}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}} {
		if err := joinNamespace(proc+"ns/"+ns.name, ns.kind); err != nil {
			return err
		}
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter the root of process %d: %w", other.pid, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("take the root of process %d: %w", other.pid, err)
	}
	return nil
}

func joinNamespace(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // the thread is there by now
	if err := unix.Setns(fd, kind); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return nil
}

// onThread runs f on a thread that ends afterwards, whatever f has done to it. It
// is never the main thread, which Go cannot end.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// While this goroutine holds the main thread the next one gets another.
		onThread(f)
		runtime.UnlockOSThread()
	}()
	<-done
}
