package probe

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// Both ways to ask the kernel see the same sockets.
func TestListenersByDiagAndByTable(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		byDiag, err := diagListeners(port)
		if err != nil {
			t.Fatal(err)
		}
		byTable, err := procListeners(port)
		if err != nil {
			t.Fatal(err)
		}
		if len(byDiag) != 1 || len(byTable) != 1 {
			t.Fatalf("%s: %v by diag, %v by table, want one each", address, byDiag, byTable)
		}
		d, p := byDiag[0], byTable[0]
		if d.addr != p.addr || d.inode != p.inode || d.uid != p.uid {
			t.Errorf("%s: %+v by diag, %+v by table, want the same", address, d, p)
		}
		if d.inode == 0 {
			t.Errorf("%s: no inode", address)
		}
	}
}

func TestListenersOfAFreePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := listeners(port); err != nil || len(all) != 0 {
		t.Errorf("listeners = %v, %v, want none", all, err)
	}
}

func TestV6OnlyIsTold(t *testing.T) {
	for network, want := range map[string]bool{"tcp6": true, "tcp": false} {
		l, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all, err := diagListeners(l.Addr().(*net.TCPAddr).Port)
		if err != nil || len(all) != 1 || all[0].v6only != want {
			t.Errorf("%s: %+v, %v, want v6only %v", network, all, err, want)
		}
	}
}

// withoutPtrace runs f on a thread that may not look into other processes.
func withoutPtrace(t *testing.T, f func()) {
	t.Helper()
	linuxtest.NeedRoot(t)
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
		mine, _, err := a.divide([]listener{{inode: 1}})
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
func TestR01ProcIsNotItsSuccessor(t *testing.T) {
	r := place(t)
	first := r.startIn(r.leaf.Path(), nil, linuxtest.Helper(t, "sit")...)
	p, err := openProc(first.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if !p.stillIn(r.leaf) {
		t.Error("a member of the leaf is not seen as one")
	}
	first.Kill(t)
	second := linuxtest.Command{Args: linuxtest.Helper(t, "sit"), PID: first.PID(), Cgroup: r.leaf.Path()}.Start(t)
	if second.PID() != first.PID() {
		t.Fatalf("the second process has number %d, want %d", second.PID(), first.PID())
	}
	if p.stillIn(r.leaf) {
		t.Error("the successor is taken for the process")
	}
	if err := p.sockets(func(uint64) {}); err == nil {
		t.Error("the successor's descriptors are read")
	}
	r.hold(second)
	held, err := openHeld(r.main)
	if err != nil {
		t.Fatalf("openHeld of a living process: %v", err)
	}
	held.close()
	second.Kill(t)
	if _, err := openHeld(r.main); err != os.ErrProcessDone {
		t.Errorf("openHeld of a dead process = %v, want os.ErrProcessDone", err)
	}
}
