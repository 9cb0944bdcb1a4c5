package leftover

import (
	"errors"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
)

// look reads the process that was listed with a number in a cgroup; false when it is gone, or has left.
// where is asked last, and says in which cgroup it is.
func (l *lister) look(pid int, path string, where func(*pidfd.Process) (string, bool)) (Process, bool) {
	held, err := pidfd.Open(pid)
	if err != nil {
		// It cannot be held, so nothing can be said but that it was listed.
		p := Process{PID: pid, Cgroup: path, Unknown: []Fact{FactState, FactUID, FactArgs, FactEnvironment, FactListening}}
		return p, !errors.Is(err, pidfd.ErrGone)
	}
	defer func() { _ = held.Close() }() // read-only; nothing to lose
	return l.lookAt(held, where)
}

// lookAt reads a process that is held.
func (l *lister) lookAt(held *pidfd.Process, where func(*pidfd.Process) (string, bool)) (Process, bool) {
	p := Process{PID: held.PID()}
	id, err := held.Identity()
	if err == nil {
		p.Inode = id.Inode
	}
	env, ok := l.read(&p, held)
	if !ok {
		return Process{}, false
	}
	path, ok := where(held)
	if !ok {
		return Process{}, false
	}
	// The last word: what was read above was about this process if it has not exited.
	if exited, err := held.Exited(); err != nil || exited {
		return Process{}, false
	}
	p.Cgroup, p.Run = path, nested(path, l.command.Leaf)
	p.Left = l.ways(&p, env)
	return p, true
}

// read fills in what /proc tells; false when the process is gone.
func (l *lister) read(p *Process, held *pidfd.Process) (environment, bool) {
	var proc *procfs.Process
	err := errNotOurs
	if l.readable {
		proc, err = procfs.OpenHeld(held)
	}
	if err != nil {
		// Before Linux 6.13 that is from /proc, whose numbers may mean others.
		if info, infoErr := held.Info(); infoErr == nil && (l.readable || pidfd.Probe().Info) {
			p.PPID, p.UID = info.PPID, uint32(info.UID)
		} else {
			p.Unknown = append(p.Unknown, FactUID)
		}
		p.Unknown = append(p.Unknown, FactState, FactArgs, FactEnvironment, FactListening)
		return environment{}, !errors.Is(err, os.ErrProcessDone)
	}
	defer proc.Close()
	l.readState(p, proc)
	env := l.readMemory(p, held)
	listening, leftOut, ok := l.ports.of(proc)
	if !ok {
		p.Unknown = append(p.Unknown, FactListening)
	}
	p.Listening, p.ListeningLeftOut = listening, leftOut
	return env, true
}

var errNotOurs = errors.New("/proc belongs to another PID namespace")

// readState reads what the kernel itself keeps of a process.
func (l *lister) readState(p *Process, proc *procfs.Process) {
	if stat, err := proc.Stat(); err != nil {
		p.Unknown = append(p.Unknown, FactState)
	} else {
		p.Comm, p.State = stat.Comm, string(stat.State)
		p.PPID, p.Session, p.Group = stat.PPID, stat.Session, stat.Group
		p.start, p.Age = stat.Start, stat.Age()
		p.Started = time.Now().Add(-p.Age)
	}
	var err error
	if p.UID, err = proc.UID(); err != nil {
		p.Unknown = append(p.Unknown, FactUID)
	}
}
