package cgroup

import (
	"path"

	"golang.org/x/sys/unix"
)

// runMark is the label that package registry puts on the directory of every run.
const runMark = "user.pitvisor.run"

// nesting is where the caller is if it is inside a run.
type nesting struct {
	self      string // its own cgroup
	innermost string // the run it is in
	outermost string // the run that holds all others it is in
}

// nesting finds the runs that the caller is in; false if there is none.
func (m Mount) nesting() (nesting, bool) {
	self, err := m.selfPath()
	if err != nil {
		return nesting{}, false
	}
	n := nesting{self: self}
	for p := self; p != m.Path && p != "/" && p != "."; p = path.Dir(p) {
		// A label of any value marks a run; its size is enough to know.
		if size, err := unix.Lgetxattr(p, runMark, nil); err == nil && size > 0 {
			n.outermost = p
			if n.innermost == "" {
				n.innermost = p
			}
		}
	}
	return n, n.outermost != ""
}

// below says whether the cgroup of that path holds the run that the caller is in.
func (n nesting) below(p string) bool {
	_, ok := cutDir(n.innermost, p)
	return ok && n.innermost != p
}

// nestedRoot opens the root of a caller inside a run.
func (m Mount) nestedRoot(p string, source RootSource) (Root, error) {
	if m.ReadOnly {
		return Root{}, rootError(p, unix.EROFS)
	}
	d, err := Open(p)
	if err != nil {
		return Root{}, rootError(p, err)
	}
	if err := d.usable(m); err != nil {
		closeFD(d.fd)
		e := rootError(p, err)
		if source == RootNested {
			e.hint = hintNested
		}
		return Root{}, e
	}
	return Root{Dir: d, Source: source, Mount: m}, nil
}

// InRun says whether the caller is inside a run.
func InRun() bool {
	mounts, err := findMounts()
	if err != nil {
		return false
	}
	for _, m := range mounts {
		if _, ok := m.nesting(); ok {
			return true
		}
	}
	return false
}
