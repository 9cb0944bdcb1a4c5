package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// watcher is a verb that goes on until its supervisor ends.
type watcher struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	lines *bufio.Reader
	errs  *os.File
}

// follows starts a verb, as another user of the reading group where groups are given.
func (w *world) follows(t *testing.T, groups []uint32, verb string, args ...string) *watcher {
	t.Helper()
	f := &watcher{t: t, name: verb}
	var err error
	if f.errs, err = os.CreateTemp(w.dir, "errs"); err != nil {
		t.Fatal(err)
	}
	argv := w.argv(verb, args...)
	f.cmd = exec.Command(argv[0], argv[1:]...)
	if groups != nil {
		f.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533, Groups: groups}}
	}
	read, write := pipe(t)
	f.cmd.Stdout, f.cmd.Stderr = write, f.errs
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	f.lines = bufio.NewReader(read)
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill() // most have ended
		_ = f.cmd.Wait()
		_ = read.Close()
		_ = f.errs.Close()
	})
	return f
}

// until reads lines up to one that has the text, and returns them.
func (f *watcher) until(text string) (read []string) {
	f.t.Helper()
	late := time.AfterFunc(patience, func() { _ = f.cmd.Process.Kill() })
	defer late.Stop()
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			f.t.Fatalf("%s has ended (%v) before %q, after %q", f.name, err, text, read)
		}
		if read = append(read, line); strings.Contains(line, text) {
			return read
		}
	}
}

// signal stops it in the middle of what it does, or lets it go on.
func (f *watcher) signal(sig unix.Signal) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(sig); err != nil {
		f.t.Fatal(err)
	}
}

// suspend stops it, as Ctrl-Z does, and waits until it has stopped.
func (f *watcher) suspend() {
	f.t.Helper()
	f.signal(unix.SIGSTOP)
	linuxtest.Wait(f.t, patience, func() (bool, string) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(rest, "T"), f.name + " has not stopped"
	})
}

// ends requires that it ends by itself, with a code and a word why, and returns what it has
// said before.
func (f *watcher) ends(code int, why string) string {
	f.t.Helper()
	late := time.AfterFunc(patience, func() { _ = f.cmd.Process.Kill() })
	defer late.Stop()
	rest, err := io.ReadAll(f.lines)
	if err != nil {
		f.t.Error(err)
	}
	_ = f.cmd.Wait() // the code tells
	said, _ := os.ReadFile(f.errs.Name())
	if got := f.cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(said), why) {
		f.t.Errorf("%s = %d, says %q; want %d and %q", f.name, got, said, code, why)
	}
	return string(rest)
}

// readersPool prints a line for each start, and has a group that may read.
func readersPool(version string) string {
	return `
[api]
group = "54321"
[pool.web]
command = ["sh", "-c", "echo $PITVISOR_WORKER is ` + version + `; exec sleep 600"]
size = 2
ready.stdout = "is ` + version + `"
`
}

var readers = []uint32{54321}

// readersWorld is a world whose files another user cannot read, and so asks.
func readersWorld(t *testing.T) *world {
	t.Helper()
	linuxtest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	public(t, w.dir)
	if err := os.Mkdir(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestCrashEndsFollowers: who follows a supervisor that is killed is told so, with the code
// for that none runs. Who follows files goes on with the next one's.
func TestCrashEndsFollowers(t *testing.T) {
	w := readersWorld(t)
	u := w.up(w.config(readersPool("old")))
	u.ready("web/0", "web/1")
	files := w.follows(t, nil, "logs", "-f")
	all := []*watcher{
		w.follows(t, nil, "events", "-f"),
		w.follows(t, nil, "events", "-f", "--json"),
		w.follows(t, readers, "logs", "-f", "--socket", w.socket()),
		w.follows(t, nil, "wait", "--for", "down"),
	}
	for i, text := range []string{"web/1.1 ", `"worker":"web/1"`, "is old"} {
		all[i].until(text)
	}
	files.until("is old")
	left := u.crash(w)
	for _, f := range all {
		f.ends(exitNotRunning, "no supervisor runs")
	}
	next := w.up(w.config(readersPool("new")))
	next.ready("web/0", "web/1")
	left.isGone()
	files.until("is new")
	next.endsClean(w)
}

// TestFollowersOfAnother: who sleeps through a crash and the next start is told so. The
// numbers and offsets that it has read to mean other events and lines by now.
func TestFollowersOfAnother(t *testing.T) {
	w := readersWorld(t)
	u := w.up(w.config(readersPool("old")))
	u.ready("web/0", "web/1")
	all := []*watcher{
		w.follows(t, nil, "events", "-f"),
		w.follows(t, readers, "logs", "-f", "--socket", w.socket()),
	}
	all[0].until("web/1.1 ")
	all[1].until("is old")
	for _, f := range all {
		f.suspend()
	}
	left := u.crash(w)
	next := w.up(w.config(readersPool("new")))
	next.ready("web/0", "web/1")
	left.isGone()
	for range 3 { // so that it has had more events than the one before
		if _, stderr, code := w.tool("restart", "web"); code != exitOK {
			t.Fatalf("restart = %d\n%s", code, stderr)
		}
	}
	why := "this is the supervisor of " + strings.Replace(w.groups()[0], "-", " ", 1)
	for _, f := range all {
		f.signal(unix.SIGCONT)
		if rest := f.ends(exitNotRunning, why); strings.Contains(rest, ".2 ") || strings.Contains(rest, "is new") {
			t.Errorf("%s goes on in the middle of another one's:\n%s", f.name, rest)
		}
	}
	next.endsClean(w)
}

// TestCrashEndsWhoWaitsForAStop that will never be done by that supervisor.
func TestCrashEndsWhoWaitsForAStop(t *testing.T) {
	w := newWorld(t)
	config := w.config(deafPool(t, 1, "1h"))
	u := w.up(config)
	u.ready("s/0")
	stop := w.follows(t, nil, "stop", "s")
	w.waitFor("s/0", func(x *api.Worker) bool { return x.State == api.StateStopping })
	left := u.crash(w)
	stop.ends(exitNotRunning, "no supervisor runs")
	w.sweepsAll()
	left.isGone()
}
