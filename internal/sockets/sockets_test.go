package sockets

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestMain(m *testing.M) { linuxtest.Main(m, nil) }

// set puts sockets in force.
func set(t *testing.T, s *Set, specs ...Spec) *Change {
	t.Helper()
	c, err := s.Prepare(specs)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(); err != nil {
		t.Fatal(err)
	}
	return c
}

func newSet(t *testing.T) *Set {
	s := NewSet(nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func spec(name string, listen ...string) Spec {
	return Spec{Name: name, Listen: listen, UID: -1, GID: -1}
}

// given returns what a worker is given, as listeners and packet connections.
func given(t *testing.T, h supervise.Inheritance) []*os.File {
	t.Helper()
	got, err := h.Prepare(supervise.StartInfo{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range got.Files {
			_ = f.Close()
		}
	})
	return got.Files
}

// freePort is a port that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).String()
}

// TestEveryKindTakesWhatIsSent.
func TestEveryKindTakesWhatIsSent(t *testing.T) {
	linuxtest.NoLeaks(t)
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(freePort(t))
	for name, test := range map[string]struct {
		kind         Kind
		listen       string
		network, via string
	}{
		"tcp":         {Stream, "127.0.0.1:" + port, "tcp", "127.0.0.1:" + port},
		"all":         {Stream, ":" + port, "tcp", "127.0.0.1:" + port},
		"only a port": {Stream, port, "tcp", "127.0.0.1:" + port},
		"localhost":   {Stream, "localhost:" + port, "tcp", "127.0.0.1:" + port},
		"udp":         {Datagram, "127.0.0.1:" + port, "udp", "127.0.0.1:" + port},
		"unix":        {Stream, dir + "/s", "unix", dir + "/s"},
		"unixgram":    {Datagram, dir + "/d", "unixgram", dir + "/d"},
		"unixpacket":  {SeqPacket, dir + "/p", "unixpacket", dir + "/p"},
		"abstract":    {Stream, "@pitvisor-test-" + port, "unix", "@pitvisor-test-" + port},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSet(t)
			sp := spec("x", test.listen)
			sp.Kind = test.kind
			if err := Try(sp); err != nil {
				t.Fatalf("Try = %v", err)
			}
			f := given(t, set(t, s, sp).For([]string{"x"}))[0]
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("flags %#x, %v; want blocking mode, as systemd passes sockets on", flags, err)
			}
			c, err := net.Dial(test.network, test.via)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, f, test.kind); got != "hello" {
				t.Errorf("received %q", got)
			}
			if err := Try(sp); !errors.Is(err, unix.EADDRINUSE) && name != "abstract" {
				t.Errorf("Try while it is there = %v, want %v", err, unix.EADDRINUSE)
			}
		})
	}
}

// receive takes one message as a worker would.
func receive(t *testing.T, f *os.File, kind Kind) string {
	t.Helper()
	buf := make([]byte, 16)
	if kind == Datagram {
		c, err := net.FilePacketConn(f)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestStaleFileIsReplaced: what a crash has left; nothing else is touched.
func TestStaleFileIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	s := newSet(t)
	var taken *TakenError
	if _, err := s.Prepare([]Spec{spec("x", path)}); !errors.As(err, &taken) || !strings.Contains(taken.Holder, ":") {
		t.Errorf("Prepare while somebody listens = %v, want who has it", err)
	}
	_ = l.Close()
	set(t, s, spec("x", path))
	other := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare([]Spec{spec("y", other)}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Prepare in the place of a file = %v, want %v", err, fs.ErrExist)
	}
	if text, _ := os.ReadFile(other); string(text) != "precious" {
		t.Errorf("the file holds %q", text)
	}
}

// TestChangesInPlace: mode and backlog of a socket that stays; its workers notice nothing.
func TestChangesInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := newSet(t)
	first := spec("x", path)
	first.Mode = 0o600
	before := set(t, s, first).For([]string{"x"})
	mode := func() fs.FileMode {
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode().Perm()
	}
	if mode() != 0o600 {
		t.Errorf("mode %o, want 600", mode())
	}
	first.Mode, first.Backlog = 0o660, 1
	c, err := s.Prepare([]Spec{first})
	if err != nil {
		t.Fatal(err)
	}
	if mode() != 0o600 {
		t.Errorf("mode %o before the change is in force, want 600", mode())
	}
	if err := c.Commit(); err != nil {
		t.Fatal(err)
	}
	c.Retire()
	if mode() != 0o660 {
		t.Errorf("mode %o, want 660", mode())
	}
	after := c.For([]string{"x"})
	if !before.(*inheritance).Equal(after) {
		t.Error("the same socket is another inheritance")
	}
	if given(t, before); !before.(*inheritance).Equal(after) {
		t.Error("the same socket is another inheritance")
	}
}

// TestWhatIsDroppedLivesUntilItIsRetired, because a rollout may go back to it.
func TestWhatIsDroppedLivesUntilItIsRetired(t *testing.T) {
	linuxtest.NoLeaks(t)
	one, two := freePort(t), freePort(t)
	s := newSet(t)
	old := set(t, s, spec("x", one)).For([]string{"x"})
	c, err := s.Prepare([]Spec{spec("x", two)})
	if err != nil {
		t.Fatal(err)
	}
	if c.For([]string{"x"}).(*inheritance).Equal(old) {
		t.Error("another address is the same inheritance")
	}
	c.Undo()
	if dials(two) || !dials(one) {
		t.Errorf("after Undo %s is taken %v and %s %v, want false and true", two, dials(two), one, dials(one))
	}
	c = set(t, s, spec("x", two))
	if !dials(one) || !dials(two) {
		t.Error("both are to listen until the old one is retired")
	}
	got, err := old.Prepare(supervise.StartInfo{})
	if err != nil {
		t.Fatalf("a start under the old configuration: %v", err)
	}
	_ = got.Files[0].Close()
	c.Retire()
	if dials(one) {
		t.Error("the old socket still listens")
	}
	if _, err := old.Prepare(supervise.StartInfo{}); err == nil {
		t.Error("a start gets a socket that was retired")
	}
	// One that comes back before it is retired is kept.
	c = set(t, s, spec("x", one, two))
	back := set(t, s, spec("x", one, two))
	c.Retire()
	back.Retire()
	if !dials(two) {
		t.Error("a socket that is wanted again was closed")
	}
}

func dials(address string) bool {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// TestFilesGoAtTheEnd, unless somebody else has put one in the place.
func TestFilesGoAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	s := NewSet(nil)
	set(t, s, spec("x", dir+"/mine", dir+"/replaced"))
	if err := os.Remove(dir + "/replaced"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/replaced", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir + "/mine"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket's file is there: %v", err)
	}
	if _, err := os.Lstat(dir + "/replaced"); err != nil {
		t.Errorf("somebody else's file is gone: %v", err)
	}
}

// TestPassedSockets are taken by name, and stay ours whatever configurations come.
func TestPassedSockets(t *testing.T) {
	linuxtest.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	address := l.Addr().String()
	_ = l.Close()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	f = os.NewFile(uintptr(fd), "front")
	defer f.Close()
	s := NewSet(Passed{"front": {f}})
	var missing *NotPassedError
	if _, err := s.Prepare([]Spec{{Name: "x", FD: "back"}}); !errors.As(err, &missing) || !strings.Contains(err.Error(), `only ["front"]`) {
		t.Errorf("Prepare = %v, want what there is instead", err)
	}
	first := set(t, s, Spec{Name: "x", FD: "front"}).For([]string{"x"})
	again := set(t, s, Spec{Name: "x", FD: "front"}).For([]string{"x"})
	if !first.(*inheritance).Equal(again) {
		t.Error("the same passed socket is another inheritance")
	}
	set(t, s).Retire()
	set(t, s, Spec{Name: "y", FD: "front"})
	if !dials(address) {
		t.Error("a passed socket does not listen any more")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !dials(address) {
		t.Error("the end of the set ends what belongs to who has passed it on")
	}
}

func FuzzCheckAddress(f *testing.F) {
	for _, text := range []string{"127.0.0.1:80", "[::1%lo]:80", ":80", "80", "*:80", "/run/x", "@x", "@", "[::]:0", "a:b:c", "", "localhost:70000"} {
		f.Add(text, uint8(0))
	}
	f.Fuzz(func(t *testing.T, text string, kind uint8) {
		a, err := parse(text, Kind(kind%3))
		if err != nil {
			return
		}
		if _, err := a.sockaddr(); err != nil && !strings.Contains(err.Error(), "network device") {
			t.Errorf("%q is an address, but not for the kernel: %v", text, err)
		}
		if a.path == "" && a.ip.Port() == 0 || a.String() == "" {
			t.Errorf("%q is %+v", text, a)
		}
	})
}
