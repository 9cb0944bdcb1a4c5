package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/supervise"
)

var errNoListener = errors.New("a connection was accepted, but no socket listens there")

// checkOwner returns nil when connections to the address reach the leaf's
// processes and nobody else: at least one listening socket that takes them is
// open in the leaf, and every socket of the port that could take them, or shares
// the port with the leaf's, is too. A socket that a process outside has inherited
// from the leaf, or handed to it, counts as the leaf's.
//
// With a stranger on the port the error wraps supervise.ErrPortTaken.
func (a *attempt) checkOwner(ns *netNS, to netip.AddrPort) error {
	var all []listener
	err := ns.do(func() (err error) {
		all, err = listeners(int(to.Port()))
		return err
	})
	if err != nil {
		return err
	}
	takes := func(l listener) bool { return l.takes(to.Addr()) }
	if !slices.ContainsFunc(all, takes) {
		return errNoListener
	}
	mine, others, err := a.divide(all)
	if err != nil {
		return err
	}
	for _, o := range others {
		if takes(o) || slices.ContainsFunc(mine, o.overlaps) {
			return a.taken(o, to.Port())
		}
	}
	return nil
}

// divide tells the leaf's sockets from the others'. It fails when it cannot tell.
func (a *attempt) divide(all []listener) (mine, others []listener, err error) {
	inodes := make([]uint64, 0, len(all))
	for _, l := range all {
		inodes = append(inodes, l.inode)
	}
	held, hidden, err := heldSockets(a.leaf, inodes)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range all {
		ours := held[l.inode]
		if !ours && len(hidden) > 0 {
			// The descriptors cannot be read: a process of another user, or one
			// that is not dumpable. The kernel still knows where a socket was made.
			if ours, err = a.madeHere(l); err != nil {
				return nil, nil, fmt.Errorf("tell whether %s has the socket: %w", strings.Join(hidden, ", "), err)
			}
		}
		if ours {
			mine = append(mine, l)
		} else {
			others = append(others, l)
		}
	}
	return mine, others, nil
}

// madeHere reports whether a socket was made by a process of the leaf.
func (a *attempt) madeHere(l listener) (bool, error) {
	if l.cgroup == 0 {
		return false, errors.New("its descriptors are hidden from us (CAP_SYS_PTRACE would show them)")
	}
	return a.leaf.Contains(l.cgroup)
}

// taken says who has the port. To look through all processes is expensive, so
// each stranger is looked up once per start.
func (a *attempt) taken(l listener, port uint16) error {
	name, known := a.strangers[l.inode]
	if !known {
		if name = findHolder(l.inode); name == "" {
			name = fmt.Sprintf("a process of uid %d that is hidden from us", l.uid)
		}
		if a.strangers == nil {
			a.strangers = make(map[uint64]string)
		}
		a.strangers[l.inode] = name
	}
	return fmt.Errorf("%w: %s listens on %s", supervise.ErrPortTaken, name, netip.AddrPortFrom(l.addr, port))
}

// takes reports whether a connection to addr may reach the socket. It looks at
// no device: a connection that we make may come in through any.
func (l listener) takes(addr netip.Addr) bool {
	own, addr := l.addr.Unmap(), addr.Unmap()
	switch {
	case own == addr:
		return true
	case !own.IsUnspecified():
		return false
	case own.Is4():
		return addr.Is4()
	}
	return addr.Is6() || !l.v6only
}

// overlaps reports whether some connection may reach either socket.
func (l listener) overlaps(o listener) bool {
	if l.device != 0 && o.device != 0 && l.device != o.device {
		return false
	}
	return l.takes(o.addr) || o.takes(l.addr)
}
