package probe

import (
	"runtime"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// withoutPtrace runs f on a thread that may not look into other processes.
func withoutPtrace(t *testing.T, f func()) {
	t.Helper()
	linuxtest.NeedCapability(t, unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE, to give it up")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its lack of rights
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&hdr, &data[0])
		data[0].Effective &^= 1 << unix.CAP_SYS_PTRACE
		if err == nil {
			err = unix.Capset(&hdr, &data[0])
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A supervisor in a container may not read the descriptors of workers of other
// users. The kernel still knows in which cgroup a socket was made.
func TestHiddenDescriptors(t *testing.T) {
	r, out := portRig(t, Rules{TCP: ":{port}"}, "listen")
	port := out.port(t)
	a := r.attempt.(*attempt)
	a.main, a.leaf = r.main, r.leaf
	withoutPtrace(t, func() {
		_, hidden, err := heldSockets(r.leaf, []uint64{1})
		if err != nil || len(hidden) != 1 {
			t.Errorf("heldSockets = %v, %v, want one hidden process", hidden, err)
		}
		if err := a.checkOwner(nil, a.tcp.at(port)[0]); err != nil {
			t.Errorf("checkOwner = %v, want the leaf's socket known by its cgroup", err)
		}
		mine, _, err := a.divide([]sockdiag.Socket{{Inode: 1}})
		if err == nil || !strings.Contains(err.Error(), "hidden from us (CAP_SYS_PTRACE would show them)") {
			t.Errorf("divide without a cgroup = %v, %v, want that it cannot tell", mine, err)
		}
	})
}

func TestHiddenStrangerIsStillAStranger(t *testing.T) {
	stranger, other := place(t), newPrinted(t)
	stranger.startIn(stranger.leaf.Path(), other.write, linuxtest.Helper(t, "listen")...)
	port := other.port(t)
	r, _ := portRig(t, Rules{TCP: ":{port}"}, "sit")
	a := r.attempt.(*attempt)
	a.main, a.leaf = r.main, r.leaf
	withoutPtrace(t, func() {
		mustBeTaken(t, a.checkOwner(nil, a.tcp.at(port)[0]), nil)
	})
}

// What is read through a process's directory is about that process or nobody,
// also when its number was given to another.
func TestR01MemberIsNotItsSuccessor(t *testing.T) {
	r := place(t)
	first := r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "sit")...)
	p, err := procfs.Open(first.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if !stillIn(p, r.leaf) {
		t.Error("a member of the leaf is not seen as one")
	}
	first.Kill(t)
	second := linuxtest.Command{Args: linuxtest.Helper(t, "sit"), PID: first.PID(), Cgroup: r.leaf.Path()}.Start(t)
	if second.PID() != first.PID() {
		t.Fatalf("the second process has number %d, want %d", second.PID(), first.PID())
	}
	if stillIn(p, r.leaf) {
		t.Error("the successor is taken for the process")
	}
}
