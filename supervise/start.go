package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/spawn"
)

// errKilledBeforeExec says that a process was killed between clone and exec,
// which the clone itself does not show.
var errKilledBeforeExec = errors.New("killed before it executed the program")

// thawedTime is how long a pool in which a start has found nothing frozen is
// taken for one in which nothing is. Looking at each start would take a
// twentieth of its price, and would be too early just as well.
const thawedTime = 20 * time.Millisecond

// making is a start under way in a spawner.
type making struct {
	*Supervisor
	startOrder
	began   time.Duration
	hits    uint32
	info    StartInfo
	leaf    *cgroup.Dir
	out     Output
	attempt Attempt
	vigil   Vigil
	events  *os.File
	proc    *spawn.Process

	inherited inheritance
}

// spawn is what a spawner does with an order. It answers with exactly one
// message.
func (s *Supervisor) spawn(o startOrder) {
	m := &making{Supervisor: s, startOrder: o, began: s.now()}
	f := m.prepare()
	if f == nil {
		f = m.exec()
	}
	if f != nil {
		answer(s, s.starts, m.abandon(f))
		return
	}
	answer(s, s.starts, m.finish())
}

// prepare acquires all that the start needs before the point of no return.
func (m *making) prepare() *StartFailure {
	if m.halting.Load() {
		return failed(PhasePrepare, CauseCanceled, errStopped)
	}
	leaf, err := m.pool.dir.Create(leafName(m.n, m.start))
	if err != nil {
		return failed(PhasePrepare, CauseLeaf, err)
	}
	m.leaf = leaf
	m.info = StartInfo{
		Run: m.opts.Run.ID(), Worker: WorkerID{Pool: m.pool.name, Slot: int(m.n)}, Start: m.start,
		Leaf: leaf.Path(), LeafID: leaf.ID(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
	}
	if c := m.rev.spec.Command.Credential; c != nil {
		m.info.UID, m.info.GID = c.UID, c.GID
	}
	if err := m.limit(); err != nil {
		return failed(PhasePrepare, CauseLeaf, err)
	}
	m.hits = m.pool.hits()
	if f := m.inherit(); f != nil {
		return f
	}
	return m.prepareRule()
}

func (m *making) limit() error {
	if m.rev.limits.IsZero() {
		return nil
	}
	err := resource.Set(m.leaf, m.rev.limits)
	var missing *cgroup.ControllerError
	if m.rev.spec.BestEffortLimits && errors.As(err, &missing) {
		return nil // New has told
	}
	return err
}

// prepareRule opens the output and prepares the readiness rule.
func (m *making) prepareRule() *StartFailure {
	var err error
	if m.opts.Output != nil {
		if m.out, err = m.opts.Output(m.info); err != nil {
			return failed(PhasePrepare, CauseOutput, fmt.Errorf("open output: %w", err))
		}
	}
	if r := m.rev.spec.Readiness; r != nil {
		if m.attempt, err = r.Prepare(m.info, m.out); err != nil {
			m.attempt = nil
			return failed(PhasePrepare, CauseProbe, fmt.Errorf("prepare readiness rule: %w", err))
		}
	}
	if r := m.rev.spec.Liveness; r != nil {
		if m.vigil, err = r.Prepare(m.info, m.out); err != nil {
			m.vigil = nil
			return failed(PhasePrepare, CauseProbe, fmt.Errorf("prepare liveness rule: %w", err))
		}
	}
	if m.rev.policy.leaf {
		if m.events, err = m.leaf.OpenEvents(); err != nil {
			return failed(PhasePrepare, CauseLeaf, err)
		}
	}
	return nil
}

// exec makes the process, and makes sure that it executes the program.
func (m *making) exec() *StartFailure {
	c := &m.rev.spec.Command
	cmd := spawn.Cmd{
		Path: c.Path, Dir: c.Dir, Leaf: m.leaf,
		Stdin: m.null, Stdout: m.out.Stdout, Stderr: m.out.Stderr,
		Credential: c.Credential, Umask: c.Umask, Rlimits: c.Rlimits, Nice: c.Nice,
		OOMScoreAdj: c.OOMScoreAdj, NoNewPrivs: c.NoNewPrivs, NetNS: c.NetNS,
	}
	if cmd.Stdout == nil {
		cmd.Stdout = m.null
	}
	if cmd.Stderr == nil {
		cmd.Stderr = m.null
	}
	more, err := m.give(&cmd)
	if err != nil {
		return failed(PhasePrepare, CauseInherit, err)
	}
	cmd.Args, cmd.Env = m.rev.expander.expand(m.info.Run, m.info.Worker, m.start, more)
	// Who kills the whole run waits for the spawns under way: the kernel can
	// stall a spawn into a cgroup that is being frozen, and the runtime with it.
	cmd.Thawed = m.began-time.Duration(m.pool.thawed.Load()) < thawedTime
	m.gate.RLock()
	proc, err := spawn.Start(&cmd)
	m.gate.RUnlock()
	if err != nil {
		return failed(PhaseExec, spawnCause(err), m.whose(err))
	}
	if !cmd.Thawed {
		m.pool.thawed.Store(int64(m.began))
	}
	m.proc = proc
	// A child that was killed on its way to the program counts as started too.
	// With a readiness rule its exit tells soon enough; without one the worker
	// would be called ready first.
	if !proc.Executed() && m.attempt == nil {
		return m.killedBeforeExec()
	}
	return nil
}

// give puts together what the worker is given by its pool and by its rules, and returns
// the variables that tell it.
func (m *making) give(cmd *spawn.Cmd) (env []string, err error) {
	var rule []*os.File
	add := func(own []string) { env = append(without(env, own), own...) }
	add(m.inherited.variables())
	if m.attempt != nil {
		rule = m.attempt.Files()
		add(m.attempt.Env())
	}
	if m.vigil != nil {
		add(m.vigil.Env())
	}
	cmd.OwnPID = m.inherited.ownPID()
	cmd.ExtraFiles, err = m.inherited.join(rule)
	return env, err
}

// killedBeforeExec reaps a child that is dying.
func (m *making) killedBeforeExec() *StartFailure {
	f := failed(PhaseExec, CauseExec, errKilledBeforeExec)
	ctx, cancel := context.WithTimeout(context.Background(), reapTime)
	defer cancel()
	exit, err := m.proc.Wait(ctx)
	if err != nil {
		return f // whoever removes the leaf sees to it
	}
	f.Exit = &exit
	_ = m.proc.Close() // a pidfd; nothing to lose
	m.proc = nil
	return f
}

// spawnCause says which of our causes an error of spawn has.
func spawnCause(err error) FailureCause {
	var e *spawn.Error
	if errors.As(err, &e) && e.Cause == spawn.CauseForkLimit {
		return CauseLimit
	}
	return CauseExec
}

// whose adds to an error of spawn for whose limit there was no process.
func (m *making) whose(err error) error {
	if spawnCause(err) != CauseLimit || !m.pool.evidence.Load() {
		return err
	}
	if b := m.pool.blame(m.leaf, m.hits); b.pids.Refused > 0 {
		return fmt.Errorf("%w: %w", err, b.pidsError())
	}
	return err
}

// finish writes the record and hands everything to the engine.
func (m *making) finish() message {
	m.closeFiles()
	record := registry.Worker{
		Pool: m.info.Worker.Pool, Slot: m.info.Worker.Slot, Start: m.start,
		State: StateUp.String(), Ready: m.attempt == nil, Started: m.at(m.began),
	}
	if id, err := m.proc.Handle().Identity(); err == nil {
		record.Process = id
	}
	_ = registry.SetWorker(m.leaf, record) // for ps only
	msg := message{
		i: m.i, proc: m.proc, leafID: m.leaf.ID(), hits: m.hits, rev: m.rev,
		in: input{kind: inSpawned, start: m.start, began: m.began},
	}
	if m.attempt == nil {
		_ = m.leaf.Close() // a directory descriptor; nothing to lose
		m.leaf = nil
	}
	done, settle := m.inherited.over(m.out.Done), m.inherited.settled()
	if m.attempt != nil || m.vigil != nil || done != nil || settle != nil || m.out.Tail != nil || m.events != nil {
		msg.extra = &extra{attempt: m.attempt, leaf: m.leaf, tail: m.out.Tail, done: done, words: settle, vigil: m.vigil, events: m.events}
	}
	return msg
}

// abandon undoes what a failed start has acquired. No process was ever in the
// leaf for longer than its own death.
func (m *making) abandon(f *StartFailure) message {
	m.closeFiles()
	msg := message{i: m.i, proc: m.proc, in: input{kind: inSpawnFailed, start: m.start, began: m.began, failure: f}}
	x := extra{attempt: m.attempt, tail: m.out.Tail, done: m.inherited.over(m.out.Done), vigil: m.vigil, events: m.events}
	f.Stderr = x.lastLines()
	if m.leaf == nil {
		x.close()
		return msg
	}
	err := m.pool.dir.RemoveChild(m.leaf.Name(), 0)
	msg.leafID = m.leaf.ID()
	_ = m.leaf.Close() // a directory descriptor; nothing to lose
	if err != nil {
		msg.in.leaf, msg.extra = true, &x
		return msg
	}
	x.close()
	return msg
}

// closeFiles closes our copies of what the worker writes to, and of what it inherits.
func (m *making) closeFiles() {
	m.inherited.closeFiles()
	for _, f := range []*os.File{m.out.Stdout, m.out.Stderr} {
		if f != nil {
			_ = f.Close() // nothing of ours was written; the second may be the first
		}
	}
}

func failed(p Phase, c FailureCause, err error) *StartFailure {
	return &StartFailure{Phase: p, Cause: c, Err: err}
}
