package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// RootSource says why a cgroup was chosen as the root.
type RootSource string

// The ways to a root.
const (
	RootFlag      RootSource = "flag"      // the user named it
	RootDelegated RootSource = "delegated" // systemd, or an administrator, gave it to us
	RootOwned     RootSource = "owned"     // we are root and made it
	RootNested    RootSource = "nested"    // we are inside a run: what we start belongs to it
	RootOuter     RootSource = "outer"     // we are inside a run, and this is what it was made in
)

// ownedName is the root's name below the mount if nobody gave us one.
const ownedName = "pitvisor"

// Root is the cgroup below which runs are made. The caller closes Dir.
type Root struct {
	Dir    *Dir
	Source RootSource
	Mount  Mount

	// Undelegated tells root who runs as a service of systemd without Delegate= that
	// what it starts is outside of the unit, and how to change that. It is "" otherwise.
	Undelegated string
}

// NoRootError says why there is no cgroup to work in.
type NoRootError struct {
	Path string // what was tried, "" if nothing could be
	Err  error
	Unit bool // a setting of the systemd unit that we are is to blame: a restart cures nothing
	hint string
}

// Error names what was tried.
func (e *NoRootError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("no cgroup to work in: %v", e.Err)
	}
	return fmt.Sprintf("cannot work in cgroup %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause: [ErrNoCgroup2], [fs.ErrPermission], EROFS and others.
func (e *NoRootError) Unwrap() error { return e.Err }

// Hint says how to get a cgroup to work in.
func (e *NoRootError) Hint() string { return e.hint }

const (
	hintNoMount  = "mount one: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1; in a container, give it the host's: --volume /sys/fs/cgroup:/sys/fs/cgroup:rw"
	hintReadOnly = "containers get cgroup2 read-only: docker run --security-opt writable-cgroups=true (from 28.0), podman run --security-opt unmask=/sys/fs/cgroup, cgroup_writable of containerd's runtime class in Kubernetes, or --privileged; elsewhere: mount -o remount,rw /sys/fs/cgroup"
	hintNested   = "inside a run only the user who owns the run can start another one: start it as that user, or leave pitvisor out here"
	hintDelegate = "get a cgroup of your own from systemd: systemd-run --user --scope -p Delegate=yes pitvisor ..., or run as root"
)

// FindRoot chooses and opens the cgroup to start runs in. It takes
//
//   - the caller's own cgroup if that is inside a run and the explicit path is "" or
//     one that holds that run: a run inside a run ends with it, else
//   - the explicit path, made if it is not there, else
//   - the caller's own cgroup if that is delegated to it (systemd's Delegate=yes, or
//     owned by the caller, or all that a service can see of cgroups, as with
//     ProtectControlGroups=private), or its parent if the own one is called
//     "supervisor" or "supervisor-...", else
//   - <mount>/pitvisor for root, made if it is not there.
//
// Any refusal is a *[NoRootError], whose Hint tells the way out.
func FindRoot(explicit string) (Root, error) {
	mounts, err := findMounts()
	if err != nil {
		return Root{}, &NoRootError{Err: err, hint: hintNoMount}
	}
	for _, m := range mounts {
		if n, ok := m.nesting(); ok && (explicit == "" || n.below(path.Clean(explicit))) {
			return m.nestedRoot(n.self, RootNested)
		}
	}
	return chooseRoot(mounts, explicit)
}

// FindTopRoot is FindRoot for those who look at runs, or start one that is to
// outlive the run they are in: inside a run it takes the cgroup in which the
// outermost run was made.
func FindTopRoot(explicit string) (Root, error) {
	mounts, err := findMounts()
	if err != nil {
		return Root{}, &NoRootError{Err: err, hint: hintNoMount}
	}
	if explicit == "" {
		for _, m := range mounts {
			if n, ok := m.nesting(); ok {
				return m.nestedRoot(path.Dir(n.outermost), RootOuter)
			}
		}
	}
	return chooseRoot(mounts, explicit)
}

// chooseRoot is FindRoot for who is in no run.
func chooseRoot(mounts []Mount, explicit string) (Root, error) {
	if explicit != "" {
		return explicitRoot(mounts, path.Clean(explicit))
	}
	m := mounts[0]
	if m.ReadOnly {
		return Root{}, m.rootError(m.Path, unix.EROFS)
	}
	if d := m.delegatedRoot(); d != nil {
		return Root{Dir: d, Source: RootDelegated, Mount: m}, nil
	}
	owned := path.Join(m.Path, ownedName)
	if os.Geteuid() != 0 {
		return Root{}, m.rootError(owned, errUndelegated)
	}
	d, err := m.makePath(owned)
	if err != nil {
		return Root{}, m.rootError(owned, err)
	}
	r := Root{Dir: d, Source: RootOwned, Mount: m}
	if u, ok := m.startedUnit(); ok && u.name != "" {
		r.Undelegated = u.hint(errUndelegated)
	}
	return r, nil
}

func explicitRoot(mounts []Mount, explicit string) (Root, error) {
	below := func(m Mount) bool { _, ok := cutDir(explicit, m.Path); return ok }
	i := slices.IndexFunc(mounts, below)
	if i < 0 {
		return Root{}, rootError(explicit, fmt.Errorf("%w (%s)", errNotBelow, mounts[0].Path))
	}
	m := mounts[i]
	if m.ReadOnly {
		return Root{}, m.rootError(explicit, unix.EROFS)
	}
	d, err := m.makePath(explicit)
	if err != nil {
		return Root{}, rootError(explicit, err)
	}
	if err := d.usable(m); err != nil {
		closeFD(d.fd)
		return Root{}, rootError(explicit, err)
	}
	return Root{Dir: d, Source: RootFlag, Mount: m}, nil
}

var (
	errNotBelow = errors.New("the path is not below a cgroup2 mount")
	errOutside  = errors.New("the caller runs outside of it and may not put processes into it")

	errUndelegated = fmt.Errorf("%w", fs.ErrPermission) // told from others to blame systemd's unit for it
)

// rootError is a refusal whose hint names the setting of systemd that is to blame, if
// one is.
func (m Mount) rootError(tried string, err error) *NoRootError {
	e := rootError(tried, err)
	if u, ok := m.startedUnit(); ok {
		hint := u.hint(err)
		e.hint, e.Unit = cmp.Or(hint, e.hint), hint != ""
	}
	return e
}

func rootError(tried string, err error) *NoRootError {
	e := &NoRootError{Path: tried, Err: err}
	var hinted interface{ Hint() string }
	switch {
	case errors.As(err, &hinted):
		e.hint = hinted.Hint()
	case errors.Is(err, errNotBelow), errors.Is(err, ErrNoCgroup2):
		e.hint = "name a directory below the cgroup2 mount, such as /sys/fs/cgroup/pitvisor; findmnt -t cgroup2 shows it"
	case errors.Is(err, unix.EROFS):
		e.hint = hintReadOnly
	case errors.Is(err, errOutside):
		e.hint = "the kernel wants the starter inside the delegated tree: systemd-run --user --scope -p Delegate=yes pitvisor ... puts it there"
	case errors.Is(err, fs.ErrPermission):
		e.hint = hintDelegate
	default:
		e.hint = "name another directory with --cgroup-root"
	}
	return e
}

// makePath opens a path below the mount, and makes what is missing of it.
func (m Mount) makePath(p string) (*Dir, error) {
	below, _ := cutDir(p, m.Path)
	names := strings.FieldsFunc(below, func(r rune) bool { return r == '/' })
	d, err := Open(m.Path)
	if err != nil {
		return nil, err
	}
	return d.makeBelow(names)
}

// makeBelow goes down from d, which it closes unless it is the last one. What it
// made is removed again if it cannot get to the end.
func (d *Dir) makeBelow(names []string) (*Dir, error) {
	if len(names) == 0 {
		return d, nil
	}
	defer closeFD(d.fd)
	made := false
	child, err := d.OpenChild(names[0])
	if errors.Is(err, fs.ErrNotExist) {
		if child, err = d.Create(names[0]); errors.Is(err, fs.ErrExist) {
			child, err = d.OpenChild(names[0]) // another one made it just now
		} else {
			made = err == nil
		}
	}
	if err != nil {
		return nil, err
	}
	last, err := child.makeBelow(names[1:])
	if err != nil && made {
		_ = rmdirAt(d.fd, names[0]) // the error that counts is the one below
	}
	return last, err
}

// delegatedRoot returns the caller's own cgroup, or the one above if the own one is
// a supervisor's leaf, if it was given to the caller. Otherwise it returns nil.
func (m Mount) delegatedRoot() *Dir {
	self, err := m.selfPath()
	if err != nil {
		return nil
	}
	private := self == m.Path && m.privateUnit()
	if self == m.Path && os.Geteuid() == 0 && !private {
		return nil // root of the hierarchy, or of a container: <mount>/pitvisor serves
	}
	candidates := []string{self}
	if isSupervisor(path.Base(self)) {
		candidates = []string{path.Dir(self), self}
	}
	for _, p := range candidates {
		d, err := Open(p)
		if err != nil {
			continue
		}
		if (private || d.delegated()) && d.usable(m) == nil {
			return d
		}
		closeFD(d.fd)
	}
	return nil
}

// isSupervisor knows the names of the cgroups that supervisors live in.
func isSupervisor(name string) bool {
	return name == "supervisor" || strings.HasPrefix(name, "supervisor-")
}

// delegated says whether the cgroup was meant to be managed by us. systemd marks
// those of Delegate=yes; a user may also simply own one. To root everything looks
// writable, so for root only the mark counts.
func (d *Dir) delegated() bool {
	for _, mark := range []string{"user.delegate", "trusted.delegate"} {
		if v, err := d.Xattr(mark); err == nil && string(v) == "1" {
			return true
		}
	}
	if os.Geteuid() == 0 {
		return false
	}
	return accessAt(d.fd, ".") == nil && accessAt(d.fd, "cgroup.procs") == nil
}

// usable says why no process could be started in cgroups below this one. What it
// cannot foresee, the first start will say.
func (d *Dir) usable(m Mount) error {
	if err := accessAt(d.fd, "."); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if err := accessAt(d.fd, "cgroup.procs"); err != nil && !isGone(err) {
		return err
	}
	return d.reachable(m)
}

// reachable checks the kernel's rule for moving and cloning: the caller must be able
// to write cgroup.procs of the nearest cgroup that holds both it and the target.
func (d *Dir) reachable(m Mount) error {
	self, err := m.selfPath()
	if err != nil {
		return nil // not to be known here
	}
	common := m.Path
	below, _ := cutDir(self, m.Path)
	for name := range strings.SplitSeq(strings.Trim(below, "/"), "/") {
		next := path.Join(common, name)
		if _, ok := cutDir(d.Path(), next); !ok {
			break
		}
		common = next
	}
	if err := accessAt(unix.AT_FDCWD, path.Join(common, "cgroup.procs")); err != nil {
		return fmt.Errorf("%w: %s/cgroup.procs: %w", errOutside, common, err)
	}
	return nil
}

// accessAt says whether the effective user may write there.
func accessAt(dirfd int, name string) error {
	for {
		err := unix.Faccessat(dirfd, name, unix.W_OK, unix.AT_EACCESS)
		if err != unix.EINTR {
			return err
		}
	}
}
