package userscope

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/pitvisor/pitvisor/cgroup"
)

// Options says what scope to ask for. ID must be set.
type Options struct {
	ID          string        // the scope is pitvisor-run-<ID>.scope; letters, digits, "-" and "_"
	Description string        // what systemctl shows; "" is the name of the scope
	Timeout     time.Duration // how long systemd may take; 0 is 10 s
	System      bool          // ask the system's manager, which wants root, and not the user's
}

// Scope is where the calling process is now.
type Scope struct {
	Unit string // its name in systemd
	Path string // the directory of its cgroup, which is delegated to the caller
}

const defaultTimeout = 10 * time.Second

// Enter moves the calling process, with all its threads, into a scope of its own. It
// cannot be undone: the kernel lets an ordinary user not go back. The scope ends by
// itself when the last process in it, or in a cgroup below it, has ended, and leaves
// no failed unit.
//
// The error is an *[Error]; its Cgroup says where the process is if it was moved all
// the same. When systemd does not answer in time it may still move the process later.
func Enter(ctx context.Context, o Options) (*Scope, error) {
	s := &Scope{Unit: prefix + o.ID + suffix}
	if o.ID == "" || strings.Trim(o.ID, idChars) != "" || len(o.ID) > 200 {
		return nil, &Error{Unit: s.Unit, Err: fmt.Errorf("%q is no name for a scope", o.ID)}
	}
	// Without cgroup v2 there is nothing to get: better not moved at all.
	if _, err := cgroup.FindMount(); err != nil {
		return nil, &Error{Cause: CauseNoCgroup2, Unit: s.Unit, Err: err}
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, err := connect(ctx, o.System)
	if err != nil {
		return nil, s.located(asError(ctx, err))
	}
	defer conn.Close()
	if err := s.request(ctx, conn, o); err != nil {
		return nil, s.located(asError(ctx, err))
	}
	if err := s.verify(ctx, conn); err != nil {
		return nil, s.located(asError(ctx, err))
	}
	return s, nil
}

const idChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// request asks for the scope and waits until systemd has done it.
func (s *Scope) request(ctx context.Context, conn *dbus.Conn, o Options) error {
	if o.Description == "" {
		o.Description = s.Unit
	}
	properties := []dbus.Property{
		dbus.PropDescription(o.Description),
		// 0 is the sender. systemd asks the kernel who that is, so that a number of
		// another PID namespace cannot mean a stranger. (PIDFDs, from systemd 255,
		// would say no more, and want a connection that takes descriptors.)
		dbus.PropPids(0),
		{Name: "Delegate", Value: godbus.MakeVariant(true)},
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
	}
	done := make(chan string, 1)
	_, err := conn.StartTransientUnitContext(ctx, s.Unit, "fail", properties, done)
	if err != nil && ctx.Err() == nil {
		return &Error{Cause: CauseRefused, Err: err}
	}
	select {
	case result := <-done:
		if result != "done" {
			return &Error{Cause: CauseRefused, Err: fmt.Errorf("the job's result is %q", result)}
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inside says whether this process is in the scope, as the kernel sees it.
func (s *Scope) inside() bool {
	path, err := cgroup.SelfPath()
	return err == nil && filepath.Base(path) == s.Unit
}

// verify makes sure that this process is in the scope and may work there.
func (s *Scope) verify(ctx context.Context, conn *dbus.Conn) error {
	if !s.inside() {
		return s.elsewhere()
	}
	path, err := cgroup.SelfPath()
	if err != nil {
		return err
	}
	if err := s.delegated(ctx, conn, path); err != nil {
		return &Error{Cause: CauseNotDelegated, Err: err}
	}
	root, err := cgroup.FindRoot("")
	if err != nil {
		return &Error{Cause: CauseNotDelegated, Err: err}
	}
	defer func() { _ = root.Dir.Close() }() // was only looked at
	if root.Dir.Path() != path {
		return &Error{Cause: CauseNotDelegated, Err: fmt.Errorf("the cgroup to work in would be %s", root.Dir.Path())}
	}
	s.Path = path
	return nil
}

// delegated says why systemd would take the cgroup for its own. It marks a delegated
// one; before systemd 251 with a mark that only root can read, so that one must ask.
func (s *Scope) delegated(ctx context.Context, conn *dbus.Conn, path string) error {
	d, err := cgroup.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // was only read
	for _, mark := range []string{"user.delegate", "trusted.delegate"} {
		if v, err := d.Xattr(mark); err == nil && string(v) == "1" {
			return nil
		}
	}
	p, err := conn.GetUnitTypePropertyContext(ctx, s.Unit, "Scope", "Delegate")
	if err != nil {
		return fmt.Errorf("ask whether %s is delegated: %w", s.Unit, err)
	}
	if yes, ok := p.Value.Value().(bool); !ok || !yes {
		return errors.New("systemd says that it is not delegated")
	}
	return nil
}
