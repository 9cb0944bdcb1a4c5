package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func startPiped(tb testing.TB, s *Store, slot int, number uint64) *Streams {
	tb.Helper()
	st, err := s.StartPiped(fmt.Sprintf("web/%d", slot), "web", slot, number)
	if err != nil {
		tb.Fatalf("StartPiped(web/%d, %d): %v", slot, number, err)
	}
	tb.Cleanup(func() {
		_ = st.Stdout.Close() // closed already, or nothing to lose
		_ = st.Stderr.Close()
	})
	return st
}

func TestPipedLinesArriveAndEnd(t *testing.T) {
	s := open(t, Options{})
	got := follow(t, s)
	for n := range uint64(3) {
		st := startPiped(t, s, 0, n)
		write(t, st.Stdout, fmt.Sprintf("one of %d\nrest of %d", n, n))
		write(t, st.Stderr, "trouble\n")
		if tail := st.Tail(3); !slices.Equal(tail, []string{"trouble"}) {
			t.Errorf("Tail = %q", tail)
		}
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		st.Done()
		want := []string{fmt.Sprintf("one of %d", n), fmt.Sprintf("rest of %d", n)}
		if lines := slices.Collect(st.Lines(context.Background(), Stdout)); !slices.Equal(lines, want) {
			t.Errorf("lines = %q, want %q", lines, want)
		}
	}
	got.waitFor(t, "web/0", Stdout, "one of 0", "rest of 0", "one of 1", "rest of 1", "one of 2", "rest of 2")
	got.waitFor(t, "web/0", Stderr, "trouble", "trouble", "trouble")
}

// A start of each kind after the other writes to the same file.
func TestPipedAndDirectStarts(t *testing.T) {
	s := open(t, Options{})
	for n := range uint64(6) {
		st := start(t, s, 0, n)
		if n%2 == 0 {
			st = startPiped(t, s, 0, n)
		}
		write(t, st.Stdout, fmt.Sprintln("line", n))
		_, _ = st.Stdout.Close(), st.Stderr.Close()
		st.Done()
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "web", "0.stdout.log"))
	if want := "line 0\nline 1\nline 2\nline 3\nline 4\nline 5\n"; err != nil || string(data) != want {
		t.Errorf("file = %q, %v; want %q", data, err, want)
	}
}

// A flood through a pipe while the file is cut and rotated: nothing is lost but to the bound.
func TestPipedFloodIsWhole(t *testing.T) {
	s := open(t, Options{MaxSize: 1 << 20, Rotate: Rotate{Keep: 100}})
	st := startPiped(t, s, 0, 1)
	const lines = 60_000
	for n := 0; n < lines; n += 400 {
		write(t, st.Stdout, string(numbered(n, 400)))
	}
	_, _ = st.Stdout.Close(), st.Stderr.Close()
	st.Done()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := newNumberReader(filepath.Join(s.dir, "web"))
	if err := r.read(); err != nil || r.next != lines || r.lost != 0 {
		t.Errorf("read %d lines, lost %d: %v; want %d", r.next, r.lost, err, lines)
	}
}

// A start is over although a stranger still holds the pipe and writes to it.
func TestPipeThatAStrangerHolds(t *testing.T) {
	s := open(t, Options{})
	st := startPiped(t, s, 0, 1)
	write(t, st.Stdout, "before\n")
	st.Done()
	if lines := slices.Collect(st.Lines(context.Background(), Stdout)); !slices.Equal(lines, []string{"before"}) {
		t.Errorf("lines = %q", lines)
	}
	write(t, st.Stdout, "after\n") // goes nowhere, and hurts nobody
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "web", "0.stdout.log"))
	if err != nil || string(data) != "before\n" {
		t.Errorf("file = %q, %v", data, err)
	}
}

// ownPipedFlood is a supervisor whose worker floods through a pipe. It prints
// the worker's PID and lives until it is killed.
func ownPipedFlood(dir string) error {
	s, err := Open(Options{Dir: dir, MaxSize: 64 << 20})
	if err != nil {
		return err
	}
	st, err := s.StartPiped("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	flood := exec.Command("/bin/sh", "-c", `i=0; while :; do printf '%99d\n' $i; i=$((i+1)); done`)
	flood.Stdout, flood.Stderr = st.Stdout, st.Stderr
	if err := flood.Start(); err != nil {
		return err
	}
	_, _ = st.Stdout.Close(), st.Stderr.Close()
	fmt.Println(flood.Process.Pid)
	return s.Follow(context.Background(), func(Line) {})
}

// The supervisor is killed while its worker floods through a pipe: the worker is
// not, it waits in its next write when the pipe is full. What reached the file
// is whole.
func TestOwnerDiesWhileAPipedWorkerFloods(t *testing.T) {
	for range 5 {
		dir := filepath.Join(t.TempDir(), "run")
		group := linuxtest.Cgroup(t) // ends the flood
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		owner := linuxtest.Command{Args: linuxtest.Helper(t, "own-piped-flood", dir), Stdout: w, Cgroup: group}.Start(t)
		_ = w.Close()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			t.Fatalf("owner said nothing: %v", err)
		}
		_ = r.Close()
		grows(t, filepath.Join(dir, "web", "0.stdout.log"))
		owner.Kill(t)
		linuxtest.Wait(t, soon, func() (bool, string) {
			n, size, err := inPipe(filepath.Join("/proc", strings.TrimSpace(line), "fd", "1"))
			return err == nil && n >= size*9/10, fmt.Sprintf("%d of %d bytes are in the worker's pipe, %v; want it full", n, size, err)
		})
		lines := newNumberReader(filepath.Join(dir, "web"))
		if err := lines.read(); err != nil || lines.lost != 0 || lines.next == 0 {
			t.Errorf("read %d lines, lost %d: %v", lines.next, lines.lost, err)
		}
		linuxtest.KillCgroup(t, group)
	}
}

// inPipe says how much is in the pipe at path, and how large it is. The worker
// must live for that.
func inPipe(path string) (n, size int, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = unix.Close(fd) }() // only looked at
	if n, err = unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil {
		return 0, 0, err
	}
	size, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	return n, size, err
}

// A worker of another user can open its own stdout by name.
func TestPipedWorkerOfAnotherUserOpensItsStdout(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	s := open(t, Options{})
	got := follow(t, s)
	st := startPiped(t, s, 0, 1)
	cmd := exec.Command("/bin/sh", "-c", `echo inherited; echo opened > /dev/stdout`)
	cmd.Stdout, cmd.Stderr = st.Stdout, st.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	got.waitFor(t, "web/0", Stdout, "inherited", "opened")
}

// pipedFullDisk runs on a tmpfs: while it is full the worker goes on without an
// error, what it writes is counted, and when there is room again so are its lines.
func pipedFullDisk(dir string) error {
	warned := make(chan error, 10)
	run := filepath.Join(dir, "run")
	s, err := Open(Options{Dir: run, Warn: func(err error) { warned <- err }})
	if err != nil {
		return err
	}
	st, err := s.StartPiped("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk = %v, want %v", err, unix.ENOSPC)
	}
	const lines = 20_000 // 2 MB
	if _, err := st.Stdout.Write(numbered(0, lines)); err != nil {
		return fmt.Errorf("worker's write: %w", err)
	}
	if err := scenario(<-warned, unix.ENOSPC, "free some space"); err != nil {
		return err
	}
	st.segments[0].pipe.mover.drain(st.segments[0].pipe, false)
	if err := os.Remove(filler); err != nil {
		return err
	}
	if _, err := st.Stdout.WriteString("after it was full\n"); err != nil {
		return err
	}
	_, _ = st.Stdout.Close(), st.Stderr.Close()
	st.Done()
	if err := s.Close(); err != nil {
		return err
	}
	in := logfile.NewLines(logfile.OpenStream(filepath.Join(run, "web"), 0, Stdout), 0, false)
	var lost, got int64
	var last string
	for {
		line, ok, err := in.Next(true)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		lost += line.Lost
		got += int64(len(line.Text)) + 1
		last = string(line.Text)
	}
	if want := int64(lines*100 + len("after it was full\n")); lost == 0 || got+lost != want || !strings.HasSuffix(last, "after it was full") {
		return fmt.Errorf("%d bytes read and %d told as lost, want %d together; last line %q", got, lost, want, last)
	}
	return nil
}

func TestPipedFullDisk(t *testing.T) { runOnTmpfs(t, "tmpfs-piped-full", "1M") }

// One descriptor for each stream, and no goroutine.
func TestIdlePipedWorkersCostLittle(t *testing.T) {
	s := open(t, Options{})
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for slot := range 100 {
		st := startPiped(t, s, slot, 1)
		_, _ = st.Stdout.Write([]byte("hello\n"))
	}
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	// Two are ours, two are the worker's, which the supervisor closes.
	if n := len(after) - len(before); n > 400+20 {
		t.Errorf("%d descriptors for 100 workers, want 400 with the workers' ends", n)
	}
}
