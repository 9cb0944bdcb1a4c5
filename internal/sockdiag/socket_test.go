package sockdiag

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/internal/procfs"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// inodeOf returns the inode of a socket of package net.
func inodeOf(t *testing.T, c any) uint64 {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return st.Ino
}

// waiting opens one socket of each kind that others can reach, and returns what is
// to be found of them.
func waiting(t *testing.T) []Socket {
	t.Helper()
	var want []Socket
	dir := t.TempDir()
	for _, network := range []string{"tcp4", "tcp6", "unix", "unixpacket"} {
		address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		if address == "" {
			address = filepath.Join(dir, network+" with a space")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		want = append(want, of(l.Addr(), inodeOf(t, l)))
	}
	for _, network := range []string{"udp4", "udp6", "unixgram"} {
		address := map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network]
		if address == "" {
			address = fmt.Sprintf("@pitvisor-test-%d", os.Getpid())
		}
		c, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		want = append(want, of(c.LocalAddr(), inodeOf(t, c)))
	}
	// The kernel calls a Unix socket that others have connected to connected itself.
	last := want[len(want)-1]
	sender, err := net.Dial("unixgram", last.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	return want
}

func of(address net.Addr, inode uint64) Socket {
	s := Socket{Inode: inode}
	switch a := address.(type) {
	case *net.TCPAddr:
		s.Addr, s.Port, s.UID = addr(a.IP.String()), uint16(a.Port), uint32(os.Getuid())
	case *net.UDPAddr:
		s.Proto, s.Addr, s.Port, s.UID = UDP, addr(a.IP.String()), uint16(a.Port), uint32(os.Getuid())
	case *net.UnixAddr:
		s.Path = a.Name
		s.Proto = map[string]Proto{"unix": Unix, "unixpacket": Unixpacket, "unixgram": Unixgram}[a.Net]
	}
	return s
}

// mustHave compares the parts that every source tells.
func mustHave(t *testing.T, source string, got, want []Socket) {
	t.Helper()
	for _, w := range want {
		i := slices.IndexFunc(got, func(s Socket) bool { return s.Inode == w.Inode })
		if i < 0 {
			t.Errorf("%s: no %v socket %d at %v", source, w.Proto, w.Inode, w)
			continue
		}
		if g := got[i]; g.Proto != w.Proto || g.Addr != w.Addr || g.Port != w.Port || g.Path != w.Path || g.UID != w.UID {
			t.Errorf("%s: socket %+v, want %+v", source, g, w)
		}
	}
}

func TestAllKindsByDiagAndByTable(t *testing.T) {
	linuxtest.NoLeaks(t)
	want := waiting(t)
	// These are not to be found: nobody can reach them.
	mute, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mute)
	client, err := net.Dial("udp4", want[4].String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	byTable, err := tables{threadSelf}.all()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(mute, &st); err != nil {
		t.Fatal(err)
	}
	for source, got := range map[string][]Socket{"All": all, "the tables": byTable} {
		mustHave(t, source, got, want)
		for _, not := range []uint64{st.Ino, inodeOf(t, client)} {
			if slices.ContainsFunc(got, func(s Socket) bool { return s.Inode == not }) {
				t.Errorf("%s: has socket %d, which waits for nobody", source, not)
			}
		}
	}
}

// The cgroup of a socket's maker is told, and so is who made it.
func TestDiagTellsTheCgroup(t *testing.T) {
	want := waiting(t)
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Inode == want[0].Inode && s.Cgroup == 0 {
			t.Errorf("socket %+v without a cgroup", s)
		}
	}
}

// A process in a namespace of its own shows other sockets than ours, whether the
// namespace may be entered or only its tables may be read.
func TestOfAnotherNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	linuxtest.NoLeaks(t)
	ours := waiting(t)
	want := make(chan Socket)
	end := make(chan struct{})
	defer close(end)
	tid := make(chan int)
	go onThrowAway(func() {
		defer close(want)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		want <- Socket{Inode: st.Ino}
		<-end
	})
	// A thread has a directory of its own below /proc, like a process.
	p, err := procfs.Open(<-tid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	inode := (<-want).Inode
	byTable, err := tables{p.Open}.all()
	if err != nil {
		t.Fatal(err)
	}
	entered, err := Of(p)
	if err != nil {
		t.Fatal(err)
	}
	for source, got := range map[string][]Socket{"entered": entered, "by table": byTable} {
		if len(got) != 1 || got[0].Inode != inode || got[0].Addr != addr("0.0.0.0") || got[0].Port == 0 {
			t.Errorf("%s: %+v, want only socket %d, and none of ours (%d)", source, got, inode, len(ours))
		}
	}
	ns, err := NSOf(p)
	if err != nil || ns == nil {
		t.Fatalf("NSOf = %v, %v, want another namespace", ns, err)
	}
	ns.Close()
}

func TestNSOfOurselvesIsNil(t *testing.T) {
	p, err := procfs.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if ns, err := NSOf(p); err != nil || ns != nil {
		t.Errorf("NSOf = %v, %v, want nil for our own", ns, err)
	}
	mine, err := Of(p)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, "Of ourselves", mine, nil)
}

// A thread that was thrown away must not be the main one: /proc/self would show
// the process in the other namespace for ever.
func TestDoIsNeverOnTheMainThread(t *testing.T) {
	for range 50 {
		done := make(chan int)
		go onThrowAway(func() { done <- unix.Gettid() })
		if tid := <-done; tid == os.Getpid() {
			t.Fatal("ran on the main thread")
		}
	}
}

// A thread that has been in another namespace must not serve anybody else.
func TestDoLeavesNobodyElsewhere(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	other := make(chan *NS)
	end := make(chan struct{})
	go onThrowAway(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		other <- &NS{fd}
		<-end
	})
	ns := <-other
	close(end)
	defer ns.Close()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		err := ns.Do(func() error {
			if here, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || here == home {
				t.Errorf("Do runs in %s, %v, want another than %s", here, err, home)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Every thread that there is gets one of these.
	const n = 50
	where := make(chan string, n)
	hold := make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			here, _ := os.Readlink("/proc/thread-self/ns/net")
			where <- here
			<-hold
		}()
	}
	for range n {
		if here := <-where; here != home {
			t.Errorf("a thread is left in %s, want %s", here, home)
		}
	}
	close(hold)
}

func TestListenersOfAFreePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	if all, err := Listeners(port); err != nil || len(all) != 1 || all[0].Inode != inodeOf(t, l) {
		t.Errorf("Listeners = %v, %v, want the one", all, err)
	}
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if all, err := (tables{threadSelf}).listeners(port); err != nil || len(all) != 1 || all[0].Inode != inodeOf(t, l) {
		t.Errorf("the tables = %v, %v, want the one", all, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := Listeners(port); err != nil || len(all) != 0 {
		t.Errorf("Listeners = %v, %v, want none", all, err)
	}
}

func TestV6OnlyIsTold(t *testing.T) {
	for network, want := range map[string]bool{"tcp6": true, "tcp": false} {
		l, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all, err := diag(tcpRequests(l.Addr().(*net.TCPAddr).AddrPort().Port()), nil)
		if err != nil || len(all) != 1 || all[0].V6Only != want {
			t.Errorf("%s: %+v, %v, want V6Only %v", network, all, err, want)
		}
	}
}

// A path with line feeds must not make a listener of what is none, nor hide one.
func TestUnixPathWithLineFeeds(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := of(l.Addr(), inodeOf(t, l))
	forged := fmt.Sprintf("%s\n0: 2 0 00010000 0001 01 %d /forged", filepath.Join(dir, "b"), want.Inode)
	if len(forged) > 100 {
		forged = fmt.Sprintf("@\n0: 2 0 00010000 0001 01 %d /f", want.Inode)
	}
	hostile, err := net.Listen("unix", forged)
	if err != nil {
		t.Fatal(err)
	}
	defer hostile.Close()
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, "All", all, []Socket{want, of(hostile.Addr(), inodeOf(t, hostile))})
	if _, err := (tables{threadSelf}).all(); err != nil {
		t.Errorf("the tables: %v", err)
	}
}

func TestProtoString(t *testing.T) {
	var words []string
	for p := TCP; p <= Unixgram; p++ {
		words = append(words, p.String())
	}
	if got := strings.Join(words, " "); got != "tcp udp unix unixpacket unixgram" {
		t.Errorf("protocols are %s", got)
	}
}
