package leftover

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// How long to wait for what lies in the memory of other processes: for one, and for
// all of an answer.
const (
	patience = 250 * time.Millisecond
	budget   = time.Second
)

// memory reads command lines and environments. To read them the kernel brings in
// pages of the process, and a process can make that take for ever: with a mapped
// file of a file system that it serves itself, or with userfaultfd. Whoever reads
// is then stuck until the process dies, so it is not us.
type memory struct {
	patience time.Duration // with one process
	left     time.Duration // for all
	read     func(*procfs.Process) memoryFacts
}

// memoryFacts is what a process's memory tells.
type memoryFacts struct {
	args    []string
	argsCut bool
	argsOK  bool
	env     environment
}

func newMemory(runID string) memory {
	return memory{patience: patience, left: budget, read: func(p *procfs.Process) memoryFacts { return readFacts(p, runID) }}
}

// of returns what the process's memory tells, in time.
func (m *memory) of(held *pidfd.Process) memoryFacts {
	if m.left <= 0 {
		return memoryFacts{}
	}
	// A directory of its own: the reader may need it for longer than we do.
	p, err := procfs.OpenHeld(held)
	if err != nil {
		return memoryFacts{}
	}
	done := make(chan memoryFacts, 1)
	go func() {
		defer p.Close()
		done <- m.read(p)
	}()
	began := time.Now()
	timer := time.NewTimer(m.patience)
	defer timer.Stop()
	select {
	case facts := <-done:
		m.left -= time.Since(began)
		return facts
	case <-timer.C:
		m.left -= time.Since(began)
		return memoryFacts{} // the reader ends with the process
	}
}

// readMemory fills in the arguments and returns what the environment tells.
func (l *lister) readMemory(p *Process, held *pidfd.Process) environment {
	facts := l.memory.of(held)
	p.Args, p.ArgsCut = facts.args, facts.argsCut
	if !facts.argsOK {
		p.Unknown = append(p.Unknown, FactArgs)
	}
	if facts.env.kind == envUnknown && l.command.RunID != "" {
		p.Unknown = append(p.Unknown, FactEnvironment)
	}
	return facts.env
}

// readFacts reads arguments and environment.
func readFacts(p *procfs.Process, runID string) memoryFacts {
	var facts memoryFacts
	if !settled(p, func() bool { facts.readArgs(p); return len(facts.args) > 0 }) {
		facts = memoryFacts{}
	}
	if runID == "" {
		return facts
	}
	if !settled(p, func() bool { facts.env = environmentOf(p); return facts.env.kind == envWith }) {
		facts.env = environment{}
	}
	return facts
}

// settled says whether what was read can be believed. A process that is about to
// execute a program has neither arguments nor environment for a moment, and what is
// read of the program before ends too early. So what was read counts only if the
// process had the same program, all laid out, before and after. Where that is hidden
// it counts if read says that it found something.
func settled(p *procfs.Process, read func() (found bool)) bool {
	const tries = 3
	for range tries {
		before, err := p.Stat()
		if err != nil {
			return false
		}
		found := read()
		after, err := p.Stat()
		if err != nil {
			return false
		}
		hidden := before.Code == 1
		if before.Code != 0 && before.Code == after.Code && before.Env == after.Env && (found || !hidden) {
			return true
		}
	}
	return false
}

func (f *memoryFacts) readArgs(p *procfs.Process) {
	line, err := p.Read("cmdline", MaxArgs+1)
	f.argsOK = err == nil
	f.argsCut = len(line) > MaxArgs
	f.args = splitArgs(line[:min(len(line), MaxArgs)])
}

func environmentOf(p *procfs.Process) environment {
	fd, err := p.Open("environ")
	if err != nil {
		return environment{}
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	return readEnvironment(bufio.NewReaderSize(&file{fd}, 4<<10))
}

// file reads a descriptor with bare system calls.
type file struct{ fd int }

func (f *file) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// splitArgs splits a command line at its zero bytes.
func splitArgs(line []byte) []string {
	line = bytes.TrimRight(line, "\x00") // setproctitle leaves many
	if len(line) == 0 {
		return nil
	}
	return strings.Split(string(line), "\x00")
}

// environment is what a process's environment says about its run.
type environment struct {
	kind  envKind
	runID string // the first value of PITVISOR_RUN_ID
}

type envKind uint8

const (
	envUnknown envKind = iota // unreadable, or overwritten by the process for its title
	envEmpty                  // there is nothing
	envWithout                // there is no PITVISOR_RUN_ID
	envWith
)

// scrubbed says whether the process was cut off from the run's name: it has neither
// the id of the command's run nor that of the nested run it is in.
func (e environment) scrubbed(run, nested string) bool {
	switch e.kind {
	case envUnknown:
		return false
	case envEmpty, envWithout:
		return true
	case envWith:
		return e.runID != run && (nested == "" || e.runID != nested)
	}
	return false
}

// readEnvironment looks for PITVISOR_RUN_ID in entries that end in zero bytes.
// Programs that set their title write it over the environment, and what they leave
// there is no environment: no entry has a name then.
func readEnvironment(r *bufio.Reader) environment {
	const name = "PITVISOR_RUN_ID="
	empty, named, begins := true, false, true
	for {
		entry, err := r.ReadSlice(0)
		if begins && len(entry) > 0 {
			empty = false
			named = named || bytes.IndexByte(entry, '=') > 0
			if value, ok := bytes.CutPrefix(entry, []byte(name)); ok {
				return environment{envWith, string(bytes.TrimSuffix(value, []byte{0}))}
			}
		}
		begins = err != bufio.ErrBufferFull
		switch {
		case err == nil || err == bufio.ErrBufferFull:
		case err == io.EOF && empty:
			return environment{kind: envEmpty}
		case err == io.EOF && named:
			return environment{kind: envWithout}
		default:
			return environment{}
		}
	}
}
