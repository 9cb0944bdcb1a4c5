package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
)

// ErrNoProcess is returned, wrapped, when a worker has no process to be beside.
var ErrNoProcess = errors.New("there is no process")

// Visit is a command that somebody starts in the leaf of a worker, beside its main
// process, as a guest: it has the worker's limits, namespaces, user and environment, it
// ends with the worker's start at the latest, and it counts for nothing that is decided
// about the worker. With TrackLeaf, too, the worker ends when its own processes have.
type Visit struct {
	Worker WorkerID
	Start  uint64

	s       *Supervisor
	leaf    *cgroup.Dir
	guest   *cgroup.Dir
	beside  *pidfd.Process
	command Command
	env     []string
	i       int32
	pool    *pool

	tracked bool               // the guard says when the worker's own processes have ended
	end     context.CancelFunc // of the guard
	guard   sync.WaitGroup
}

// Visit prepares a visit to a worker that is up or stopping. With start, not 0, it must
// be that start of it. The caller closes it.
func (s *Supervisor) Visit(id WorkerID, start uint64) (*Visit, error) {
	v := &Visit{Worker: id, s: s}
	p, tracked, err := s.visited(v, start)
	if err != nil {
		return nil, fmt.Errorf("visit %v: %w", id, err)
	}
	v.leaf, err = p.openLeaf(leafName(int32(id.Slot), v.Start))
	if err == nil {
		v.guest, err = v.leaf.Create(cgroup.GuestPrefix + strconv.FormatUint(s.guests.last.Add(1), 10))
	}
	if err != nil {
		_ = v.beside.Close() // a pidfd; nothing to lose
		if v.leaf != nil {
			_ = v.leaf.Close() // a directory descriptor; nothing to lose
		}
		if errors.Is(err, cgroup.ErrGone) {
			err = fmt.Errorf("%w: start %d has just ended", ErrNoProcess, v.Start)
		}
		return nil, fmt.Errorf("visit %v: %w", id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.end = cancel
	if tracked {
		v.tracked = true
		s.guests.count(id, 1)
		v.guard.Go(func() { v.watchResidents(ctx) })
	}
	return v, nil
}

// visited fills in what the worker was started with, and takes hold of its process.
func (s *Supervisor) visited(v *Visit, start uint64) (p *pool, tracked bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p = s.poolNamed(v.Worker.Pool); p == nil || v.Worker.Slot < 0 || v.Worker.Slot >= len(p.slots) {
		return nil, false, ErrNoMatch
	}
	v.i, v.pool = p.slots[v.Worker.Slot], p
	c := &s.slots[v.i]
	if start != 0 && c.start != start {
		return nil, false, fmt.Errorf("%w: it is at start %d, not %d", ErrNoProcess, c.start, start)
	}
	main := c.mainHandle()
	if !c.lives() || main == nil {
		return nil, false, fmt.Errorf("%w: it is %v", ErrNoProcess, c.state)
	}
	v.Start, v.command = c.start, c.rev.spec.Command
	_, v.env = c.rev.expander.expand(s.opts.Run.ID(), v.Worker, c.start, nil)
	// The slot's own pidfd is closed by whoever removes the leaf.
	fd, err := unix.FcntlInt(uintptr(main.FD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, false, fmt.Errorf("hold its process: %w", err)
	}
	v.beside = pidfd.FromFD(fd, main.PID())
	return p, c.rev.policy.leaf, nil
}

// VisitCommand is what a guest is to run.
type VisitCommand struct {
	Args     []string // the name of the program, looked for in PATH of the worker's environment, and its arguments
	Env      []string // replaces variables of the worker's, or adds to them
	Dir      string   // "" is the worker's
	Stdin    *os.File // as in spawn.Cmd
	Stdout   *os.File
	Stderr   *os.File
	Terminal bool // Stdin becomes the controlling terminal
}

// Exec starts the command, as [spawn.StartBeside] does. The caller reaps it. It is to be
// called once; whoever freezes the worker must not do so meanwhile.
//
// Of the worker's configuration it has the environment, without what readiness rules
// and inherited sockets add, the directory, user and groups, umask, nice, OOM score,
// resource limits and no_new_privs.
func (v *Visit) Exec(c VisitCommand) (*spawn.Process, error) {
	if err := v.company(); err != nil {
		return nil, err
	}
	w := &v.command
	b := spawn.Beside{Process: v.beside, Terminal: c.Terminal, Cmd: spawn.Cmd{
		Path: c.Args[0], Args: c.Args, Env: slices.Concat(without(v.env, c.Env), c.Env), Dir: w.Dir, Leaf: v.guest,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		Credential: w.Credential, Umask: w.Umask, Rlimits: w.Rlimits, Nice: w.Nice, OOMScoreAdj: w.OOMScoreAdj, NoNewPrivs: w.NoNewPrivs,
	}}
	if c.Dir != "" {
		b.Dir = c.Dir
	}
	b.Search = spawn.Candidates(c.Args[0], b.Env)
	if c.Terminal && w.Credential != nil {
		giveTerminal(c.Stdin, w.Credential.UID)
	}
	v.s.gate.RLock()
	defer v.s.gate.RUnlock()
	v.pool.visiting.RLock() // not beside a freeze: the spawn, and the runtime with it, could hang
	defer v.pool.visiting.RUnlock()
	return spawn.StartBeside(&b)
}

// company makes sure that the visit is beside a process that is there: with TrackLeaf a
// worker lives on without its main process, in any other of its own.
func (v *Visit) company() error {
	if exited, err := v.beside.Exited(); err != nil || !exited || !v.tracked {
		return err
	}
	pids, err := v.leaf.Residents()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		p, err := pidfd.Open(pid)
		if err != nil {
			continue // it has just ended
		}
		// What is held and still listed is no stranger with its number.
		if again, err := v.leaf.Residents(); err == nil && slices.Contains(again, pid) {
			old := v.beside
			v.beside = p
			return old.Close()
		}
		_ = p.Close() // a pidfd; nothing to lose
	}
	return nil // the start says that nobody is there
}

// giveTerminal lets the user of a command open its terminal by name, as login does. It
// does so with the slave of a pseudo-terminal only, and without the right to it leaves
// it as it is: the command has it open.
func giveTerminal(f *os.File, uid uint32) {
	var st unix.Stat_t
	fd := int(f.Fd())
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) < 136 || unix.Major(st.Rdev) > 143 {
		return
	}
	_ = unix.Fchown(fd, int(uid), -1) // else it can be used, but not opened
}

// Over says whether the worker's own processes have ended, so that the visit ends, too.
func (v *Visit) Over() bool {
	if exited, err := v.beside.Exited(); err == nil && exited && !v.tracked {
		return true
	}
	pids, err := v.leaf.Residents()
	return err != nil || len(pids) == 0
}

// Close kills what is left of the visit, and gives back what it holds. It fails when
// something does not die, which the end of the worker will see to.
func (v *Visit) Close(ctx context.Context) error {
	err := v.leaf.Destroy(ctx, v.guest.Name(), v.guest.ID())
	if errors.Is(err, cgroup.ErrGone) {
		err = nil // with the worker
	}
	v.end()
	v.guard.Wait()
	if v.tracked {
		v.s.guests.count(v.Worker, -1)
	}
	return errors.Join(err, v.guest.Close(), v.leaf.Close(), v.beside.Close())
}

// watchResidents says, with TrackLeaf, that the last process of the worker's own has
// ended: the kernel tells only when the guests have, too.
func (v *Visit) watchResidents(ctx context.Context) {
	for {
		pids, err := v.leaf.Residents()
		if err != nil || len(pids) == 0 {
			break
		}
		if v.waitFor(ctx, pids[0]) != nil {
			return
		}
	}
	v.s.inbox.post(message{i: v.i, in: input{kind: inEmpty}, polled: uint32(v.Start)})
}

// waitFor waits for the end of a resident. The number counts if it is still one of a
// resident when it is held.
func (v *Visit) waitFor(ctx context.Context, pid int) error {
	p, err := pidfd.Open(pid)
	if errors.Is(err, pidfd.ErrGone) {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // was only waited for
	if pids, err := v.leaf.Residents(); err != nil || !slices.Contains(pids, pid) {
		return ctx.Err()
	}
	// A process may move to another cgroup: then it is looked again after a while.
	again, cancel := context.WithTimeout(ctx, residentTime)
	defer cancel()
	if err := p.Wait(again); err != nil && again.Err() == nil {
		return err
	}
	return ctx.Err()
}

// residentTime bounds a wait for one resident.
const residentTime = time.Minute

// guests are those of all workers.
type guests struct {
	last atomic.Uint64 // number of a guest

	mu sync.Mutex // guards what follows
	of map[WorkerID]int
}

// count counts the guests of a worker with TrackLeaf.
func (g *guests) count(id WorkerID, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == nil {
		g.of = map[WorkerID]int{}
	}
	if g.of[id] += n; g.of[id] <= 0 {
		delete(g.of, id)
	}
}

// only says whether all that the leaf of a worker holds are guests.
func (g *guests) only(c *slot) bool {
	g.mu.Lock()
	n := g.of[c.id()]
	g.mu.Unlock()
	if n == 0 {
		return false
	}
	leaf, err := c.pool.openLeaf(leafName(c.n, c.start))
	if err != nil {
		return false
	}
	defer func() { _ = leaf.Close() }() // a directory descriptor; nothing to lose
	pids, err := leaf.Residents()
	return err == nil && len(pids) == 0
}
