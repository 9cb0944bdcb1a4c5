package procfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// hold opens a process that lives.
func hold(t *testing.T, pid int) *Process {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// What is read through a process's directory is about that process or nobody,
// also when its number was given to another.
func TestR01ProcessIsNotItsSuccessor(t *testing.T) {
	first := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	p := hold(t, first.PID())
	held, err := pidfd.Open(first.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if pr, err := OpenHeld(held); err != nil {
		t.Errorf("OpenHeld of a living process: %v", err)
	} else {
		pr.Close()
	}
	first.Kill(t)
	second := linuxtest.Command{Args: linuxtest.Helper(t, "run"), PID: first.PID()}.Start(t)
	if second.PID() != first.PID() {
		t.Fatalf("the second process has number %d, want %d", second.PID(), first.PID())
	}
	if _, err := p.Sockets(10, func(uint64) bool { return true }); err == nil {
		t.Error("the successor's descriptors are read")
	}
	if b, err := p.Read("cmdline", smallFile); err == nil {
		t.Errorf("the successor's command line is read: %q", b)
	}
	if s, err := p.Stat(); err == nil {
		t.Errorf("the successor's stat is read: %+v", s)
	}
	if _, err := OpenHeld(held); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("OpenHeld of a dead process = %v, want os.ErrProcessDone", err)
	}
}

func TestOpenOfNobody(t *testing.T) {
	p := linuxtest.Start(t, linuxtest.Helper(t, "exit", "0")...)
	p.Wait(t, 10*time.Second)
	if _, err := Open(p.PID()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a reaped process = %v, want os.ErrNotExist", err)
	}
}

func TestStatOfThisProcess(t *testing.T) {
	before := time.Now()
	child := linuxtest.Start(t, linuxtest.Helper(t, "run")...)
	held := hold(t, child.PID())
	var s Stat
	linuxtest.Wait(t, 10*time.Second, func() (_ bool, why string) { // for the end of its exec
		var err error
		s, err = held.Stat()
		return err == nil && s.Env != 0 && s.Code != 0, fmt.Sprintf("Stat = %+v, %v", s, err)
	})
	group, err := unix.Getpgid(child.PID())
	if err != nil {
		t.Fatal(err)
	}
	session, err := unix.Getsid(child.PID())
	if err != nil {
		t.Fatal(err)
	}
	id := child.Identity(t)
	if s.Code <= 1 {
		t.Errorf("Stat = %+v, want to know where the code is", s)
	}
	if s.PPID != os.Getpid() || s.Group != group || s.Session != session || s.Start != id.Start {
		t.Errorf("Stat = %+v, want parent %d, group %d, session %d, start %d", s, os.Getpid(), group, session, id.Start)
	}
	// One tick of tolerance: the start is cut to a hundredth of a second.
	if most := time.Since(before) + time.Second/ticks; s.Age() > most {
		t.Errorf("Age = %v, want at most %v", s.Age(), most)
	}
}

func TestUIDIsTheEffectiveOne(t *testing.T) {
	if uid, err := hold(t, os.Getpid()).UID(); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("UID = %d, %v, want %d", uid, err, os.Geteuid())
	}
}

func TestReadIsBounded(t *testing.T) {
	p := hold(t, os.Getpid())
	whole, err := p.Read("cmdline", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(os.Args, "\x00") + "\x00"; string(whole) != want {
		t.Errorf("Read of cmdline = %q, want %q", whole, want)
	}
	for _, most := range []int{0, 1, 5} {
		if b, err := p.Read("cmdline", most); err != nil || string(b) != string(whole[:most]) {
			t.Errorf("Read of at most %d = %q, %v, want %q", most, b, err, whole[:most])
		}
	}
}

// More than one buffer's worth comes whole.
func TestReadOfALongFile(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	child := linuxtest.Start(t, append(linuxtest.Helper(t, "run"), long)...)
	held := hold(t, child.PID())
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { // for the end of its exec
		b, err := held.Read("cmdline", 1<<20)
		return err == nil && strings.HasSuffix(string(b), "\x00"+long+"\x00"),
			fmt.Sprintf("Read gave %d bytes, %v, want the argument of %d at the end", len(b), err, len(long))
	})
	if b, err := hold(t, child.PID()).Read("cmdline", 5000); err != nil || len(b) != 5000 {
		t.Errorf("Read of at most 5000 gave %d bytes, %v", len(b), err)
	}
}

func TestSocketsUntilFound(t *testing.T) {
	var inodes []uint64
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		inodes = append(inodes, st.Ino)
	}
	p := hold(t, os.Getpid())
	var all []uint64
	looked, err := p.Sockets(1000, func(inode uint64) bool { all = append(all, inode); return true })
	if err != nil {
		t.Fatal(err)
	}
	for _, inode := range inodes {
		if !slices.Contains(all, inode) {
			t.Errorf("Sockets = %v, without %d", all, inode)
		}
	}
	calls := 0
	if _, err := p.Sockets(1000, func(uint64) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("Sockets went on for %d calls, %v, want to stop after 1", calls, err)
	}
	if looked <= len(all) {
		t.Errorf("Sockets looked at %d descriptors, want more than the %d sockets", looked, len(all))
	}
	calls = 0
	if n, err := p.Sockets(looked-1, func(uint64) bool { calls++; return true }); err != nil || n != looked-1 || calls > len(all) {
		t.Errorf("Sockets of at most %d looked at %d, %v", looked-1, n, err)
	}
	if !Ours() {
		t.Error("Ours = false")
	}
}

func TestParseStat(t *testing.T) {
	const rest = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50"
	for _, c := range []struct {
		line string
		want Stat
		ok   bool
	}{
		{"7 (sh) S" + rest, Stat{Comm: "sh", State: 'S', PPID: 1, Group: 2, Session: 3, Start: 4711, Code: 23, Env: 47}, true},
		{"7 (a) R (b)) Z" + rest, Stat{Comm: "a) R (b)", State: 'Z', PPID: 1, Group: 2, Session: 3, Start: 4711, Code: 23, Env: 47}, true},
		{"7 (\n\xff) D" + rest, Stat{Comm: "\n\xff", State: 'D', PPID: 1, Group: 2, Session: 3, Start: 4711, Code: 23, Env: 47}, true},
		{"7 () I" + rest, Stat{State: 'I', PPID: 1, Group: 2, Session: 3, Start: 4711, Code: 23, Env: 47}, true},
		{"7 (sh) S 1 2 3", Stat{}, false},
		{"7 (sh) S" + rest[:len(rest)-len(" 47 48 49 50")], Stat{}, false},
		{"7 (sh) S x" + rest[2:], Stat{}, false},
		{")(", Stat{}, false},
		{"", Stat{}, false},
	} {
		got, ok := parseStat([]byte(c.line))
		if ok != c.ok || ok && got != c.want {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v, %v", c.line, got, ok, c.want, c.ok)
		}
	}
}

func TestParseUID(t *testing.T) {
	for text, want := range map[string]uint32{
		"Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n": 2,
		"Uid:\t0\t4294967295\t0\t0\n":                     4294967295,
	} {
		if got, ok := parseUID([]byte(text)); !ok || got != want {
			t.Errorf("parseUID(%q) = %d, %v, want the effective user %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "Uid:\t1\n", "Uid:\tx\tx\tx\tx\n", "Name:\tUid:\t1\t2\t3\t4\n"} {
		if got, ok := parseUID([]byte(text)); ok {
			t.Errorf("parseUID(%q) = %d, want none", text, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sh) S" + strings.Repeat(" 1", 49)))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}
