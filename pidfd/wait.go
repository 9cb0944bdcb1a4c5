package pidfd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Wait returns when the process has ended with all its threads. It does not reap
// it, so it works for processes that are not children, and a zombie counts as
// ended. While it waits it holds two descriptors and no thread; whoever waits
// for many processes uses a [Poller]. It ends early with the cause of ctx. Linux 5.3.
func (p *Process) Wait(ctx context.Context) error {
	return p.wait(ctx, unix.POLLIN)
}

// WaitReaped returns when the process has ended and was reaped by its parent,
// after which [Process.ExitStatus] knows how it ended. Linux 6.15; older kernels
// tell nobody about the reaping, so they are asked again and again from the end of
// the process on. It ends early with the cause of ctx. Linux 5.3.
func (p *Process) WaitReaped(ctx context.Context) error {
	if err := p.Wait(ctx); err != nil {
		return err
	}
	const shortest, longest = time.Millisecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		again, cancel := context.WithTimeoutCause(ctx, pause, errAskAgain)
		err := p.wait(again, 0)
		cancel()
		if !errors.Is(err, errAskAgain) {
			return err
		}
		if reaped, err := p.reaped(); reaped || err != nil {
			return err
		}
	}
}

// errAskAgain ends a wait for an event that may never come.
var errAskAgain = errors.New("ask again")

// wait waits for the events or for POLLHUP, which is always reported.
func (p *Process) wait(ctx context.Context, events int16) error {
	now, err := p.poll(events)
	if err == nil && now == 0 {
		err = p.waitPoller(ctx, uint32(events))
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	return nil
}

func (p *Process) waitPoller(ctx context.Context, events uint32) error {
	// A descriptor of its own: closing p meanwhile would silently take p.fd out
	// of the epoll set, and nothing would end the wait.
	fd := -1
	err := p.use(func(own int) (err error) {
		fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing to lose
	poller, err := NewPoller()
	if err != nil {
		return err
	}
	defer func() { _ = poller.Close() }() // nothing to lose
	if err := poller.Add(fd, events, 0); err != nil {
		return err
	}
	ctx, found := context.WithCancelCause(ctx)
	defer found(nil)
	err = poller.Run(ctx, func(uint64, uint32) { found(errExited) })
	if errors.Is(err, errExited) {
		return nil
	}
	return err
}

// errExited ends the Run of waitPoller.
var errExited = errors.New("process has exited")
