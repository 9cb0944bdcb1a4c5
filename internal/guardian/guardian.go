package guardian

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// Options say what is to be guarded. Root and Run must be set; they stay the caller's
// and may be closed when Start has returned.
type Options struct {
	Root *cgroup.Dir // the directory that Run is in
	Run  *cgroup.Dir // what is killed and removed; it must not hold the caller

	// Inner are the names of the directories below Run, outermost first, such as "job"
	// and "0.1": each is in the one before. They need not exist yet. A run with others
	// is emptied all the same, but not removed.
	Inner []string

	// ForceProgram executes the program where a clone would do: for tests.
	ForceProgram bool
}

// Guardian is a running guardian. Its methods may be called from several goroutines.
// It guards until Stop; dropping it changes nothing.
type Guardian struct {
	handle *pidfd.Process
	memory []byte // that a clone works on; nil for a program

	mu      sync.Mutex // guards stopped, and orders Stops
	stopped bool
}

// Start starts a guardian for the calling process. From its return on, the end of
// this process is the end of the run. The guardian is a child that no wait for "any
// child" sees (but for one with __WALL); it sends no SIGCHLD.
//
// Where only a program can be the guardian and [Main] was not called, the error is
// [errors.ErrUnsupported].
func Start(o Options) (*Guardian, error) {
	var why error
	if !o.ForceProgram {
		g, err := startClone(o)
		if !errors.Is(err, errors.ErrUnsupported) {
			return g, err
		}
		why = err
	}
	g, err := startProgram(o)
	if err != nil {
		return nil, errors.Join(err, why)
	}
	return g, nil
}

// PID returns the number of the guardian, for printing.
func (g *Guardian) PID() int { return g.handle.PID() }

// Handle returns the pidfd of the guardian, with which it can be seen that somebody
// has killed it. It is valid until Stop.
func (g *Guardian) Handle() *pidfd.Process { return g.handle }

// Kill ends the guardian like Stop, but does not wait for that: for an owner that has
// seen its run empty and has something to do meanwhile. Stop must follow.
func (g *Guardian) Kill() error {
	err := g.handle.Signal(unix.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the guardian: %w", err)
	}
	return nil
}

// Stop ends the guardian and reaps it: the run is gone, or somebody else's business
// from now on. A second Stop does nothing.
func (g *Guardian) Stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil
	}
	if err := g.Kill(); err != nil {
		return err
	}
	if err := reap(g.handle.FD()); err != nil {
		return fmt.Errorf("reap the guardian, process %d: %w", g.PID(), err)
	}
	g.stopped = true
	if g.memory != nil {
		// Nobody runs on it any more.
		if err := unix.Munmap(g.memory); err != nil {
			return fmt.Errorf("free the guardian's memory: %w", err)
		}
	}
	return g.handle.Close()
}

// reap waits for the end of a child that was killed. A clone without an exit signal
// is seen only with __WALL.
func reap(fd int) error {
	for {
		err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WALL, nil)
		switch err {
		case unix.EINTR:
		case unix.ECHILD: // somebody in this program reaps whatever ends
			return nil
		default:
			return err
		}
	}
}

// self opens the pidfd of the calling process, which the guardian is to watch.
func self() (int, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return -1, fmt.Errorf("open the own pidfd: %w", err)
	}
	return fd, nil
}
