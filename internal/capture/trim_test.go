package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

const (
	trimKeep   = 1 << 20
	trimLine   = 100 // bytes of a line of the scenario, with its newline; not a part of a block
	trimLines  = 24 << 20 / trimLine
	trimBlocks = 64 << 10
)

// trimReader checks the lines of a numbered flood: in order, each whole, and
// every byte either handed out or told as lost.
type trimReader struct {
	got, lost int64
	next      int64
	err       error
}

func (r *trimReader) add(l Line) {
	r.lost += l.Lost
	r.next += l.Lost / trimLine
	if len(l.Text) == 0 || r.err != nil {
		return
	}
	r.got += int64(len(l.Text)) + 1
	n, err := strconv.ParseInt(strings.TrimSpace(string(l.Text)), 10, 64)
	if err != nil || len(l.Text) != trimLine-1 || l.Split || n != r.next {
		r.err = fmt.Errorf("line %q (split %v, lost %d), want number %d: %v", l.Text, l.Split, l.Lost, r.next, err)
	}
	r.next++
}

// trimScenario floods a stream of a store in dir and checks that the file stays
// bounded, that what is younger than the bound stays, and that a reader that
// is slow in the middle knows what it lost. It does not need package testing,
// because it also runs in a helper process.
func trimScenario(dir string, collapses bool) error {
	var warned error
	s, err := Open(Options{Dir: dir, MaxSize: trimKeep, Warn: func(err error) { warned = err }})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // closed already unless something failed
	st, err := s.Start("web/0", "web", 0, 1)
	if err != nil {
		return err
	}
	var r trimReader
	hold, ended := make(chan struct{}), make(chan error, 1)
	fl := s.NewFollower()
	go func() {
		ended <- fl.Run(context.Background(), func(l Line) {
			if r.got == 20_000*trimLine {
				<-hold // long enough to lose something for sure
			}
			r.add(l)
		})
	}()
	if err := writeFlood(st.Stdout, func() { close(hold) }); err != nil {
		return err
	}
	st.Done()
	if err := s.Close(); err != nil {
		return err
	}
	if err := <-ended; err != nil {
		return err
	}
	if r.err != nil || warned != nil {
		return errors.Join(r.err, warned)
	}
	if r.got+r.lost != trimLines*trimLine || r.lost == 0 {
		return fmt.Errorf("%d bytes handed out and %d told as lost, want %d together", r.got, r.lost, trimLines*trimLine)
	}
	return checkFile(st.Stdout.Name(), collapses)
}

// writeFlood writes numbered lines, waits for the bound in the middle and at
// the end, and calls half in the middle.
func writeFlood(f *os.File, half func()) error {
	var block []byte
	for i := range trimLines {
		block = fmt.Appendf(block, "%*d\n", trimLine-1, i)
		if len(block) >= trimBlocks || i == trimLines-1 {
			if _, err := f.Write(block); err != nil {
				return err
			}
			block = block[:0]
		}
		if i == trimLines/2 {
			if err := settled(f.Name()); err != nil {
				return err
			}
			half()
		}
	}
	return settled(f.Name())
}

// settled waits until the file takes no more than the bound allows.
func settled(path string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var st unix.Stat_t
	for range 5000 {
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		if st.Blocks*512 <= trimKeep*5/4+trimBlocks {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("%s takes %d bytes on disk", path, st.Blocks*512)
}

// checkFile checks what is left of the flood in the file.
func checkFile(path string, collapses bool) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(data) < trimKeep {
		return fmt.Errorf("%d bytes are left, want %d at least", len(data), trimKeep)
	}
	if collapses && data[0] == 0 {
		return errors.New("the file begins with a hole when the start is over")
	}
	want := trimLines - trimKeep/trimLine
	for line := range bytes.Lines(data[len(data)-trimKeep/trimLine*trimLine:]) {
		if n, err := strconv.Atoi(strings.TrimSpace(string(line))); err != nil || n != want {
			return fmt.Errorf("line %q is in the file, want number %d", line, want)
		}
		want++
	}
	if want != trimLines {
		return fmt.Errorf("the last line in the file is %d, want %d", want-1, trimLines-1)
	}
	return nil
}

func TestFilesStayBoundedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	if err := trimScenario(filepath.Join(dir, "run"), canCollapse(t, dir)); err != nil {
		t.Error(err)
	}
}

// canCollapse says whether the file system can take a range out of a file.
func canCollapse(t *testing.T, dir string) bool {
	f, err := os.CreateTemp(dir, "probe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, f, strings.Repeat("x", 64<<10))
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096)
	t.Logf("collapsing a range here: %v", err)
	return err == nil
}

// The scenario again on tmpfs, which can punch holes but not collapse them.
func TestFilesStayBoundedOnTmpfs(t *testing.T) {
	runOnTmpfs(t, "tmpfs-trim", "64M")
}

// runOnTmpfs runs a helper mode in a mount namespace of its own, with a tmpfs
// of that size on the directory that it is given.
func runOnTmpfs(t *testing.T, mode, size string) {
	t.Helper()
	linuxtest.NeedAdmin(t, "to mount a file system")
	argv := linuxtest.Helper(t, mode, t.TempDir(), size)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, out)
	}
}

// onTmpfs makes a helper mode of a scenario.
func onTmpfs(scenario func(dir string) error) linuxtest.Mode {
	return func(args []string) int {
		// The Go runtime has made mounts private for us (Unshareflags).
		err := mountTmpfs(args[0], args[1])
		if err == nil {
			err = scenario(args[0])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
}

// mountTmpfs mounts a tmpfs on dir; ",ro" at the end of options makes it read-only.
func mountTmpfs(dir, options string) error {
	options, ro := strings.CutSuffix(options, ",ro")
	var flags uintptr
	if ro {
		flags = unix.MS_RDONLY
	}
	return unix.Mount("tmpfs", dir, "tmpfs", flags, "size="+options)
}
