package oneshot

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"github.com/pitvisor/pitvisor/internal/siginfo"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// forwarded are the signals that the command gets when pitvisor gets them.
func forwarded() []unix.Signal {
	return []unix.Signal{
		unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGWINCH, unix.SIGTSTP, unix.SIGCONT,
	}
}

// takeSignals forwards what came in.
func (j *job) takeSignals() error {
	var signals []siginfo.Info
	for {
		info, ok, err := j.signals.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		signals = append(signals, info)
	}
	if len(signals) == 0 {
		return nil
	}
	shared := j.group.got(signals)
	for _, s := range signals {
		if err := j.forward(s, shared&bit(s.Signal) != 0); err != nil {
			return err
		}
	}
	return nil
}

// forward hands a signal on to the command, unless the command has it already: on a
// terminal the two share a process group, so what was sent to that (shared) reaches
// both, the terminal's own signals among it.
func (j *job) forward(info siginfo.Info, shared bool) error {
	if ends(info.Signal) && (j.phase == trailing || j.spec.StopOnTerm) {
		j.stop(CauseInterrupted)
		return nil
	}
	if j.term != nil && (shared || info.FromKernel() || info.PID > 0 && j.keeper.holds(int(info.PID))) {
		return nil
	}
	err := j.proc.Signal(info.Signal)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.EPERM) {
		return nil // too late, or a set-user-ID command that does not listen to us
	}
	return err
}

// ends says whether a signal is a request to end.
func ends(sig unix.Signal) bool {
	switch sig {
	case unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT:
		return true
	}
	return false
}

// followStop stops pitvisor like the command, so that the shell sees its job stopped.
// The shell continues the whole job; a SIGCONT for pitvisor alone is forwarded.
func (j *job) followStop() error {
	stopped, err := j.proc.Stopped()
	if err != nil || !stopped {
		return err
	}
	if os.Getpid() == 1 {
		return j.proc.Signal(unix.SIGCONT) // there is no shell to do it
	}
	return j.term.StopSelf()
}

// chldWatch tells the poll loop about SIGCHLD, which comes when the command stops,
// and when an orphan that was given to this process ends.
type chldWatch struct {
	signals chan os.Signal
	event   int // eventfd
	done    chan struct{}
}

func watchChildren() (*chldWatch, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &chldWatch{signals: make(chan os.Signal, 1), event: fd, done: make(chan struct{})}
	signal.Notify(w.signals, unix.SIGCHLD)
	go func() {
		defer close(w.done)
		one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
		for range w.signals {
			_, _ = unix.Write(fd, one) // EAGAIN: it is set already
		}
	}()
	return w, nil
}

func (w *chldWatch) fd() int { return w.event }

// taken says whether there was a SIGCHLD since the last call.
func (w *chldWatch) taken() bool {
	var count [8]byte
	n, _ := unix.Read(w.event, count[:]) // EAGAIN: there was none
	return n == len(count)
}

func (w *chldWatch) close() error {
	signal.Stop(w.signals)
	close(w.signals)
	<-w.done
	return unix.Close(w.event)
}

// adoptOrphans begins to reap what the command orphans, if that was asked for, and
// returns what ends it. Without a cgroup the keeper does it.
func (j *job) adoptOrphans() (func() error, error) {
	if !j.spec.Subreaper || j.weak {
		return func() error { return nil }, nil
	}
	// Before the command can make orphans; ReapOrphans would do it a moment later.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- spawn.ReapOrphans(ctx) }()
	return func() error {
		stop(errDone)
		if err := <-ended; !errors.Is(err, errDone) {
			return err
		}
		return nil
	}, nil
}

// errDone ends the reaping of orphans.
var errDone = errors.New("the run is over")
