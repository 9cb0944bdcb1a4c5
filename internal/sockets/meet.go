package sockets

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// meets says whether a socket of this machine has the address, or a part of it.
func (l *listener) meets(s *sockdiag.Socket) bool {
	if l.path != "" {
		return s.Path == l.path
	}
	want := sockdiag.TCP
	if l.kind == Datagram {
		want = sockdiag.UDP
	}
	if s.Proto != want || s.Port != l.ip.Port() {
		return false
	}
	theirs, ok := netip.AddrFromSlice(s.Addr.Bytes())
	ours := l.ip.Addr()
	return ok && (theirs.Unmap() == ours || theirs.IsUnspecified() || ours.IsUnspecified())
}

func v4(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
}

// Try says whether a socket could be opened, without opening it for anybody: nil, or the
// error that opening it would give.
func Try(s Spec) error {
	for _, text := range s.Listen {
		a, err := parse(text, s.Kind)
		if err != nil {
			return err
		}
		if err := try(&s, a); err != nil {
			return err
		}
	}
	return nil
}

func try(s *Spec, a address) error {
	l := &listener{address: a, reusePort: s.ReusePort}
	if l.inFiles() {
		return l.tryPath(s)
	}
	fd, err := l.socket(s)
	if err != nil {
		return l.explain(s, err)
	}
	defer func() { _ = unix.Close(fd) }() // never listened on
	to, err := l.sockaddr()
	if err == nil {
		err = unix.Bind(fd, to)
	}
	if err != nil {
		return l.explain(s, err)
	}
	return nil
}

// tryPath looks at the path of a unix socket, and leaves it as it is.
func (l *listener) tryPath(s *Spec) error {
	if _, err := fileAt(l.path); err != nil {
		return nil // its directory may be made at the start of the system
	}
	if lives, err := l.answers(); err != nil || lives {
		if lives {
			err = unix.EADDRINUSE
		}
		return l.explain(s, err)
	}
	return nil
}
