package linuxtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// started is a helper and the file its standard output goes to.
type started struct {
	*Process
	out string
}

// startHelper starts a helper in a cgroup ("" for none) with its output in a file.
func startHelper(t *testing.T, dir, mode string, args ...string) started {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }() // the helper has its own
	p := Command{Args: Helper(t, mode, args...), Cgroup: dir, Stdout: out, Stderr: out}.Start(t)
	return started{p, out.Name()}
}

// says waits until the helper has written a text.
func (s started) says(t *testing.T, text string) {
	t.Helper()
	Wait(t, soon, func() (bool, string) {
		data, err := readStart(s.out)
		return strings.Contains(string(data), text), fmt.Sprintf("it wrote %q, %v; %s", data, err, readProc(s.pid))
	})
}

// readStart reads so much that a file which grows meanwhile does no harm.
func readStart(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	return io.ReadAll(io.LimitReader(f, 4096))
}

func TestModesThatExit(t *testing.T) {
	tests := []struct {
		mode string
		args []string
		code int
		out  string
	}{
		{"exit", []string{"0"}, 0, ""},
		{"exit", []string{"1", "1ms"}, 1, ""},
		{"exit", []string{"143"}, 143, ""},
		{"exit", []string{"one"}, 125, "linuxtest: helper: strconv.ParseUint: parsing \"one\": invalid syntax\n"},
		{"fail", []string{"3", "no module", "named grpc"}, 3, "no module\nnamed grpc\n"},
		{"print", []string{"a", "b c"}, 0, "a\nb c\n"},
		{"ready-die", []string{"1ms", "4"}, 4, "ready\n"},
		{"both-streams", []string{"2"}, 0, "out 1\nerr 1\nout 2\nerr 2\n"},
		{"flood", []string{"65"}, 0, "the quick brown fox jumps over the lazy dog 0123456789 and again\n"},
		{"binary", []string{"1000"}, 0, string(BinaryOutput(1000))},
		{"cat", nil, 0, ""},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			p := startHelper(t, "", test.mode, test.args...)
			ExitCause(t, p.Wait(t, soon), test.code)
			if got, err := os.ReadFile(p.out); err != nil || string(got) != test.out {
				t.Errorf("output %q, %v, want %q", got, err, test.out)
			}
		})
	}
}

func TestModesThatLive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ready")
	tests := []struct {
		mode string
		args []string
		says string
	}{
		{"ready", []string{"1ms", "here I am"}, "here I am\n"},
		{"never-ready", nil, "starting\nstarting\n"},
		{"ready-not-listening", []string{"1"}, "listening on 1\n"},
		{"stop-self", nil, "stopping\n"},
		{"partial-line", []string{"half"}, "half"},
		{"alloc", []string{"8"}, "allocated\n"},
		{"ignore-term", nil, "ready\n"},
		{"listen", nil, "listening on "},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			p := startHelper(t, "", test.mode, test.args...)
			p.says(t, test.says)
			if !p.Alive() {
				t.Errorf("it is not alive")
			}
		})
	}
	for _, mode := range []string{"run", "close-fds"} {
		if p := startHelper(t, "", mode, file); !p.Alive() {
			t.Errorf("%s is not alive", mode)
		}
	}
}

func TestModesAndTERM(t *testing.T) {
	stop := func(mode string, args ...string) started {
		p := startHelper(t, "", mode, args...)
		p.says(t, "ready")
		if err := p.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		return p
	}
	StoppedBy(t, stop("ready").Wait(t, soon), unix.SIGTERM)
	start := time.Now()
	ExitCause(t, stop("slow-term", "150ms", "5").Wait(t, soon), 5)
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("slow-term ended after %v, want at least 150ms", took)
	}
	stubborn := stop("ignore-term")
	if _, ended, _ := stubborn.wait(100 * time.Millisecond); ended {
		t.Error("ignore-term ended by TERM")
	}
	StoppedBy(t, startHelper(t, "", "die", "15").Wait(t, soon), unix.SIGTERM)
	StoppedBy(t, startHelper(t, "", "die", "9", "1ms").Wait(t, soon), unix.SIGKILL)
}

func TestFloodFillsAPipeForEver(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := Command{Args: Helper(t, "flood"), Stdout: w}.Start(t)
	_ = w.Close() // the helper has its own
	n, err := io.Copy(io.Discard, io.LimitReader(r, 10<<20))
	if n != 10<<20 || err != nil || !p.Alive() {
		t.Errorf("read %d bytes, %v, alive %v, want %d and more to come", n, err, p.Alive(), 10<<20)
	}
	_ = r.Close() // read-only; nothing to lose
	ExitCause(t, p.Wait(t, soon), 0)
}

func TestStopSelfIsStopped(t *testing.T) {
	p := startHelper(t, "", "stop-self")
	Wait(t, soon, func() (bool, string) {
		now := readProc(p.pid)
		return now.State == 'T', now.String()
	})
}

func TestCloseFDsClosesThemAll(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // read-only; nothing to lose
	p := Command{Args: Helper(t, "close-fds"), Stdout: w}.Start(t)
	_ = w.Close() // the helper has its own
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read = %d, %v, want the end of the pipe", n, err)
	}
	if !p.Alive() {
		t.Error("it is not alive")
	}
}

func TestForkingModes(t *testing.T) {
	NeedCgroup2(t)
	tests := []struct {
		mode  string
		args  []string
		exits bool
		left  int // processes in the cgroup
	}{
		{"double-fork", nil, true, 1},
		{"double-fork", []string{"stay"}, false, 2},
		{"hold-pipe", nil, true, 1},
		{"setsid-storm", []string{"12"}, false, 13},
		{"late-setsid", []string{"20ms"}, false, 2},
		{"fork-bomb", []string{"4"}, false, 16},
		{"zombies", []string{"3"}, false, 1},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			dir := Cgroup(t)
			AllowLeak(t)
			p := startHelper(t, dir, test.mode, test.args...)
			if test.exits {
				ExitCause(t, p.Wait(t, soon), 0)
			} else {
				p.says(t, "ready")
			}
			Wait(t, soon, func() (bool, string) {
				got := Members(dir)
				return len(got) == test.left, fmt.Sprintf("%d processes, want %d: %v", len(got), test.left, got)
			})
		})
	}
}

func TestForkedCopiesDieOfTERM(t *testing.T) {
	dir := Cgroup(t)
	startHelper(t, dir, "double-fork").Wait(t, soon)
	daemon := Members(dir)
	if len(daemon) != 1 {
		t.Fatalf("members = %v, want one daemon", daemon)
	}
	fd, err := unix.PidfdOpen(daemon[0].PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	Wait(t, soon, func() (bool, string) {
		return unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) == nil && readable(fd, 100*time.Millisecond), "alive"
	})
	NoProcessesLeft(t, dir)
}

func TestLateSetsidLeavesItsSession(t *testing.T) {
	dir := Cgroup(t)
	AllowLeak(t)
	p := startHelper(t, dir, "late-setsid", "100ms")
	p.says(t, "ready")
	session := func() (own, parent int) {
		for _, m := range Members(dir) {
			sid, err := unix.Getsid(m.PID)
			if err != nil {
				t.Fatal(err)
			}
			if m.PID == p.pid {
				parent = sid
			} else {
				own = sid
			}
		}
		return own, parent
	}
	Wait(t, soon, func() (bool, string) {
		own, parent := session()
		return own != 0 && own != parent, "still in the session of its parent"
	})
}

func TestZombiesAreSeen(t *testing.T) {
	dir := Cgroup(t)
	p := startHelper(t, dir, "zombies", "3")
	p.says(t, "ready")
	Wait(t, soon, func() (bool, string) { // it does not wait for their ends itself
		states := childStates(t, p.pid)
		return states == "ZZZ", "states of the children: " + states
	})
	wantFailure(t, func(tb testing.TB) { TreeGone(tb, dir, 0) }, "exited and not reaped", "state Z")
	p.Kill(t)
}

// childStates returns a letter for each child of a process, in the order of ps.
func childStates(t *testing.T, pid int) string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	states := ""
	for _, file := range tasks {
		children, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for child := range strings.FieldsSeq(string(children)) {
			stat, err := os.ReadFile("/proc/" + child + "/stat")
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(stat), ") ")
			states += rest[:1]
		}
	}
	return states
}

func TestTreeGoneWaitsForTheReaper(t *testing.T) {
	dir := Cgroup(t)
	p := startHelper(t, dir, "exit", "0", "100ms")
	done := make(chan struct{})
	go func() {
		defer close(done)
		readable(p.fd, soon)
		_ = pause([]string{"300ms"}, 0, "") // cannot fail: the text is right
		_, _, _ = p.wait(soon)              // its end is checked below
	}()
	wantPass(t, func(tb testing.TB) { TreeGone(tb, dir, soon) })
	<-done
}

func TestForkChainNeverStandsStill(t *testing.T) {
	dir := Cgroup(t)
	AllowLeak(t)
	p := startHelper(t, dir, "fork-chain", "2")
	p.says(t, "ready")
	seen := map[int]bool{}
	Wait(t, soon, func() (bool, string) {
		for _, m := range Members(dir) {
			seen[m.PID] = true
		}
		return len(seen) > 6, fmt.Sprintf("%d processes seen", len(seen))
	})
}

func TestMoveCgroupMoves(t *testing.T) {
	from, to := Cgroup(t), Cgroup(t)
	p := startHelper(t, from, "move-cgroup", to)
	p.says(t, "moved")
	if got := Identities(to); len(got) != 1 || got[0] != p.Identity(t) {
		t.Errorf("members of %s = %v, want %v", to, got, p.Identity(t))
	}
	p.Kill(t)
}

func TestReadyFiles(t *testing.T) {
	tests := []struct {
		kind string
		want []byte
	}{
		{"good", []byte("50051\n")},
		{"slow", []byte("50051\n")},
		{"partial", []byte("500")},
		{"bad", []byte{0xff, 0xfe, 0, '\n'}},
		{"empty", []byte{}},
	}
	for _, test := range tests {
		t.Run(test.kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ready")
			startHelper(t, "", "ready-file", path, test.kind, "50051\n")
			Wait(t, soon, func() (bool, string) {
				data, err := os.ReadFile(path)
				return err == nil && bytes.Equal(data, test.want), fmt.Sprintf("ready file %q, %v", data, err)
			})
		})
	}
}

func TestNotifySendsReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // nothing to lose
	Command{Args: Helper(t, "notify"), Env: []string{"NOTIFY_SOCKET=" + path}}.Start(t)
	if err := conn.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("Read = %q, %v, want READY=1", buf[:n], err)
	}
}

func TestCatEndsWithItsInput(t *testing.T) {
	argv := Helper(t, "cat")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader("through\n")
	if out, err := cmd.Output(); err != nil || string(out) != "through\n" {
		t.Errorf("Output = %q, %v, want %q", out, err, "through\n")
	}
}

func TestEveryModeIsDescribed(t *testing.T) {
	var out strings.Builder
	WriteModes(&out)
	for _, m := range builtins() {
		if m.run == nil || m.name == "" {
			t.Errorf("mode %+v is not whole", m)
		}
		if m.does != "" && !strings.Contains(out.String(), m.usage) {
			t.Errorf("WriteModes does not print %q", m.usage)
		}
	}
}
