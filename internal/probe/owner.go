package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
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
func (a *attempt) checkOwner(ns *sockdiag.NS, to netip.AddrPort) error {
	var all []sockdiag.Socket
	err := ns.Do(func() (err error) {
		all, err = sockdiag.Listeners(to.Port())
		return err
	})
	if err != nil {
		return err
	}
	reached := func(s sockdiag.Socket) bool { return takes(s, to.Addr()) }
	if !slices.ContainsFunc(all, reached) {
		return errNoListener
	}
	mine, others, err := a.divide(all)
	if err != nil {
		return err
	}
	for _, o := range others {
		if reached(o) || slices.ContainsFunc(mine, func(m sockdiag.Socket) bool { return overlap(o, m) }) {
			return a.taken(o)
		}
	}
	return nil
}

// divide tells the leaf's sockets from the others'. It fails when it cannot tell.
func (a *attempt) divide(all []sockdiag.Socket) (mine, others []sockdiag.Socket, err error) {
	inodes := make([]uint64, 0, len(all))
	for _, l := range all {
		inodes = append(inodes, l.Inode)
	}
	held, hidden, err := heldSockets(a.leaf, inodes)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range all {
		ours := held[l.Inode]
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
func (a *attempt) madeHere(l sockdiag.Socket) (bool, error) {
	if l.Cgroup == 0 {
		return false, errors.New("its descriptors are hidden from us (CAP_SYS_PTRACE would show them)")
	}
	return a.leaf.Houses(l.Cgroup)
}

// taken says who has the port. To look through all processes is expensive, so
// each stranger is looked up once per start.
func (a *attempt) taken(l sockdiag.Socket) error {
	name, known := a.strangers[l.Inode]
	if !known {
		if name = sockdiag.Holder(l.Inode); name == "" {
			name = fmt.Sprintf("a process of uid %d that is hidden from us", l.UID)
		}
		if a.strangers == nil {
			a.strangers = make(map[uint64]string)
		}
		a.strangers[l.Inode] = name
	}
	return fmt.Errorf("%w: %s listens on %s", supervise.ErrPortTaken, name, l)
}

// takes reports whether a connection to addr may reach the socket. It looks at
// no device: a connection that we make may come in through any.
func takes(l sockdiag.Socket, addr netip.Addr) bool {
	own, addr := addrOf(l).Unmap(), addr.Unmap()
	switch {
	case own == addr:
		return true
	case !own.IsUnspecified():
		return false
	case own.Is4():
		return addr.Is4()
	}
	return addr.Is6() || !l.V6Only
}

// overlap reports whether some connection may reach either socket.
func overlap(l, o sockdiag.Socket) bool {
	if l.Device != 0 && o.Device != 0 && l.Device != o.Device {
		return false
	}
	return takes(l, addrOf(o)) || takes(o, addrOf(l))
}

// addrOf returns the address in the words of package netip.
func addrOf(s sockdiag.Socket) netip.Addr {
	addr, _ := netip.AddrFromSlice(s.Addr.Bytes())
	return addr
}
