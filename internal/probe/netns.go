package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netNS is the network namespace of a worker; nil stands for our own.
type netNS struct{ fd int }

// netNS returns the namespace of the process, nil when it is ours or may not be
// looked at: without privileges a worker cannot get another one than ours.
func (p *proc) netNS() (*netNS, error) {
	fd, err := unix.Openat(p.fd, "ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open the network namespace of %s: %w", p, err)
	}
	ns := &netNS{fd: fd}
	var theirs, ours unix.Stat_t
	err = unix.Fstat(fd, &theirs)
	if err == nil {
		err = unix.Stat("/proc/thread-self/ns/net", &ours)
	}
	if err != nil || theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		ns.close()
		return nil, err
	}
	return ns, nil
}

func (ns *netNS) close() {
	if ns != nil {
		_ = unix.Close(ns.fd) // a name; nothing to lose
	}
}

// do runs f on a thread that is in the namespace. What f makes (sockets,
// processes) belongs there for good; f must do it on its own goroutine.
func (ns *netNS) do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that no other
		// goroutine can wake up in the wrong namespace.
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the worker's network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// dial connects to the first address that accepts.
func (ns *netNS) dial(ctx context.Context, addrs []netip.AddrPort) (conn net.Conn, err error) {
	for _, addr := range addrs {
		err = ns.do(func() (err error) {
			// A literal address is dialled on this goroutine: no resolver, no race
			// of two families.
			var d net.Dialer
			conn, err = d.DialContext(ctx, "tcp", addr.String())
			return err
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return conn, err
}
