package guardian

import (
	"math"
	"path"
	"slices"
	"unsafe"

	"github.com/pitvisor/pitvisor/internal/steps"
	"golang.org/x/sys/unix"
)

// The patience of a guardian: a kill each tenth of a second, for a minute, and half a
// second for a cgroup that is empty and cannot be removed.
const (
	shortWait = 1e6 // nanoseconds; the kernel tells of changes in cgroup.events up to 12 ms late
	looks     = 100 // between two kills
	kills     = 600
	longWait  = 50e6
	removals  = 10
)

// comm is the name of a guardian in the process list.
const comm = "pitvisor-guard"

// place is what a guardian has to do with.
type place struct {
	root, kill, owner int // the descriptors that it keeps: a directory, cgroup.kill, a pidfd
	run               string
	inner             []string
}

// paths are those of the directories to remove, below root, outermost first.
func (at place) paths() []string {
	paths := []string{at.run}
	for _, name := range at.inner {
		paths = append(paths, path.Join(paths[len(paths)-1], name))
	}
	return paths
}

// memory is what the steps work on.
type memory struct {
	pidfd  int32 // of the guardian; written by clone
	looks  uintptr
	kills  uintptr
	tries  uintptr
	owner  unix.PollFd
	events unix.PollFd
	wait   unix.Timespec
	read   [16]byte // the beginning of cgroup.events
}

// plan is all that a guardian has: memory, steps and strings.
type plan struct {
	*steps.Table
	mem *memory
}

// newPlan makes the list of steps for a place.
func newPlan(at place) (*plan, error) {
	const fixed = 32 // steps, beside one for each directory
	paths := at.paths()
	text := 128 + len(at.run)
	for _, p := range paths {
		text += len(p) + 1
	}
	p, err := mapPlan(fixed+len(paths), text)
	if err != nil {
		return nil, err
	}
	events := p.settle(at)
	p.watch(at.owner)
	p.end(at, paths, events)
	return p, nil
}

// mapPlan makes a plan without steps, with room for so many and for so much text.
func mapPlan(count, text int) (*plan, error) {
	table, err := steps.New(count, int(unsafe.Sizeof(memory{}))+text)
	if err != nil {
		return nil, err
	}
	return &plan{Table: table, mem: steps.Room[memory](table)}, nil
}

// settle makes the guardian independent of what it was cloned from. It returns the
// number that the next descriptor will get.
func (p *plan) settle(at place) (lowest int) {
	// Not a session of its own: the kernel would make a scheduling group for it, for a
	// third of the price of the guardian.
	p.Add(unix.SYS_SETPGID, 0, 0)
	p.Add(unix.SYS_PRCTL, unix.PR_SET_NAME, p.Text(comm))
	p.Add(unix.SYS_CHDIR, p.Text("/"))
	keep := []int{at.root, at.kill, at.owner}
	p.closeAllBut(keep...)
	for slices.Contains(keep, lowest) {
		lowest++
	}
	return lowest
}

// closeAllBut closes the other descriptors.
func (p *plan) closeAllBut(keep ...int) {
	slices.Sort(keep)
	from := 0
	for _, fd := range keep {
		if from < fd {
			p.Add(unix.SYS_CLOSE_RANGE, uintptr(from), uintptr(fd-1), 0)
		}
		from = fd + 1
	}
	p.Add(unix.SYS_CLOSE_RANGE, uintptr(from), math.MaxUint32, 0)
}

// watch waits for the end of the owner.
func (p *plan) watch(owner int) {
	p.mem.owner = unix.PollFd{Fd: int32(owner), Events: unix.POLLIN}
	s := p.Add(unix.SYS_PPOLL, steps.Address(&p.mem.owner), 1, 0, 0, 0)
	s.Fail = steps.Address(s) // interrupted
}

// end kills, looks whether the run is empty, and removes it. The order of steps is
// that of the text unless one says otherwise.
func (p *plan) end(at place, paths []string, events int) {
	m := p.mem
	m.kills, m.tries = kills, removals
	m.events = unix.PollFd{Fd: int32(events), Events: unix.POLLPRI}
	p.Add(unix.SYS_OPENAT, uintptr(at.root), p.Text(path.Join(at.run, "cgroup.events")), unix.O_RDONLY|unix.O_CLOEXEC, 0)

	kill := p.Add(unix.SYS_WRITE, uintptr(at.kill), p.Text("1"), 1)
	p.Add(steps.Set, steps.Address(&m.looks), looks)
	look := p.Add(unix.SYS_PREAD64, uintptr(events), steps.Address(&m.read), unsafe.Sizeof(m.read), 0)
	empty := p.Add(steps.Same, steps.Address(&m.read)+uintptr(len("populated ")), '0')
	p.pause(shortWait)
	p.Add(steps.Count, steps.Address(&m.looks)).Then = steps.Address(look)
	again := p.Add(steps.Count, steps.Address(&m.kills))
	again.Then = steps.Address(kill)

	empty.Then = p.Next()
	var removed *steps.Step
	for _, path := range slices.Backward(paths) {
		removed = p.Add(unix.SYS_UNLINKAT, uintptr(at.root), p.Text(path), unix.AT_REMOVEDIR)
	}
	p.pause(longWait)
	p.Add(steps.Count, steps.Address(&m.tries)).Then = steps.Address(look)

	exit := p.exit()
	again.Fail, removed.Then = steps.Address(exit), steps.Address(exit)
	look.Fail = steps.Address(exit) // ENODEV: somebody else was faster
}

// exit ends the guardian. Nothing follows.
func (p *plan) exit() *steps.Step {
	s := p.Add(unix.SYS_EXIT_GROUP, 0)
	s.Then, s.Fail = steps.Address(s), steps.Address(s)
	return s
}

// pause waits for a change in cgroup.events, for so many nanoseconds at most.
func (p *plan) pause(ns uintptr) {
	// ppoll counts the time down.
	p.Add(steps.Set, steps.Address(&p.mem.wait.Sec), 0)
	p.Add(steps.Set, steps.Address(&p.mem.wait.Nsec), ns)
	p.Add(unix.SYS_PPOLL, steps.Address(&p.mem.events), 1, steps.Address(&p.mem.wait), 0, 0)
}

// discard frees a plan that nobody carries out.
func (p *plan) discard() {
	_ = p.Free() // it was mapped a moment ago
}
