package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
)

// benchAttempt is a TCP rule for a process that holds a leaf and, with listen,
// a port; among others' listeners.
func benchAttempt(b *testing.B, others int) (*attempt, netip.AddrPort) {
	b.Helper()
	for range others {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = l.Close() })
	}
	leaf, err := cgroup.Open(linuxtest.Cgroup(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = leaf.Close() })
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	p := linuxtest.Command{Args: linuxtest.Helper(b, "listen"), Cgroup: leaf.Path(), Stdout: w}.Start(b)
	_ = w.Close()
	var port int
	if _, err := fmt.Fscanf(r, "listening on %d", &port); err != nil {
		b.Fatal(err)
	}
	main, err := pidfd.Open(p.PID())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = main.Close() })
	rd, err := New(Rules{TCP: fmt.Sprintf("127.0.0.1:%d", port)}, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	a := &attempt{readiness: rd.(*readiness), info: supervise.StartInfo{}, main: main, leaf: leaf}
	return a, a.tcp.at(port)[0]
}

// What one look at the owner of a port costs, among others' listening sockets.
func BenchmarkCheckOwner(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprintf("listeners=%d", others), func(b *testing.B) {
			a, addr := benchAttempt(b, others)
			b.ReportAllocs()
			for b.Loop() {
				if err := a.checkOwner(nil, addr); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What one try costs as long as nobody listens: this is what is repeated.
func BenchmarkTryRefused(b *testing.B) {
	a, _ := benchAttempt(b, 1000)
	a.tcp, _ = parseTarget("127.0.0.1:1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		_ = a.tryPort(ctx, nil, a.tcp.at(0), nil)
	}
}
