package weak

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// kin finds the descendants of this process.
type kin struct {
	listed bool // the kernel lists the children of each thread
}

// newKin finds out what /proc can tell.
func newKin() (kin, error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return kin{}, fmt.Errorf("look for descendants: %w", err)
	}
	if self != strconv.Itoa(os.Getpid()) {
		return kin{}, fmt.Errorf("look for descendants: /proc is of another PID namespace: %w", unix.ESRCH)
	}
	return kin{listed: unix.Access("/proc/thread-self/children", unix.R_OK) == nil}, nil
}

// each calls visit with each living descendant, parents first, held by a pidfd that
// is closed afterwards. It goes down to the children of a process only after the
// visit: of one that got SIGKILL the list of children is final, unless it is gone
// already, and then they are ours and found by the next call.
//
// It goes on after an error of one process and returns the first.
func (k kin) each(visit func(*pidfd.Process)) error {
	return k.walk(func(p *pidfd.Process) (keep bool) { visit(p); return false })
}

// hold returns the living descendants, parents first, so that they stay what they
// are whatever dies meanwhile. The caller closes them, also beside an error.
func (k kin) hold() (all held, err error) {
	err = k.walk(func(p *pidfd.Process) (keep bool) { all = append(all, p); return true })
	return all, err
}

type held []*pidfd.Process

func (h held) close() {
	for _, p := range h {
		_ = p.Close() // nothing to lose
	}
}

func (k kin) walk(take func(*pidfd.Process) (keep bool)) error {
	children, err := k.lister()
	if err != nil {
		return err
	}
	w := walker{children: children, take: take}
	w.below(os.Getpid(), func() bool { return true })
	return w.first
}

// lister returns what lists the children of a process. A process that is gone has none.
func (k kin) lister() (func(pid int) ([]int, error), error) {
	if k.listed {
		return listChildren, nil
	}
	parents, err := scan()
	return func(pid int) ([]int, error) { return parents[pid], nil }, err
}

type walker struct {
	children func(pid int) ([]int, error)
	take     func(*pidfd.Process) (keep bool)
	first    error
}

// below finds the descendants of a process. mine says whether the number is still the
// process's own, so that what has named it as its parent before that is its child.
func (w *walker) below(pid int, mine func() bool) {
	pids, err := w.children(pid)
	w.note(err)
	for _, child := range pids {
		p, err := pidfd.Open(child)
		if err != nil {
			w.note(err)
			continue
		}
		keep := false
		if w.found(p, pid, mine) {
			keep = w.take(p)
			w.below(child, func() bool { return !isDone(p.Signal(0)) })
		}
		if !keep {
			_ = p.Close() // nothing to lose
		}
	}
}

// found says whether a process is a living descendant.
func (w *walker) found(p *pidfd.Process, parent int, mine func() bool) bool {
	info, err := p.Info()
	if err != nil {
		w.note(err)
		return false
	}
	// Its parent may have ended since the list was made; then it is ours.
	if info.PPID != os.Getpid() && (info.PPID != parent || !mine()) {
		return false
	}
	exited, err := p.Exited()
	w.note(err)
	return err == nil && !exited // a zombie has no children
}

// note keeps the first error. That a process has ended is none.
func (w *walker) note(err error) {
	if err != nil && w.first == nil && !isDone(err) {
		w.first = err
	}
}

// isDone says that a process has ended meanwhile.
func isDone(err error) bool {
	return errors.Is(err, pidfd.ErrGone) || errors.Is(err, os.ErrProcessDone) ||
		errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// listChildren reads the lists of children of all threads of a process. Linux 3.5,
// where the kernel was built with it.
func listChildren(pid int) ([]int, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreDone(err)
	}
	var pids []int
	for _, thread := range threads {
		text, err := os.ReadFile(dir + "/" + thread.Name() + "/children")
		if ignoreDone(err) != nil {
			return pids, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return pids, fmt.Errorf("read the children of %d: %w", pid, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

func ignoreDone(err error) error {
	if isDone(err) {
		return nil
	}
	return err
}

// scan looks at every process for its parent, and returns the children of each.
func scan() (map[int][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for descendants: %w", err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := procfs.Open(pid)
		if err != nil {
			continue // has ended, or is hidden from us
		}
		if stat, err := p.Stat(); err == nil {
			children[stat.PPID] = append(children[stat.PPID], pid)
		}
		p.Close()
	}
	return children, nil
}
