package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// logsWorld is a state directory with runs that are written by the test itself.
type logsWorld struct {
	t     *testing.T
	state string
}

// run opens the output of a run with this number.
func (w *logsWorld) run(n int, o capture.Options) *capture.Store {
	w.t.Helper()
	o.Dir, o.Name = filepath.Join(w.state, "logs", fmt.Sprintf("%026d", n)), "shop"
	o.Warn = func(err error) { w.t.Errorf("warning: %v", err) }
	s, err := capture.Open(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *logsWorld) start(s *capture.Store, pool string, slot int) *capture.Streams {
	w.t.Helper()
	st, err := s.Start(fmt.Sprintf("%s/%d", pool, slot), pool, slot, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *logsWorld) say(f *os.File, text string) {
	w.t.Helper()
	if _, err := f.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
}

// end closes what a start and a run have open.
func (w *logsWorld) end(s *capture.Store, all ...*capture.Streams) {
	w.t.Helper()
	for _, st := range all {
		_, _ = st.Stdout.Close(), st.Stderr.Close() // written through already
		st.Done()
	}
	if err := s.Close(); err != nil {
		w.t.Error(err)
	}
}

// logs runs the verb and returns what it prints.
func (w *logsWorld) logs(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(append([]string{"logs", "--state-dir", w.state}, args...), &out, &errs)
	return out.String(), errs.String(), code
}

// follower is a `pitvisor logs -f` that runs.
type follower struct {
	t     *testing.T
	lines chan string
}

func (w *logsWorld) follow(args ...string) *follower {
	w.t.Helper()
	argv := linuxtest.Helper(w.t, "pitvisor", append([]string{"logs", "-f", "--state-dir", w.state}, args...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	f := &follower{t: w.t, lines: make(chan string, 100_000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			f.lines <- scan.Text()
		}
	}()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait() // killed
	})
	return f
}

// want waits for these lines, and no others between them.
func (f *follower) want(lines ...string) {
	f.t.Helper()
	for _, want := range lines {
		limit := time.NewTimer(patience)
		select {
		case got := <-f.lines:
			limit.Stop()
			if got != want {
				f.t.Fatalf("line = %q, want %q", got, want)
			}
		case <-limit.C:
			f.t.Fatalf("no line, want %q", want)
		}
	}
}

// What is followed goes on across rotation, new workers, new pools and a new run.
func TestLogsFollow(t *testing.T) {
	w := &logsWorld{t: t, state: t.TempDir()}
	s := w.run(1, capture.Options{MaxSize: 64 << 10, Rotate: capture.Rotate{Keep: 100}})
	web := w.start(s, "web", 0)
	w.say(web.Stdout, "one\ntwo\nthree\n")
	f := w.follow("-n", "2")
	f.want("web/0 | two", "web/0 | three")
	w.say(web.Stderr, "half")
	w.say(web.Stdout, "four\n")
	f.want("web/0 | four")
	w.say(web.Stderr, " a line\n")
	f.want("web/0 ! half a line")
	api := w.start(s, "api", 12)
	w.say(api.Stdout, "from a new pool\n")
	f.want("api/12 | from a new pool")
	for n := range linuxtest.Times(5000, 1500) { // up to 500 KB through a file that is rotated at 128 KiB
		w.say(web.Stdout, fmt.Sprintf("%99d\n", n))
		f.want(fmt.Sprintf("web/0  | %99d", n))
	}
	w.end(s, web, api)
	if pieces, err := filepath.Glob(filepath.Join(w.state, "logs", "*", "web", "rotated", "*.gz")); len(pieces) == 0 {
		t.Errorf("nothing was rotated: %v", err)
	}
	s = w.run(2, capture.Options{})
	web = w.start(s, "web", 0)
	w.say(web.Stdout, "after a restart\n")
	f.want("web/0  | after a restart")
	w.end(s, web)
}

// What is followed goes on when somebody has removed the directory, while a worker still writes to it.
func TestLogsFollowAfterARemoval(t *testing.T) {
	w := &logsWorld{t: t, state: t.TempDir()}
	run := filepath.Join(w.state, "logs", fmt.Sprintf("%026d", 1))
	s, err := capture.Open(capture.Options{Dir: run, Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	old := w.start(s, "web", 0)
	w.say(old.Stdout, "one\n")
	f := w.follow("-n", "5")
	f.want("web/0 | one")
	linuxtest.Wait(t, patience, func() (bool, string) { // the store knows of it, too
		times, err := os.ReadFile(filepath.Join(run, "web", logfile.TimesName(0, logfile.Stdout)))
		return strings.Contains(string(times), "@ 4 "), fmt.Sprintf("%q, %v", times, err)
	})
	linuxtest.Wait(t, patience, func() (bool, string) { // the store may be writing a last file there
		err := os.RemoveAll(filepath.Join(run, "web"))
		return err == nil, fmt.Sprint(err)
	})
	api := w.start(s, "api", 0)
	w.say(api.Stdout, "the follower has seen that\n")
	f.want("api/0 | the follower has seen that")
	web := w.start(s, "web", 0)
	for _, text := range []string{"two", "three"} {
		w.say(web.Stdout, text+"\n")
		f.want("web/0 | " + text)
	}
	_, _ = old.Stdout.Close(), old.Stderr.Close() // only now the kernel gives up the directory
	w.say(web.Stdout, "four\n")
	f.want("web/0 | four")
	w.end(s, web, api)
}

// Lines of all workers come in the order in which they were written.
func TestLogsMerge(t *testing.T) {
	w := &logsWorld{t: t, state: t.TempDir()}
	s := w.run(1, capture.Options{})
	var all []*capture.Streams
	for slot := range 5 {
		all = append(all, w.start(s, "web", slot))
	}
	seen := make(chan string, 100)
	ended := make(chan error, 1)
	go func() { ended <- s.Follow(t.Context(), func(l capture.Line) { seen <- string(l.Text) }) }()
	var want []string
	for n := range 40 {
		text := fmt.Sprintf("line %d", n)
		w.say(all[n*3%5].Stdout, text+"\n")
		want = append(want, text)
		<-seen
		<-time.After(30 * time.Millisecond) // more than a time may be wrong
	}
	w.end(s, all...)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	out, _, code := w.logs("--raw")
	if got := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("logs = %d, %q; want %q", code, got, want)
	}
	out, _, _ = w.logs("--raw", "-n", "7")
	if got := strings.Split(strings.TrimSpace(out), "\n"); strings.Join(got, ",") != strings.Join(want[33:], ",") {
		t.Errorf("logs -n 7 = %q; want %q", got, want[33:])
	}
}

// -n reaches back into compressed files.
func TestLogsTailOfRotatedFiles(t *testing.T) {
	w := &logsWorld{t: t, state: t.TempDir()}
	w.rotated(20)
	for _, n := range []int{1, 10, 2000, 3500, 13_999, 14_000, 20_000} {
		out, stderr, code := w.logs("--raw", "-n", fmt.Sprint(n))
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		n = min(n, 14_000)
		if code != 0 || len(lines) != n || strings.TrimSpace(lines[0]) != fmt.Sprint(14_000-n) {
			t.Errorf("-n %d: exit %d, %d lines from %q; %s", n, code, len(lines), strings.TrimSpace(lines[0]), stderr)
		}
	}
}

// rotated writes numbered lines, 700 to a part, most of which get rotated.
func (w *logsWorld) rotated(parts int) {
	s := w.run(1, capture.Options{MaxSize: 64 << 10, Rotate: capture.Rotate{Keep: 1000}})
	st := w.start(s, "web", 0)
	for part := range parts {
		for n := range 700 {
			w.say(st.Stdout, fmt.Sprintf("%99d\n", part*700+n))
		}
	}
	linuxtest.Wait(w.t, patience, func() (bool, string) {
		files := len(w.pieces())
		return files >= parts-3, fmt.Sprintf("%d rotated files", files)
	})
	w.end(s, st)
}

func (w *logsWorld) pieces() []string {
	pieces, err := filepath.Glob(filepath.Join(w.state, "logs", "*", "web", logfile.RotatedDir, "*.gz"))
	if err != nil {
		w.t.Fatal(err)
	}
	return pieces
}

// A damaged compressed file is named; everything that is not damaged is shown.
func TestLogsOfADamagedFile(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"cut off": func(data []byte) []byte { return data[:len(data)/2] },
		"empty":   func([]byte) []byte { return nil },
		"no gzip": func(data []byte) []byte { return bytes.Repeat([]byte{0xff}, len(data)) },
		"one bit": func(data []byte) []byte { data[len(data)/2] ^= 0x10; return data },
		"short": func([]byte) []byte { // less than its name says
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, "short\n")
			_ = z.Close()
			return b.Bytes()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &logsWorld{t: t, state: t.TempDir()}
			w.rotated(10)
			bad := w.pieces()[2]
			data, err := os.ReadFile(bad)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(bad, damage(data), 0o640); err != nil {
				t.Fatal(err)
			}
			out, stderr, code := w.logs("--raw")
			if code != exitFailed || !strings.Contains(stderr, bad) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit %d, stderr %q; want one line that names %s", code, stderr, bad)
			}
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			if first, last := strings.TrimSpace(lines[0]), strings.TrimSpace(lines[len(lines)-1]); first != "0" || last != "6999" {
				t.Errorf("lines from %q to %q, want 0 to 6999", first, last)
			}
			if n := len(lines); n < 7000-660 || n >= 7000 && name != "one bit" {
				t.Errorf("%d lines, want all but those of one file", n)
			}
		})
	}
}

// What can not be read is named, and the rest is shown.
func TestLogsOfAFileThatCanNotBeRead(t *testing.T) {
	w := &logsWorld{t: t, state: t.TempDir()}
	s := w.run(1, capture.Options{})
	good, bad := w.start(s, "web", 0), w.start(s, "web", 1)
	w.say(good.Stdout, "good\n")
	path := bad.Stdout.Name()
	w.end(s, good, bad)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := w.logs("--raw")
	if out != "good\n" || code != exitFailed || !strings.Contains(stderr, path) {
		t.Errorf("logs = %q, %q, exit %d; want the good one and an error that names %s", out, stderr, code, path)
	}
}

// Who may not read the files is told so, with the way out.
func TestLogsOfAnotherUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	w := &logsWorld{t: t, state: t.TempDir()}
	s := w.run(1, capture.Options{})
	w.end(s, w.start(s, "web", 0))
	if err := os.Chmod(filepath.Join(w.state, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"-f"}} {
		argv := linuxtest.Helper(t, "pitvisor", append([]string{"logs", "--state-dir", w.state}, args...)...)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != exitUnknown || !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), "hint: read it as the user") {
			t.Errorf("logs %q: exit %d, %v, %s", args, code, err, out)
		}
	}
}
