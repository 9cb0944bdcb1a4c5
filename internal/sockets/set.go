package sockets

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/supervise"
)

// Passed are descriptors that whoever started this program has passed on, by name.
type Passed map[string][]*os.File

// Set is the sockets of one configuration. Its methods are safe for concurrent use.
type Set struct {
	passed Passed

	mu      sync.Mutex // guards what follows
	named   map[string][]*listener
	retired []*listener // not in the configuration any more, but perhaps in use
}

// NewSet returns a set without sockets. It takes over what was passed.
func NewSet(passed Passed) *Set { return &Set{passed: passed} }

// Change is another set of sockets, opened and not yet in force.
type Change struct {
	set     *Set
	specs   map[string]Spec
	named   map[string][]*listener
	fresh   []*listener
	dropped []*listener
}

// Prepare opens what specs have and the set has not. What stays is not touched. The caller
// takes the change by Commit, or drops it by Undo, and prepares no other one before.
func (s *Set) Prepare(specs []Spec) (*Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{set: s, specs: map[string]Spec{}, named: map[string][]*listener{}}
	var have []*listener
	for _, ls := range s.named {
		have = append(have, ls...)
	}
	have = append(have, s.retired...)
	for _, spec := range specs {
		c.specs[spec.Name] = spec
		if err := c.add(&spec, have); err != nil {
			c.closeFresh()
			return nil, err
		}
	}
	for _, l := range have {
		if !c.has(l) {
			c.dropped = append(c.dropped, l)
		}
	}
	return c, nil
}

func (c *Change) has(l *listener) bool {
	for _, ls := range c.named {
		if slices.Contains(ls, l) {
			return true
		}
	}
	return false
}

// add finds or opens the sockets of one name.
func (c *Change) add(spec *Spec, have []*listener) error {
	if spec.FD != "" {
		return c.addPassed(spec, have)
	}
	for _, text := range spec.Listen {
		a, err := parse(text, spec.Kind)
		if err != nil {
			return fmt.Errorf("open socket %s: listen on %s: %w", spec.Name, text, err)
		}
		i := slices.IndexFunc(have, func(l *listener) bool {
			return !l.passed && l.text == a.text && l.kind == a.kind && l.reusePort == spec.ReusePort
		})
		if i >= 0 && !c.has(have[i]) {
			c.named[spec.Name] = append(c.named[spec.Name], have[i])
			continue
		}
		l, err := open(spec, a)
		if err != nil {
			return err
		}
		c.fresh = append(c.fresh, l)
		c.named[spec.Name] = append(c.named[spec.Name], l)
	}
	return nil
}

// addPassed takes what was passed under a name. Each is a listener as long as the program
// runs, whatever configurations come.
func (c *Change) addPassed(spec *Spec, have []*listener) error {
	files := c.set.passed[spec.FD]
	if len(files) == 0 {
		return &NotPassedError{Name: spec.Name, FD: spec.FD, Known: names(c.set.passed)}
	}
	for _, f := range files {
		i := slices.IndexFunc(have, func(l *listener) bool { return l.passed && l.path == f.Name() && l.text == fdText(f) })
		if i >= 0 {
			c.named[spec.Name] = append(c.named[spec.Name], have[i])
			continue
		}
		fd, err := copyFD(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("open socket %s: %w", spec.Name, err)
		}
		l := &listener{address: address{text: fdText(f), path: f.Name()}, fd: fd, passed: true}
		c.fresh = append(c.fresh, l)
		c.named[spec.Name] = append(c.named[spec.Name], l)
	}
	return nil
}

func fdText(f *os.File) string { return fmt.Sprintf("descriptor %d", f.Fd()) }

func copyFD(fd int) (int, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return own, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
}

func names(p Passed) []string {
	var all []string
	for name := range p {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// NotPassedError says that a socket is to be passed by who starts this program, and was not.
type NotPassedError struct {
	Name, FD string
	Known    []string // what was passed
}

// Error names what there is instead.
func (e *NotPassedError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("open socket %s: no descriptor called %q was passed on, nor any other", e.Name, e.FD)
	}
	return fmt.Sprintf("open socket %s: no descriptor called %q was passed on, only %q", e.Name, e.FD, e.Known)
}

// Hint says where it should come from.
func (e *NotPassedError) Hint() string {
	return fmt.Sprintf("start pitvisor by a socket unit of systemd with FileDescriptorName=%s, or give the socket a listen address instead of fd", e.FD)
}

// Commit puts the change in force. What is no more wanted stays open for workers that
// are started under the old configuration, until Retire.
func (c *Change) Commit() error {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, ls := range c.named {
		spec := c.specs[name]
		for _, l := range ls {
			if err := l.configure(&spec); err != nil {
				errs = append(errs, l.explain(&spec, err))
			}
		}
	}
	s.named, s.retired = c.named, c.dropped
	return errors.Join(errs...)
}

// Undo closes what was opened for the change.
func (c *Change) Undo() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.closeFresh()
}

func (c *Change) closeFresh() {
	for _, l := range c.fresh {
		_ = l.close() // nobody was let in
	}
}

// Retire closes what the configuration has no more, when nobody needs it any more.
func (c *Change) Retire() {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range c.dropped {
		if i := slices.Index(s.retired, l); i >= 0 { // else a later one has it again
			s.retired = slices.Delete(s.retired, i, i+1)
			_ = l.close() // workers have their own
		}
	}
}

// Close closes everything and removes the files of unix sockets.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	closed := map[*listener]bool{}
	for _, ls := range s.named {
		for _, l := range ls {
			if !closed[l] {
				closed[l] = true
				errs = append(errs, l.close())
			}
		}
	}
	for _, l := range s.retired {
		errs = append(errs, l.close())
	}
	s.named, s.retired = nil, nil
	return errors.Join(errs...)
}

// inheritance is the sockets that the workers of one pool are given.
type inheritance struct {
	set       *Set
	listeners []*listener
	names     []string
}

// For returns what gives the sockets of these names to the workers of a pool, in their
// order.
func (c *Change) For(names []string) supervise.Inheritance {
	h := &inheritance{set: c.set}
	for _, name := range names {
		for _, l := range c.named[name] {
			h.listeners, h.names = append(h.listeners, l), append(h.names, name)
		}
	}
	return h
}

// Equal says whether other gives the same open sockets under the same names.
func (h *inheritance) Equal(other any) bool {
	o, ok := other.(*inheritance)
	return ok && slices.Equal(h.listeners, o.listeners) && slices.Equal(h.names, o.names)
}

// Prepare makes copies for one start, which share everything with ours.
func (h *inheritance) Prepare(supervise.StartInfo) (supervise.Inherited, error) {
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	var got supervise.Inherited
	for i, l := range h.listeners {
		fd, err := copyFD(l.fd)
		if err != nil {
			return got, fmt.Errorf("copy socket %s: %w", h.names[i], err)
		}
		got.Files, got.Names = append(got.Files, os.NewFile(uintptr(fd), h.names[i])), append(got.Names, h.names[i])
	}
	return got, nil
}
