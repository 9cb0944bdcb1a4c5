package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// netNS returns the network namespace of a worker, nil when it is ours or may not
// be looked at: without privileges a worker cannot get another one than ours.
func netNS(p *procfs.Process) (*sockdiag.NS, error) {
	ns, err := sockdiag.NSOf(p)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil
	}
	return ns, err
}

// dial connects to the first address that accepts.
func dial(ctx context.Context, ns *sockdiag.NS, addrs []netip.AddrPort) (conn net.Conn, err error) {
	for _, addr := range addrs {
		err = ns.Do(func() (err error) {
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
