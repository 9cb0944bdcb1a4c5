package linuxtest

import (
	"errors"
	"os"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest/confine"
	"golang.org/x/sys/unix"
)

// InContainer starts a program in a container of its own, which is in a cgroup of its
// own, and returns the container's PID 1. That ends with the program's exit code (128
// and the signal when a signal ended it), and everything in the container ends with
// it. The program's Dir is one of the container, its Cgroup the one that the container
// is in; "" is a new one. Skips without root and CAP_SYS_ADMIN.
//
// What lies in the test's TMPDIR is in the container at the same place, where it may
// be changed; all else that it changes in the file system is its own.
func InContainer(tb testing.TB, container confine.Container, c Command) *Process {
	tb.Helper()
	NeedRoot(tb, "to make a container")
	NeedCapability(tb, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN to make a container")
	if c.Cgroup == "" {
		c.Cgroup = Cgroup(tb)
	}
	container.Dir, c.Dir = c.Dir, ""
	container.Files = len(c.Extra)
	container.Binds = append([]confine.Bind{
		{From: current.exe, To: current.exe}, {From: current.tmp, To: current.tmp, Writable: true},
	}, container.Binds...)
	argv, err := container.Argv(Helper(tb, "container"), c.Args)
	if err != nil {
		tb.Fatalf("container: %v", err)
	}
	c.Args, c.cloneflags = argv, confine.Cloneflags
	p, err := c.start()
	if errors.Is(err, unix.EPERM) {
		Skip(tb, "needs to be allowed to make namespaces for a container")
	}
	if err != nil {
		tb.Fatalf("start %q in a container: %v", c.Args, err)
	}
	tb.Cleanup(func() { p.end(tb) })
	return p
}

// modeContainer is PID 1 of the container, and then the program on its way.
func modeContainer(args []string) int { return confine.Enter(os.Args[:2], args) }
