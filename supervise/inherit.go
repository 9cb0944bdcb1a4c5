package supervise

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Inheritance is what the starts of a pool are given beside their standard files:
// descriptors, as systemd passes them on with LISTEN_FDS, and variables. Reload compares
// it with its method Equal(any) bool; without one, with ==.
type Inheritance interface {
	// Prepare is called before each start, from several goroutines at once.
	Prepare(StartInfo) (Inherited, error)
}

// Inherited is what one start is given.
type Inherited struct {
	Env []string

	// Files become the descriptors from 3 on, behind those of the Inheritances before.
	// The supervisor closes them when the process has its own. Each has a name in Names;
	// the worker finds both in LISTEN_FDS and LISTEN_FDNAMES, and its number in LISTEN_PID.
	Files []*os.File
	Names []string

	// Settle returns when everything that the worker said before its end was handed to
	// Supervisor.Tell. It is called when the process has ended, and must not take long.
	// nil means that nothing is said.
	Settle func()
	Done   func() // called once, from any goroutine, when the start is over and its leaf is gone; may be nil
}

// inheritance is what all Inheritances of a pool give to one start.
type inheritance struct {
	env    []string
	files  []*os.File
	names  []string
	settle []func()
	done   []func()
}

// inherit asks every Inheritance of the pool.
func (m *making) inherit() *StartFailure {
	h := &m.inherited
	for _, each := range m.rev.spec.Inherit {
		got, err := each.Prepare(m.info)
		if err == nil && len(got.Files) != len(got.Names) {
			err = fmt.Errorf("%d descriptors with %d names", len(got.Files), len(got.Names))
		}
		h.add(got)
		if err != nil {
			return failed(PhasePrepare, CauseInherit, fmt.Errorf("prepare what it inherits: %w", err))
		}
	}
	return nil
}

func (h *inheritance) add(got Inherited) {
	h.env = append(h.env, got.Env...)
	h.files = append(h.files, got.Files...)
	h.names = append(h.names, got.Names...)
	if got.Settle != nil {
		h.settle = append(h.settle, got.Settle)
	}
	if got.Done != nil {
		h.done = append(h.done, got.Done)
	}
}

// join puts the descriptors that the readiness rule wants behind, or between, what is
// inherited: a rule counts its own from 3, with others in the places that it does not use.
func (h *inheritance) join(rule []*os.File) ([]*os.File, error) {
	switch n := len(h.files); {
	case len(rule) == 0:
		return h.files, nil
	case len(rule) <= n:
		return nil, fmt.Errorf("descriptor %d of the readiness rule is one of the %d that the worker inherits from 3 on", 2+len(rule), n)
	default:
		return slices.Concat(h.files, rule[n:]), nil
	}
}

// variables tells the worker what it inherits; its number is told by spawn.
func (h *inheritance) variables() []string {
	if len(h.files) == 0 {
		return h.env
	}
	return append(slices.Clip(h.env), "LISTEN_FDS="+strconv.Itoa(len(h.files)), "LISTEN_FDNAMES="+strings.Join(h.names, ":"))
}

// ownPID names the variable for the worker's number.
func (h *inheritance) ownPID() string {
	if len(h.files) == 0 {
		return ""
	}
	return "LISTEN_PID"
}

// closeFiles closes our copies.
func (h *inheritance) closeFiles() {
	for _, f := range h.files {
		_ = f.Close() // the worker has its own, or does not come to be
	}
	h.files = nil
}

// over returns what is to be called when the start is over, with what its output wants;
// nil if nothing is.
func (h *inheritance) over(output func()) func() {
	if output == nil && len(h.done) == 0 {
		return nil
	}
	all := h.done
	return func() {
		for _, done := range all {
			done()
		}
		if output != nil {
			output()
		}
	}
}

// settled returns what waits for the worker's last words; nil if it has no way to say any.
func (h *inheritance) settled() func() {
	if len(h.settle) == 0 {
		return nil
	}
	all := h.settle
	return func() {
		for _, settle := range all {
			settle()
		}
	}
}

// validateInherit refuses what no start could be given.
func validateInherit(all []Inheritance) error {
	if slices.Contains(all, nil) {
		return errors.New("an inheritance is nil")
	}
	return nil
}

// sameInheritance compares what the starts of two specs are given.
func sameInheritance(a, b []Inheritance) bool {
	return slices.EqualFunc(a, b, func(x, y Inheritance) bool { return equalRules(x, y) })
}
