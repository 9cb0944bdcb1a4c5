package server

import (
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// onHangup calls gone when the other side of a unix socket has closed it, until stop.
// net/http looks no further than to the beginning of the next request: of a caller who
// has sent one, and left, it hears nothing while there is nothing to write.
func onHangup(r *http.Request, gone func()) (stop func(), err error) {
	p, _ := r.Context().Value(peerKey{}).(*peer)
	if p == nil || p.conn == nil {
		return func() {}, nil // on TCP: who calls has the token
	}
	var f *os.File // of our own, as net/http waits with the other one
	err = p.ask(func(fd int) error {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			f = os.NewFile(uintptr(own), "connection")
		}
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("dup a connection", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close() // the other error matters
		return nil, err
	}
	var group sync.WaitGroup
	group.Go(func() {
		if raw.Read(hungUp) == nil { // else by stop
			gone()
		}
	})
	return func() {
		_ = f.Close() // a duplicate; nothing to lose
		group.Wait()
	}, nil
}

// hungUp says whether the other side has closed; bytes that it has sent do not matter.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
