package oneshot

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/siginfo"
	"github.com/pitvisor/pitvisor/internal/terminal"
	"github.com/pitvisor/pitvisor/spawn"
)

// jobName and leafName are the directories of a run.
const (
	jobName  = "job"
	leafName = "0.1"
)

// endTime is how long the kernel gets to end a killed run before what blocks it is
// named.
const endTime = 10 * time.Second

// job is one run while it lives.
type job struct {
	spec   *Spec
	result Result
	keeper keeper
	weak   bool

	signals *siginfo.Source
	term    *terminal.Terminal // nil without a controlling terminal
	group   group              // that the command shares with pitvisor on a terminal
	chld    *chldWatch         // nil where nobody has to know of SIGCHLD
	proc    *spawn.Process

	phase     phase
	deadline  time.Time // of the phase; zero is none
	described bool      // the record for ps is written
	closers   []func() error
}

// Run runs a command and returns when nothing of it is left. The error is an
// *[spawn.Error] when the command could not be started, and otherwise says what kept
// pitvisor from working; the result then holds what is known. What the command did
// is no error, and neither is what cannot be ended: that is Result.Blocked.
//
// It must be called once in a program, from a goroutine that is not in a hurry: it
// takes over the handling of signals until it returns.
func Run(spec *Spec) (*Result, error) { return run(spec, &cell{}) }

func run(spec *Spec, k keeper) (*Result, error) {
	_, isTree := k.(*tree)
	j := &job{spec: spec, keeper: k, weak: isTree}
	err := j.open()
	if err == nil {
		err = j.start()
	}
	if err == nil {
		err = j.loop()
	}
	return &j.result, errors.Join(err, j.close())
}

// open makes everything that a start needs.
func (j *job) open() error {
	var err error
	if j.signals, err = siginfo.Catch(forwarded()...); err != nil {
		return err
	}
	j.onClose(j.signals.Close)
	if err := j.openTerminal(); err != nil {
		return err
	}
	if j.term != nil || j.weak {
		if j.chld, err = watchChildren(); err != nil {
			return err
		}
		j.onClose(j.chld.close)
	}
	j.onClose(j.endKeeper)
	if err := j.keeper.open(j.spec, &j.result); err != nil {
		return err
	}
	if j.spec.Announce != nil {
		return j.spec.Announce(&j.result)
	}
	return nil
}

// openTerminal remembers how the terminal is, so that it can be left like that.
func (j *job) openTerminal() error {
	term, err := terminal.Open()
	if err != nil {
		return nil // no controlling terminal
	}
	j.onClose(term.Close)
	if err := term.Save(); err != nil {
		return nil // one that is hung up
	}
	j.term = term
	j.onClose(j.restoreTerminal)
	return nil
}

// restoreTerminal takes back what the command has made of the terminal if it was cut
// short. One that has ended by itself may have been stty.
func (j *job) restoreTerminal() error {
	r := &j.result
	if j.phase == ended && r.Exit.Signal == 0 && r.Sent == 0 && r.Left.Total == 0 {
		return j.term.RestoreGroup()
	}
	return j.term.Restore()
}

func (j *job) onClose(f func() error) { j.closers = append(j.closers, f) }

func (j *job) start() error {
	c := j.spec.Command
	c.Env = withVariable(c.Env, EnvRunID, j.result.Run.ID.String())
	c.Session = spawn.SessionGroup
	if j.term != nil {
		c.Session = spawn.SessionKeep
	}
	stopReaping, err := j.adoptOrphans()
	if err != nil {
		return err
	}
	j.onClose(stopReaping)
	if j.term != nil && !j.weak { // there a witness would be one of those that are held
		j.group.watch()
		j.onClose(j.group.close)
	}
	j.result.Started = time.Now()
	if j.proc, err = j.keeper.start(&c); err != nil {
		return err
	}
	j.result.PID = j.proc.PID()
	return nil
}

// withVariable sets one variable of an environment, which it does not change.
func withVariable(env []string, name, value string) []string {
	prefix := name + "="
	out := slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, prefix) })
	return append(out, prefix+value)
}

// close undoes what open and start did.
func (j *job) close() error {
	var errs []error
	for _, f := range slices.Backward(j.closers) {
		errs = append(errs, f())
	}
	if j.proc != nil && !j.weak {
		errs = append(errs, j.proc.Close())
	}
	return errors.Join(errs...)
}

// endKeeper ends what is left. What is in the way of that is part of the result.
func (j *job) endKeeper() error {
	err := j.keeper.end()
	var blocked *cgroup.BlockedError
	if errors.As(err, &blocked) {
		j.result.Blocked = blocked
		return nil
	}
	return err
}

// isGone says that a cgroup was removed meanwhile.
func isGone(err error) bool { return errors.Is(err, cgroup.ErrGone) }
