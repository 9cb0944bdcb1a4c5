package leftover

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
)

// List returns what is left of the command in the run's cgroup and below it.
func List(run *cgroup.Dir, c Command) (Found, error) {
	m := &members{run: run, most: MaxProcesses}
	if err := m.read(); err != nil {
		return Found{}, fmt.Errorf("list what is left: %w", err)
	}
	return newLister(c, m.contains).list(m), nil
}

// list looks at the members one by one. Some may be gone by now.
func (l *lister) list(m *members) Found {
	found := Found{Total: len(m.pids) + m.hidden}
	if m.contains(l.leader) {
		found.Total--
	}
	for _, c := range m.first {
		if len(found.Processes) == m.most {
			break
		}
		if c.pid == l.leader {
			continue
		}
		where := func(held *pidfd.Process) (string, bool) { return m.where(held, c) }
		p, ok := l.look(c.pid, c.path, where)
		// Before Linux 6.15 the pidfd of a process whose second thread executes a program
		// looks for a moment as if the process had exited. A zombie is not listed.
		for tries := 0; !ok && tries < 3 && m.listed(c.pid); tries++ {
			p, ok = l.look(c.pid, c.path, where)
		}
		if ok {
			found.Processes = append(found.Processes, p)
		} else {
			found.Total--
		}
	}
	slices.SortStableFunc(found.Processes, older)
	return found
}

// ListHeld is [List] where there is no cgroup: of processes that the caller holds
// and knows to be the command's.
func ListHeld(held []*pidfd.Process, c Command) Found {
	inRun := func(pid int) bool {
		return slices.ContainsFunc(held, func(p *pidfd.Process) bool { return p.PID() == pid })
	}
	l := newLister(c, inRun)
	var found Found
	for _, p := range held {
		if exited, err := p.Exited(); err != nil || exited || p.PID() == l.leader {
			continue
		}
		found.Total++
		if len(found.Processes) == MaxProcesses {
			continue
		}
		facts, ok := l.lookAt(p, func(*pidfd.Process) (string, bool) { return c.Leaf, true })
		if !ok {
			found.Total--
			continue
		}
		found.Processes = append(found.Processes, facts)
	}
	slices.SortStableFunc(found.Processes, older)
	return found
}

// older orders by age and number; those of unknown age come last.
func older(a, b Process) int {
	if a.Started.IsZero() != b.Started.IsZero() {
		if a.Started.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.PID, b.PID))
}

// candidate is a number that was listed in a cgroup of the run.
type candidate struct {
	pid  int
	path string
}

// members is the run's tree as it was when it was last read.
type members struct {
	run    *cgroup.Dir
	most   int               // processes that are listed
	pids   []int             // all numbers, sorted
	hidden int               // processes outside our PID namespace, which have no number here
	first  []candidate       // more than are listed, because some may vanish
	paths  map[uint64]string // of the cgroups that hold processes
}

func (m *members) read() error {
	m.paths = make(map[uint64]string)
	err := m.run.Groups(m.add)
	m.sort()
	return err
}

// add adds what is in a cgroup.
func (m *members) add(g cgroup.Group) {
	m.paths[g.ID] = g.Path
	for _, pid := range g.PIDs {
		if pid == 0 {
			m.hidden++
			continue
		}
		m.pids = append(m.pids, pid)
		seen := func(c candidate) bool { return c.pid == pid }
		if len(m.first) < 2*m.most && !slices.ContainsFunc(m.first, seen) {
			m.first = append(m.first, candidate{pid, g.Path})
		}
	}
}

// sort makes the numbers ready to be searched, each once: a process that has moved
// while the tree was read may have been seen twice.
func (m *members) sort() {
	slices.Sort(m.pids)
	m.pids = slices.Compact(m.pids)
}

func (m *members) contains(pid int) bool {
	_, ok := slices.BinarySearch(m.pids, pid)
	return ok
}

// where says in which cgroup of the run the held process is now.
func (m *members) where(held *pidfd.Process, c candidate) (string, bool) {
	info, err := held.Info()
	if err != nil {
		return c.path, !errors.Is(err, pidfd.ErrGone)
	}
	if info.CgroupID == 0 {
		return m.find(held.PID())
	}
	path, ok := m.paths[info.CgroupID]
	if ok {
		return path, true
	}
	// It has moved. The names of the cgroups are read again, not who is in them: that
	// was asked before.
	err = m.run.Groups(func(g cgroup.Group) { m.paths[g.ID] = g.Path })
	path, ok = m.paths[info.CgroupID]
	return path, ok && err == nil
}

// find says in which cgroup of the run a number is listed now. It is for kernels
// before 6.13, which do not tell the cgroup of a pidfd: as long as the process that
// is held has not exited, the number means it.
func (m *members) find(pid int) (path string, ok bool) {
	err := m.run.Groups(func(g cgroup.Group) {
		if slices.Contains(g.PIDs, pid) {
			path, ok = g.Path, true
		}
	})
	return path, ok && err == nil
}

// listed says whether a number is still in the run.
func (m *members) listed(pid int) bool {
	_, ok := m.find(pid)
	return ok
}

// lister reads processes one after the other.
type lister struct {
	command  Command
	leader   int // the number of the command's first process while it lives
	inRun    func(pid int) bool
	readable bool // /proc is ours
	memory   memory
	ports    ports
}

func newLister(c Command, inRun func(pid int) bool) *lister {
	l := &lister{command: c, inRun: inRun, readable: procfs.Ours(), memory: newMemory(c.RunID), ports: newPorts()}
	if alive, err := c.Leader.Alive(); err == nil && alive {
		l.leader = c.Leader.PID
	}
	return l
}

// nested returns the id of the run that a cgroup below the command's belongs to.
func nested(path, leaf string) string {
	below, ok := within(path, leaf)
	if !ok {
		return ""
	}
	id := ""
	for name := range strings.SplitSeq(below, "/") {
		if after, ok := strings.CutPrefix(name, "run-"); ok {
			id = after
		}
	}
	return id
}

// within returns the part of a path that is below another one.
func within(path, top string) (string, bool) {
	switch {
	case path == top:
		return "", false
	case top == "":
		return path, true
	}
	return strings.CutPrefix(path, top+"/")
}
