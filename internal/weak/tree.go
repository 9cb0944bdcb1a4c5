package weak

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// Tree is a command and all its descendants. Its methods may be called from several
// goroutines, Close after all of them have returned.
type Tree struct {
	proc   *spawn.Process
	kin    kin
	before int // what the subreaper attribute was

	stopReaper context.CancelCauseFunc
	reaper     chan struct{} // closed when ReapOrphans has returned
	reaperErr  error         // what it returned
}

// ChildrenError says that the calling process has children that are not the
// command's, as it may have inherited with an exec.
type ChildrenError struct{ PIDs []int }

// Error names them.
func (e *ChildrenError) Error() string {
	noun := "children"
	if len(e.PIDs) == 1 {
		noun = "child"
	}
	pids := strings.Trim(fmt.Sprint(e.PIDs), "[]")
	return fmt.Sprintf("this process has %s already (%s), whose orphans could not be told from the command's", noun, pids)
}

// Hint says how to have none.
func (e *ChildrenError) Hint() string {
	return "start pitvisor without exec in front of it, so that it is a process of its own"
}

// Start makes the calling process one that orphans are given to, and starts a
// command in its own cgroup. Leaf and Weak of c are not looked at. The error is a
// *[ChildrenError], a *[spawn.Error], or the kernel's refusal of the attribute.
//
// Until Close this process must start nothing else, and reap nothing by itself:
// orphans are reaped here.
func Start(c spawn.Cmd) (*Tree, error) {
	kin, err := newKin()
	if err != nil {
		return nil, err
	}
	t := &Tree{kin: kin}
	if err := t.refuseChildren(); err != nil {
		return nil, err
	}
	if t.before, err = becomeSubreaper(); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	c.Leaf, c.Weak = nil, true
	if t.proc, err = spawn.Start(&c); err != nil {
		return nil, errors.Join(err, setSubreaper(t.before))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	t.stopReaper, t.reaper = cancel, make(chan struct{})
	go func() {
		defer close(t.reaper)
		t.reaperErr = spawn.ReapOrphans(ctx)
	}()
	return t, nil
}

func (t *Tree) refuseChildren() error {
	members, err := t.Members()
	if err != nil || len(members) == 0 {
		return err
	}
	e := &ChildrenError{}
	for _, m := range members {
		e.PIDs = append(e.PIDs, m.PID)
	}
	return e
}

// becomeSubreaper sets the attribute and returns what it was.
func becomeSubreaper() (before int, err error) {
	var was int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&was)), 0, 0, 0); err != nil {
		return 0, err
	}
	return int(was), setSubreaper(1)
}

func setSubreaper(on int) error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(on), 0, 0, 0)
}

// Process returns the command itself. It belongs to t; the caller may reap it.
func (t *Tree) Process() *spawn.Process { return t.proc }

// Members returns the living descendants of this process, the command included. One
// that is forked meanwhile may be missing.
func (t *Tree) Members() ([]pidfd.Identity, error) {
	all, err := t.kin.hold()
	defer all.close()
	members := make([]pidfd.Identity, 0, len(all))
	for _, p := range all {
		id, idErr := p.Identity()
		if idErr == nil {
			members = append(members, id)
		} else if err == nil && !isDone(idErr) {
			err = idErr
		}
	}
	if err != nil {
		return members, fmt.Errorf("list the descendants: %w", err)
	}
	return members, nil
}

// Signal sends a signal to every living descendant, the command included, and
// returns how many got it. One that is forked meanwhile may be missed. Who may not
// be signalled is left out, and the first such error is returned in the end.
func (t *Tree) Signal(sig unix.Signal) (int, error) {
	all, err := t.kin.hold() // all of them first: what dies of it has its children moved
	defer all.close()
	n := 0
	for _, p := range all {
		sigErr := p.Signal(sig)
		if sigErr == nil {
			n++
		} else if err == nil && !isDone(sigErr) {
			err = sigErr
		}
	}
	return n, err
}

// Close gives back what t holds. Nobody reaps orphans from then on, and this process
// gets no further ones. It ends nothing: see [Tree.Kill].
func (t *Tree) Close() error {
	t.stopReaper(errClosed)
	<-t.reaper
	err := t.reaperErr
	if errors.Is(err, errClosed) {
		err = nil
	}
	return errors.Join(err, setSubreaper(t.before), t.proc.Close())
}

// errClosed ends the reaper.
var errClosed = errors.New("the tree is closed")
