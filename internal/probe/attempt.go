package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
)

// attempt is the rules applied to one start.
type attempt struct {
	*readiness
	info supervise.StartInfo
	out  supervise.Output
	kind string // of its leaves; "" means "probe"

	notify *notice   // what the start said by sd_notify; nil without that rule
	file   *fileWait // the ready file; nil without that rule
	fd     *fdWait   // the notification descriptor; nil without that rule

	// Set by Wait.
	main               *pidfd.Process
	leaf               *cgroup.Dir
	linePort, filePort int
	strangers          map[uint64]string // who has a socket of our port, by inode
}

// Prepare makes what must exist before the worker does, so that nothing the
// worker says can be missed.
func (rd *readiness) Prepare(info supervise.StartInfo, out supervise.Output) (_ supervise.Attempt, err error) {
	a := &attempt{readiness: rd, info: info, out: out}
	defer func() {
		if err != nil {
			_ = a.Close() // the first error counts
		}
	}()
	if (rd.rules.Stdout != nil || rd.rules.Stderr != nil) && out.Lines == nil {
		return nil, errors.New("wait for a line of output: the pool's output is not kept")
	}
	if p := a.basePort(); p > 65535 {
		return nil, fmt.Errorf("port %d + slot %d: past 65535", rd.rules.Port, info.Worker.Slot)
	}
	if rd.rules.Notify {
		a.notify = rd.deps.Notify.expect(info.Leaf, info.LeafID)
	}
	if rd.rules.file() {
		if a.file, err = rd.prepareFile(info); err != nil {
			return nil, err
		}
	}
	if rd.rules.FD != 0 {
		if a.fd, err = prepareFD(rd.rules.FD); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Env returns the variables by which the worker learns where to report.
func (a *attempt) Env() []string {
	var env []string
	if a.notify != nil {
		env = append(env, "NOTIFY_SOCKET="+a.deps.Notify.path)
	}
	if a.file != nil {
		env = append(env, "PITVISOR_READY_FILE="+a.file.path)
	}
	if a.fd != nil {
		env = append(env, "PITVISOR_READY_FD="+strconv.Itoa(a.rules.FD))
	}
	if p := a.basePort(); p > 0 {
		env = append(env, "PITVISOR_PORT="+strconv.Itoa(p))
	}
	return env
}

// Files returns the worker's descriptors from 3 on.
func (a *attempt) Files() []*os.File {
	if a.fd == nil {
		return nil
	}
	return a.fd.files
}

// Wait returns when every rule held for this process, or with an error:
// a [*NotReadyError] when ctx ended first or a rule can hold no more.
func (a *attempt) Wait(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir) (supervise.ReadyInfo, error) {
	a.main, a.leaf = p, leaf
	for _, step := range a.steps() {
		if err := step(ctx); err != nil {
			return supervise.ReadyInfo{}, err
		}
	}
	return supervise.ReadyInfo{Port: a.readyPort()}, nil
}

// steps returns what to wait for, in order. The last one proves that it was no
// corpse and no sleeper that fulfilled the rules.
func (a *attempt) steps() []func(context.Context) error {
	r := &a.rules
	var steps []func(context.Context) error
	add := func(on bool, step func(context.Context) error) {
		if on {
			steps = append(steps, step)
		}
	}
	add(r.Notify, a.awaitNotify)
	add(r.FD != 0, a.awaitFD)
	add(r.file(), a.awaitFile)
	add(r.Stdout != nil, func(ctx context.Context) error { return a.awaitLine(ctx, "stdout", r.Stdout) })
	add(r.Stderr != nil, func(ctx context.Context) error { return a.awaitLine(ctx, "stderr", r.Stderr) })
	add(r.TCP != "", a.awaitTCP)
	add(r.HTTP != "", a.awaitHTTP)
	add(r.GRPC != "", a.awaitGRPC)
	add(len(r.Exec) > 0, a.awaitExec)
	add(true, a.awaitRunning)
	return steps
}

// Close releases what Prepare made. Afterwards the package holds nothing of
// this start.
func (a *attempt) Close() error {
	var errs []error
	if a.notify != nil {
		a.deps.Notify.forget(a.info.LeafID)
	}
	if a.file != nil {
		errs = append(errs, a.file.close())
	}
	if a.fd != nil {
		a.fd.close()
	}
	return errors.Join(errs...)
}

// basePort is the port that the rules give to this slot, 0 when none.
func (a *attempt) basePort() int {
	if a.rules.Port == 0 {
		return 0
	}
	return a.rules.Port + a.info.Worker.Slot
}

// port is the value of {port}, 0 when it is not known.
func (a *attempt) port() int {
	switch {
	case a.linePort != 0:
		return a.linePort
	case a.filePort != 0:
		return a.filePort
	}
	return a.basePort()
}

// readyPort is what the world is told: the port of the start, else the one that
// was asked.
func (a *attempt) readyPort() int {
	if p := a.port(); p != 0 {
		return p
	}
	for _, t := range a.targets() {
		return t.port
	}
	return 0
}

// notReady is the error of a rule whose waiting ctx has ended.
func notReady(ctx context.Context, rule string, last error) error {
	return &NotReadyError{Rule: rule, Last: last, Cause: context.Cause(ctx)}
}
