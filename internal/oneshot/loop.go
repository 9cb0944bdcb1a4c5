package oneshot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// phase is what the loop is about.
type phase uint8

const (
	running  phase = iota // the command runs
	trailing              // it has ended, and the rest is waited for
	stopping              // the stop signal was sent
	ended                 // nothing is left to wait for
)

// describeAfter is how long a command runs before ps gets to know more of it than
// its cgroup: most commands are shorter, and do not pay for it.
const describeAfter = 20 * time.Millisecond

// loop waits for what happens until the run is over, then ends it.
func (j *job) loop() error {
	if j.spec.Started != nil {
		j.spec.Started(&j.result)
	}
	if j.spec.Timeout > 0 {
		j.deadline = j.result.Started.Add(j.spec.Timeout)
	}
	w := newWaiter(j)
	defer w.close()
	for j.phase != ended {
		if err := w.wait(j.nextTimer()); err != nil {
			return err
		}
		if err := j.react(w); err != nil {
			return err
		}
	}
	return j.finish()
}

// nextTimer is when the loop must wake up by itself; zero is never.
func (j *job) nextTimer() time.Time {
	if j.described || j.phase != running {
		return j.deadline
	}
	describe := j.result.Started.Add(describeAfter)
	if j.deadline.IsZero() || describe.Before(j.deadline) {
		return describe
	}
	return j.deadline
}

// react looks at everything that may have happened.
func (j *job) react(w *waiter) error {
	if err := j.takeSignals(); err != nil {
		return err
	}
	if w.exited() {
		if err := j.commandEnded(w); err != nil {
			return err
		}
	}
	if j.chld != nil && j.chld.taken() && j.term != nil {
		if err := j.followStop(); err != nil {
			return err
		}
	}
	if j.phase == trailing || j.phase == stopping {
		if err := j.checkEmpty(w); err != nil {
			return err
		}
	}
	for _, fd := range w.cut() {
		w.dropLifeline(fd)
		j.stop(CauseLifeline)
	}
	now := time.Now()
	if !j.deadline.IsZero() && !now.Before(j.deadline) {
		j.timeUp()
	}
	if !j.described && now.Sub(j.result.Started) >= describeAfter {
		j.described = true
		j.keeper.describe(j.proc, j.result.Started)
	}
	return nil
}

// commandEnded collects how the command ended.
func (j *job) commandEnded(w *waiter) error {
	exit, err := j.proc.Reap()
	if err != nil {
		return err
	}
	j.result.Exit = exit
	w.forgetCommand()
	switch {
	case j.phase == stopping:
	case j.spec.WaitForAll:
		j.phase = trailing
	default:
		j.phase = ended
	}
	return nil
}

// checkEmpty ends the loop when the command has ended and nothing else is left.
func (j *job) checkEmpty(w *waiter) error {
	if w.commandRuns() {
		return nil
	}
	empty, err := j.keeper.empty()
	if err != nil {
		return err
	}
	if empty {
		j.phase = ended
		return nil
	}
	return j.keeper.watch(w)
}

// timeUp is the end of the phase's time.
func (j *job) timeUp() {
	j.deadline = time.Time{}
	if j.phase == stopping {
		j.result.Grace = true
		j.phase = ended
		return
	}
	j.stop(CauseTimeout)
}

// stop asks the whole run to end. What is stopped by job control is woken up, since
// it could not obey otherwise.
func (j *job) stop(cause Cause) {
	if j.phase == stopping || j.phase == ended {
		return
	}
	j.result.Cause, j.phase = cause, stopping
	if j.spec.Grace <= 0 {
		j.result.Sent, j.phase = unix.SIGKILL, ended
		return
	}
	j.result.Sent = j.spec.StopSignal
	if j.result.Sent == 0 {
		j.result.Sent = unix.SIGTERM
	}
	j.deadline = time.Now().Add(j.spec.Grace)
	j.keeper.signal(j.result.Sent)
	j.keeper.signal(unix.SIGCONT)
}

// waiter is the poll loop's view of the descriptors.
type waiter struct {
	fds       []unix.PollFd // command, signals, children, events, then the lifelines; -1 is ignored
	lifelines []int
	events    *os.File // cgroup.events, while it is waited for
	buffer    []byte   // for what lifelines carry
}

// The fixed places in fds.
const (
	atCommand = iota
	atSignals
	atChildren
	atEvents
	atLifelines
)

func newWaiter(j *job) *waiter {
	w := &waiter{lifelines: j.spec.Lifelines, fds: make([]unix.PollFd, atLifelines, atLifelines+len(j.spec.Lifelines))}
	w.fds[atCommand] = unix.PollFd{Fd: int32(j.proc.Handle().FD()), Events: unix.POLLIN}
	w.fds[atSignals] = unix.PollFd{Fd: int32(j.signals.FD()), Events: unix.POLLIN}
	w.fds[atChildren] = unix.PollFd{Fd: -1}
	if j.chld != nil {
		w.fds[atChildren] = unix.PollFd{Fd: int32(j.chld.fd()), Events: unix.POLLIN}
	}
	w.fds[atEvents] = unix.PollFd{Fd: -1}
	for _, fd := range w.lifelines {
		w.fds = append(w.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return w
}

// wait returns when something may have happened, or at the time given. A signal's
// handler may have run before: its message is in the pipe.
func (w *waiter) wait(until time.Time) error {
	timeout := -1
	if !until.IsZero() {
		// Rounded up, so that it is not woken in vain just before.
		timeout = max(0, int((time.Until(until)+time.Millisecond-1)/time.Millisecond))
	}
	_, err := unix.Poll(w.fds, timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for the command: %w", err)
	}
	if err != nil { // what poll did not fill in says nothing
		for i := range w.fds {
			w.fds[i].Revents = 0
		}
	}
	return nil
}

func (w *waiter) exited() bool      { return w.fds[atCommand].Revents != 0 }
func (w *waiter) commandRuns() bool { return w.fds[atCommand].Fd >= 0 }
func (w *waiter) forgetCommand()    { w.fds[atCommand] = unix.PollFd{Fd: -1} }

// watchEvents waits for changes of cgroup.events from now on. The kernel reports the
// next one only after a read, which opening again is, too.
func (w *waiter) watchEvents(run interface{ OpenEvents() (*os.File, error) }) error {
	if w.events != nil {
		var b [256]byte
		if _, err := unix.Pread(int(w.fds[atEvents].Fd), b[:], 0); err != nil && err != unix.ENODEV {
			return fmt.Errorf("read cgroup.events: %w", err)
		}
		return nil
	}
	f, err := run.OpenEvents()
	if err != nil {
		return err
	}
	w.events = f
	w.fds[atEvents] = unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLPRI}
	return w.watchEvents(run)
}

// cut returns the lifelines that have come to their end, and drops what others carry.
func (w *waiter) cut() []int {
	var cut []int
	for i := range w.lifelines {
		p := &w.fds[atLifelines+i]
		if p.Fd < 0 || p.Revents == 0 {
			continue
		}
		if w.buffer == nil {
			w.buffer = make([]byte, 64<<10)
		}
		n, err := unix.Read(int(p.Fd), w.buffer)
		if n == 0 || err != nil && err != unix.EINTR && err != unix.EAGAIN {
			cut = append(cut, i)
		}
	}
	return cut
}

func (w *waiter) dropLifeline(i int) { w.fds[atLifelines+i] = unix.PollFd{Fd: -1} }

func (w *waiter) close() {
	if w.events != nil {
		_ = w.events.Close() // was only read
	}
}
