//go:build amd64 || arm64

package steps

import (
	"bytes"
	"embed"
	"errors"
	"math"
	"strconv"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// seen is what a process leaves behind in the memory that it shares with us.
type seen struct {
	args          CloneArgs
	rounds, calls uintptr
	kept          int
	pidfd         int32
	letter        [8]byte
}

// A process that uses each operation both ways, made by clone and by clone3.
func TestSteps(t *testing.T) {
	linuxtest.NeedClone3(t)
	linuxtest.NoLeaks(t)
	const flags = unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD
	for _, old := range []bool{false, true} {
		table, err := New(20, 1000)
		if err != nil {
			t.Fatal(err)
		}
		m := Room[seen](table)
		m.letter[1] = 'x'
		exit := table.Add(unix.SYS_EXIT_GROUP, 9)
		exit.Then, exit.Fail = Address(exit), Address(exit)
		wrong := table.Add(unix.SYS_EXIT_GROUP, 1)
		first := table.Add(Set, Address(&m.rounds), 5)
		call := table.Add(unix.SYS_GETPID)
		call.Fail = Address(wrong)
		table.Add(Count, Address(&m.rounds)).Then = Address(call)
		table.Add(Set, Address(&m.calls), 1)
		table.Add(Same, Address(&m.letter[1]), 'x').Fail = Address(wrong)
		same := table.Add(Same, Address(&m.letter[1]), 'y')
		same.Then, same.Fail = Address(wrong), table.Next()
		closed := table.Add(unix.SYS_CLOSE, 1<<30)
		closed.Then = Address(wrong)
		table.Add(Keep, Address(&m.kept)).Then = Address(exit)

		var pid int
		if old {
			pid, err = table.Clone(first, flags, &m.pidfd)
		} else {
			m.args = CloneArgs{Flags: flags, PidFD: uint64(Address(&m.pidfd))}
			pid, err = table.Clone3(first, &m.args)
		}
		if err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WALL, nil)
		if got != pid || err != nil || status.ExitStatus() != 9 {
			t.Errorf("process %d, which ended with %#x, %v, want %d and 9", got, status, err, pid)
		}
		if m.rounds != 0 || m.calls != 1 || unix.Errno(-m.kept) != unix.EBADF {
			t.Errorf("%+v", *m)
		}
		if err := unix.Close(int(m.pidfd)); err != nil {
			t.Error(err)
		}
		if err := table.Free(); err != nil {
			t.Error(err)
		}
	}
}

// A number is written as strconv writes it, and the byte behind it stays as it was. lseek
// has any result that is asked for.
func TestDecimal(t *testing.T) {
	linuxtest.NoLeaks(t)
	file, err := unix.MemfdCreate("numbers", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(file) }()
	for _, n := range []int{0, 9, 10, 11, 99, 100, 4194303, math.MaxInt32, math.MaxInt64 - 1, math.MaxInt64} {
		table, err := New(5, 1000)
		if err != nil {
			t.Fatal(err)
		}
		want := strconv.Itoa(n) + "x"
		m := Room[struct {
			digits [24]byte
			pidfd  int32
		}](table)
		m.digits[len(want)-1] = 'x'
		exit := table.Add(unix.SYS_EXIT_GROUP, 9)
		exit.Then, exit.Fail = Address(exit), Address(exit)
		first := table.Add(unix.SYS_LSEEK, uintptr(file), uintptr(n), unix.SEEK_SET)
		first.Fail = Address(exit)
		table.Add(Decimal, Address(&m.digits[0])).Then = Address(exit)
		pid, err := table.Clone(first, unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD, &m.pidfd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
			t.Error(err)
		}
		if got := string(bytes.TrimRight(m.digits[:], "\x00")); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
		if err := errors.Join(unix.Close(int(m.pidfd)), table.Free()); err != nil {
			t.Error(err)
		}
	}
}

// A mistake is seen before there is a process.
func TestRefused(t *testing.T) {
	linuxtest.NeedClone3(t)
	table, err := New(1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	args := Room[CloneArgs](table)
	args.Flags = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_CLEAR_SIGHAND
	exit := table.Add(unix.SYS_EXIT_GROUP, 9)
	if _, err := table.Clone3(exit, args); err != unix.EINVAL {
		t.Errorf("Clone3 = %v, want EINVAL", err)
	}
	if err := table.Free(); err != nil {
		t.Error(err)
	}
}

//go:embed call_amd64.s call_arm64.s
var assembly embed.FS

// A clone carries out what is behind this label: no call, no stack, no g.
func TestAssemblyUsesNothingOfGo(t *testing.T) {
	for _, name := range []string{"call_amd64.s", "call_arm64.s"} {
		text, err := assembly.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, clone, found := bytes.Cut(text, []byte("\nnext:\n"))
		if !found {
			t.Fatalf("%s has no label next", name)
		}
		for _, word := range []string{"\tCALL", "\tBL\t", "RET", "SP", "FP", "TLS", "PUSH", "POP", "R14", "R28", "(g)", "SB"} {
			if bytes.Contains(clone, []byte(word)) {
				t.Errorf("%s uses %q in the clone", name, word)
			}
		}
	}
}
