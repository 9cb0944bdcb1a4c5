package guardian

import (
	"math"
	"path"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// step is one system call of the guardian, or one of three things to do with its
// memory. The assembly that carries steps out knows nothing else.
type step struct {
	call       uintptr // the number of the system call, or an operation
	args       [6]uintptr
	then, fail uintptr // address of the next step: after a result of 0 or more, and after an error
}

// The operations. Where nothing else is said, then is the next step.
const (
	opSet   = -1 // the word at args[0] becomes args[1]
	opSame  = -2 // then if the byte at args[0] is args[1], else fail
	opCount = -3 // the word at args[0] is lessened by 1: then unless it is 0, else fail
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

// plan is all that a guardian has: memory, steps and strings, in a mapping of its
// own. It is not Go's memory: whatever becomes of the program, nothing may free it
// while the guardian lives, and no pointer in it is known to the garbage collector.
type plan struct {
	mapping []byte
	mem     *memory
	steps   []step
	used    int    // of the steps
	free    []byte // for strings
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
func mapPlan(steps, text int) (*plan, error) {
	begin := int(unsafe.Sizeof(memory{}))
	end := begin + steps*int(unsafe.Sizeof(step{}))
	mapping, err := unix.Mmap(-1, 0, end+text, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return &plan{
		mapping: mapping,
		mem:     (*memory)(unsafe.Pointer(&mapping[0])),
		steps:   unsafe.Slice((*step)(unsafe.Pointer(&mapping[begin])), steps),
		free:    mapping[end:],
	}, nil
}

// settle makes the guardian independent of what it was cloned from. It returns the
// number that the next descriptor will get.
func (p *plan) settle(at place) (lowest int) {
	// Not a session of its own: the kernel would make a scheduling group for it, for a
	// third of the price of the guardian.
	p.add(unix.SYS_SETPGID, 0, 0)
	p.add(unix.SYS_PRCTL, unix.PR_SET_NAME, p.text(comm))
	p.add(unix.SYS_CHDIR, p.text("/"))
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
			p.add(unix.SYS_CLOSE_RANGE, uintptr(from), uintptr(fd-1), 0)
		}
		from = fd + 1
	}
	p.add(unix.SYS_CLOSE_RANGE, uintptr(from), math.MaxUint32, 0)
}

// watch waits for the end of the owner.
func (p *plan) watch(owner int) {
	p.mem.owner = unix.PollFd{Fd: int32(owner), Events: unix.POLLIN}
	s := p.add(unix.SYS_PPOLL, address(&p.mem.owner), 1, 0, 0, 0)
	s.fail = address(s) // interrupted
}

// end kills, looks whether the run is empty, and removes it. The order of steps is
// that of the text unless one says otherwise.
func (p *plan) end(at place, paths []string, events int) {
	m := p.mem
	m.kills, m.tries = kills, removals
	m.events = unix.PollFd{Fd: int32(events), Events: unix.POLLPRI}
	p.add(unix.SYS_OPENAT, uintptr(at.root), p.text(path.Join(at.run, "cgroup.events")), unix.O_RDONLY|unix.O_CLOEXEC, 0)

	kill := p.add(unix.SYS_WRITE, uintptr(at.kill), p.text("1"), 1)
	p.add(opSet, address(&m.looks), looks)
	look := p.add(unix.SYS_PREAD64, uintptr(events), address(&m.read), unsafe.Sizeof(m.read), 0)
	empty := p.add(opSame, address(&m.read)+uintptr(len("populated ")), '0')
	p.pause(shortWait)
	p.add(opCount, address(&m.looks)).then = address(look)
	again := p.add(opCount, address(&m.kills))
	again.then = address(kill)

	empty.then = p.next()
	var removed *step
	for _, path := range slices.Backward(paths) {
		removed = p.add(unix.SYS_UNLINKAT, uintptr(at.root), p.text(path), unix.AT_REMOVEDIR)
	}
	p.pause(longWait)
	p.add(opCount, address(&m.tries)).then = address(look)

	exit := p.exit()
	again.fail, removed.then = address(exit), address(exit)
	look.fail = address(exit) // ENODEV: somebody else was faster
}

// exit ends the guardian. Nothing follows.
func (p *plan) exit() *step {
	s := p.add(unix.SYS_EXIT_GROUP, 0)
	s.then, s.fail = address(s), address(s)
	return s
}

// pause waits for a change in cgroup.events, for so many nanoseconds at most.
func (p *plan) pause(ns uintptr) {
	// ppoll counts the time down.
	p.add(opSet, address(&p.mem.wait.Sec), 0)
	p.add(opSet, address(&p.mem.wait.Nsec), ns)
	p.add(unix.SYS_PPOLL, address(&p.mem.events), 1, address(&p.mem.wait), 0, 0)
}

// add appends a step, which leads to the one that will be added next.
func (p *plan) add(call int, args ...uintptr) *step {
	s := &p.steps[p.used]
	p.used++
	s.call = uintptr(call)
	copy(s.args[:], args)
	s.then, s.fail = p.next(), p.next()
	return s
}

// next is the address of the step that will be added next.
func (p *plan) next() uintptr { return address(&p.steps[p.used]) }

// text returns the address of a string, with a zero byte behind it.
func (p *plan) text(s string) uintptr {
	at := address(&p.free[0])
	p.free = p.free[copy(p.free, s)+1:]
	return at
}

// address is a pointer into the mapping, as a number for the kernel.
func address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// discard frees a plan that nobody carries out.
func (p *plan) discard() {
	_ = unix.Munmap(p.mapping) // it was mapped a moment ago
}
