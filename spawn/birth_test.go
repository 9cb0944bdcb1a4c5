//go:build amd64 || arm64

package spawn

import (
	"context"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// The steps before the program are the same without autokill, on every kernel.
func TestVfork(t *testing.T) {
	linuxtest.NeedClone3(t)
	linuxtest.NoLeaks(t)
	leaf := newLeaf(t, testRoot(t), "leaf")
	null, err := openNull()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	for path, want := range map[string]struct {
		failed unix.Errno
		status int
	}{
		script(t, "#!/bin/sh\nexit 7\n"): {0, 7},
		"/no/such/program":               {unix.ENOENT, 127},
		"/etc/passwd":                    {unix.EACCES, 127},
	} {
		c := &Cmd{Path: path, Leaf: leaf, Session: SessionNew}
		born, err := c.vfork([]uintptr{uintptr(null), uintptr(null), 2}, unix.CLONE_PIDFD, unix.SIGCHLD)
		if err != nil {
			t.Fatal(err)
		}
		if err := pidfd.FromFD(born.fd, born.pid).Wait(context.Background()); err != nil {
			t.Error(err)
		}
		c2, err := waitPidfd(born.fd, 0)
		if err != nil || int(c2.status) != want.status || born.failed != want.failed || !born.executing {
			t.Errorf("%s: %+v, waitid %+v, %v, want %v and %d", path, born, c2, err, want.failed, want.status)
		}
		_ = unix.Close(born.fd)
	}
}
