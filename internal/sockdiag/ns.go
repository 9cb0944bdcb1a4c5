package sockdiag

import (
	"fmt"
	"os"
	"runtime"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"golang.org/x/sys/unix"
)

// NS is the network namespace of a process; nil stands for the caller's own.
type NS struct{ fd int }

// NSOf returns the namespace of the process, nil when it is the calling thread's.
// It fails with [os.ErrPermission] when it may not be looked at.
func NSOf(p *procfs.Process) (*NS, error) {
	fd, err := p.Open("ns/net")
	if err != nil {
		return nil, err
	}
	ns := &NS{fd: fd}
	var theirs, ours unix.Stat_t
	err = unix.Fstat(fd, &theirs)
	if err == nil {
		err = unix.Stat("/proc/thread-self/ns/net", &ours)
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("look at the network namespace of process %d: %w", p.PID(), err)
	}
	if theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		ns.Close()
		return nil, nil
	}
	return ns, nil
}

// Close gives the descriptor back.
func (ns *NS) Close() {
	if ns != nil {
		_ = unix.Close(ns.fd) // a name; nothing to lose
	}
}

// Do runs f on a thread that is in the namespace. What f makes (sockets,
// processes) belongs there for good; f must do it on its own goroutine.
func (ns *NS) Do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error)
	go onThrowAway(func() {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter a network namespace: %w", err)
			return
		}
		done <- f()
	})
	return <-done
}

// onThrowAway runs f on a thread that ends with the goroutine, so that no other
// goroutine can wake up in the wrong namespace. The main thread cannot end, and would
// show the whole process in that namespace: it is held until f is done elsewhere.
func onThrowAway(f func()) {
	runtime.LockOSThread() // and never unlocked, by which the thread ends
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go onThrowAway(func() {
		defer close(done)
		f()
	})
	<-done
	runtime.UnlockOSThread()
}
