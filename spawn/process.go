package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// ErrRunning says that a process has not exited.
var ErrRunning = errors.New("process is still running")

// Process is a child of this process. Its methods may be called from several
// goroutines.
type Process struct {
	handle   *pidfd.Process
	byHelper bool // started with the helper
	autokill bool // reaped by the kernel itself, at once

	mu       sync.Mutex // guards what follows, and the reaping
	executed bool       // known to have executed its program
	reaped   bool
	exit     Exit
}

// PID returns the number of the process, for printing. The number is its own
// until it is reaped.
func (p *Process) PID() int { return p.handle.PID() }

// Handle returns the pidfd of the process, the only one this package holds. It
// belongs to p and is closed by [Process.Close].
func (p *Process) Handle() *pidfd.Process { return p.handle }

// Autokill says whether the kernel kills the process when this program ends: see
// [Cmd.Autokill]. Such a process is never a zombie, and gives no SIGCHLD at its end.
func (p *Process) Autokill() bool { return p.autokill }

// Signal sends a signal to the process alone. See [pidfd.Process.Signal].
func (p *Process) Signal(sig unix.Signal) error { return p.handle.Signal(sig) }

// Reap collects the exit of a process whose pidfd has become readable, and ends
// its zombie. It never blocks: [ErrRunning] says that it was too early. Later
// calls return the same again.
//
// If somebody else in this program has reaped the child the kernel still knows
// the exit, from Linux 6.15.
func (p *Process) Reap() (Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return p.exit, nil
	}
	exit, err := p.reap()
	if err != nil {
		return Exit{}, fmt.Errorf("reap process %d: %w", p.PID(), err)
	}
	p.exit, p.reaped = exit, true
	tracked.forget(p)
	return exit, nil
}

func (p *Process) reap() (Exit, error) {
	if p.autokill {
		return p.reapedByKernel()
	}
	fd := p.handle.FD()
	// The zombie stays until its flags were read: they tell if it ever ran.
	info, err := waitPidfd(fd, unix.WNOWAIT)
	if err == unix.ECHILD {
		return p.stolenExit()
	}
	if err != nil {
		return Exit{}, err
	}
	if info.pid == 0 {
		return Exit{}, ErrRunning
	}
	exit := info.exit()
	if exit.Signal != 0 && !p.executed {
		exit.BeforeExec = p.diedBeforeExec()
	}
	if _, err := waitPidfd(fd, 0); err != nil {
		return Exit{}, err
	}
	return exit, nil
}

// stolenExit asks the pidfd itself.
func (p *Process) stolenExit() (Exit, error) {
	status, err := p.handle.ExitStatus()
	if err != nil {
		return Exit{}, fmt.Errorf("somebody else has reaped it: %w", err)
	}
	exit := Exit{Code: status.ExitStatus(), Core: status.CoreDump(), At: time.Now()}
	if status.Signaled() { // and Code is -1
		exit.Signal = status.Signal()
	}
	return exit, nil
}

// diedBeforeExec looks at the zombie, whose number is still its own. Without a
// helper the kernel marks a child that has not executed anything; the helper has,
// and is known by the name that it gave itself.
func (p *Process) diedBeforeExec() bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/stat")
	if err != nil {
		return false // no /proc here: not known
	}
	comm, flags, err := parseStat(stat)
	if err != nil {
		return false
	}
	const forkNoExec = 0x40 // PF_FORKNOEXEC
	return flags&forkNoExec != 0 || p.byHelper && comm == helperComm
}

// Stopped says whether the process has been stopped by a signal since the last call,
// as a shell asks of its jobs. SIGCHLD tells when to ask. It never blocks.
func (p *Process) Stopped() (bool, error) {
	// Until it has executed its program, one without an exit signal is seen with
	// __WALL only.
	c, err := waitid(unix.P_PIDFD, p.handle.FD(), unix.WSTOPPED|unix.WALL)
	if err == unix.ECHILD {
		return false, nil // reaped
	}
	if err != nil {
		return false, fmt.Errorf("ask whether process %d is stopped: %w", p.PID(), err)
	}
	return c.pid != 0, nil
}

// Wait waits for the process to exit and reaps it. It holds no thread. It ends
// early with the cause of ctx, and then has not reaped it.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	if err := p.handle.Wait(ctx); err != nil {
		return Exit{}, err
	}
	return p.Reap()
}

// Close releases the pidfd. It does nothing to the process. A process that was not
// reaped cannot be any more, except by [ReapOrphans], as if it were an orphan.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		tracked.forget(p)
	}
	return p.handle.Close()
}
