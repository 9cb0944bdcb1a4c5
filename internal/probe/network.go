package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/supervise"
)

// repeat tries until it holds, ctx ends, or nothing can change any more. The
// pauses grow from a sixteenth of the interval to the whole, so that a quick
// worker is not kept waiting. A port that a stranger has is given some time: it
// may belong to a run that is just being swept.
func (a *attempt) repeat(ctx context.Context, rule string, try func(ctx context.Context, n int) error) error {
	pause := max(a.rules.Interval/16, time.Millisecond)
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := errors.New("not tried yet")
	var taken time.Time // since when a stranger is there
	for n := 1; ; n++ {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return &NotReadyError{Rule: rule, Last: last, Tries: n - 1, Cause: context.Cause(ctx)}
		}
		err := a.gone()
		if err == nil {
			err = a.tryOnce(ctx, n, try)
		}
		if err == nil {
			return nil
		}
		if !over(ctx) || n == 1 {
			last = err // not one that the end of ctx made
		}
		switch {
		case !errors.Is(err, supervise.ErrPortTaken):
			taken = time.Time{}
		case taken.IsZero():
			taken = time.Now()
		case time.Since(taken) >= a.patience:
			err = final(err)
		}
		if isFinal(err) {
			return &NotReadyError{Rule: rule, Last: err, Tries: n}
		}
		timer.Reset(pause)
		pause = min(2*pause, max(a.rules.Interval, time.Millisecond))
	}
}

func (a *attempt) tryOnce(ctx context.Context, n int, try func(context.Context, int) error) error {
	tctx, cancel := context.WithTimeout(ctx, a.rules.TryTimeout)
	defer cancel()
	err := try(tctx, n)
	if err != nil && over(tctx) && !over(ctx) && !errors.Is(err, supervise.ErrPortTaken) && !isFinal(err) {
		return fmt.Errorf("no answer within %v", a.rules.TryTimeout)
	}
	return err
}

// over reports whether ctx has ended or is just about to: a socket with the same
// deadline may notice first.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// asker asks over a connection.
type asker func(context.Context, net.Conn) error

// lookEvery is how many tries go by before the worker's network namespace is
// looked at again: it may move to another, but hardly ever does.
const lookEvery = 8

// awaitPort connects to an address, from inside the worker's network namespace,
// until the answer pleases.
func (a *attempt) awaitPort(ctx context.Context, name string, t *target, ask asker) error {
	port := t.portOr(a.port())
	rule := fmt.Sprintf("%s %s:%d", name, t.name, port)
	if port == 0 {
		return &NotReadyError{Rule: rule, Last: errors.New("the worker has told no port")}
	}
	addrs := t.at(port)
	var ns *sockdiag.NS
	defer func() { ns.Close() }()
	known := false
	return a.repeat(ctx, rule, func(ctx context.Context, n int) (err error) {
		if !known || n%lookEvery == 0 {
			ns.Close()
			ns, err = a.netNS()
			if known = err == nil; !known {
				return err
			}
		}
		return a.tryPort(ctx, ns, addrs, ask)
	})
}

// netNS returns the network namespace of the worker.
func (a *attempt) netNS() (*sockdiag.NS, error) {
	p, err := a.anchor()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return netNS(p)
}

// tryPort asks once. It connects first, because that is cheap as long as nobody
// listens. The owner of the port is looked at before and after the question: the
// answer counts only if nobody else can have given it.
func (a *attempt) tryPort(ctx context.Context, ns *sockdiag.NS, addrs []netip.AddrPort, ask asker) error {
	conn, err := dial(ctx, ns, addrs)
	if err != nil {
		return plain(err)
	}
	defer conn.Close()
	to := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if err := a.checkOwner(ns, to); err != nil || ask == nil {
		return err
	}
	if err := ask(ctx, conn); err != nil {
		return plain(err)
	}
	return a.checkOwner(ns, to)
}

// awaitTCP asks for no more than a connection.
func (a *attempt) awaitTCP(ctx context.Context) error {
	return a.awaitPort(ctx, "tcp", a.tcp, nil)
}

// plain strips what the rule says already: "dial tcp 127.0.0.1:80: connect: ".
func plain(err error) error {
	var op *net.OpError
	var errno syscall.Errno
	if errors.As(err, &op) && errors.As(op.Err, &errno) {
		return errno
	}
	return err
}
