package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
)

// awaitRunning is the last step: whatever was heard and answered, a process that
// has exited or is stopped is not ready. A stopped one is waited for.
func (a *attempt) awaitRunning(ctx context.Context) error {
	const rule = "running process"
	ticker := time.NewTicker(a.rules.Interval)
	defer ticker.Stop()
	for {
		p, err := a.anchor()
		if err == nil {
			p.Close()
			return nil
		}
		if isFinal(err) {
			return &NotReadyError{Rule: rule, Last: err}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return notReady(ctx, rule, err)
		}
	}
}

// mainProcess is the process that was started, or that the worker has named since.
func (a *attempt) mainProcess() *pidfd.Process {
	if named := a.notify.mainProcess(); named != nil {
		return named
	}
	return a.main
}

// gone returns an error when the worker's life is its main process's and that
// has exited.
func (a *attempt) gone() error {
	if a.deps.Track == supervise.TrackLeaf {
		return nil
	}
	exited, err := a.mainProcess().Exited()
	if err != nil {
		return final(fmt.Errorf("look at the main process: %w", err))
	}
	if exited {
		return final(errors.New("the main process has exited"))
	}
	return nil
}

// anchor returns a process that stands for the worker: the main process, or,
// where the worker is its whole leaf and the main process has ended as it
// should, any process there. It is neither a zombie nor stopped.
func (a *attempt) anchor() (*procfs.Process, error) {
	p, err := procfs.OpenHeld(a.mainProcess())
	switch {
	case err == nil:
		return p, a.awake(p)
	case !errors.Is(err, os.ErrProcessDone):
		return nil, final(fmt.Errorf("look at the main process: %w", err))
	case a.deps.Track == supervise.TrackLeaf:
		return a.anyMember()
	}
	return nil, final(errors.New("the main process has exited"))
}

// awake returns an error, and closes the process, when it is stopped.
func (a *attempt) awake(p *procfs.Process) error {
	state, err := p.State()
	if err == nil && state != 'T' && state != 't' {
		return nil
	}
	defer p.Close()
	if err != nil {
		return final(fmt.Errorf("the process has exited: %w", err))
	}
	return fmt.Errorf("process %s is stopped", p)
}

// anyMember returns a running process of the leaf.
func (a *attempt) anyMember() (*procfs.Process, error) {
	pids, err := a.leaf.Residents()
	if err != nil {
		return nil, err
	}
	last := error(final(errors.New("the worker has no process left")))
	for _, pid := range pids {
		p, err := procfs.Open(pid)
		if err != nil {
			continue // gone
		}
		if !stillIn(p, a.leaf) {
			p.Close()
			continue
		}
		if last = a.awake(p); last == nil {
			return p, nil
		}
	}
	return nil, last
}
