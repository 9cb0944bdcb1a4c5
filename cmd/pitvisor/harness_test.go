package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/spawn"
)

func TestMain(m *testing.M) {
	guardian.Main() // as in main
	spawn.HelperMain()
	linuxtest.Main(m, linuxtest.Modes{
		"pitvisor":      func(args []string) int { return run(args, os.Stdout, os.Stderr) },
		"journal-world": journalWorld,
		"web":           modeWeb,
	})
}

// patience bounds waits for things that take milliseconds: it is reached only
// when something is broken.
const patience = 2 * time.Minute

// world is a place of its own for supervisors: a cgroup root and directories.
type world struct {
	tb      testing.TB
	root    string // cgroup
	state   string
	runtime string
	dir     string // configurations
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	dir, err := os.MkdirTemp("", "w") // TempDir has the test's name in it, and paths of sockets must be short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	w := &world{
		tb: tb, root: linuxtest.Cgroup(tb), dir: dir,
		state: filepath.Join(dir, "state"), runtime: filepath.Join(dir, "rt"),
	}
	return w
}

// config writes a configuration and returns its path.
func (w *world) config(text string) string {
	w.tb.Helper()
	path := filepath.Join(w.dir, "pitvisor.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.tb.Fatal(err)
	}
	return path
}

// argv is a pitvisor command line in this world: the verb comes first.
func (w *world) argv(verb string, args ...string) []string {
	argv := linuxtest.Helper(w.tb, "pitvisor", verb, "--cgroup-root", w.root, "--state-dir", w.state, "--runtime-dir", w.runtime)
	return append(argv, args...)
}

// tool runs a verb to its end and returns stdout and the exit code.
func (w *world) tool(verb string, args ...string) (stdout, stderr string, code int) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	argv := w.argv(verb, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		w.tb.Fatalf("run pitvisor %s: %v", verb, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// runs reads the tree with `pitvisor ps --json`.
func (w *world) runs() []registry.RunView {
	w.tb.Helper()
	stdout, stderr, code := w.tool("ps", "--json")
	var runs []registry.RunView
	if err := json.Unmarshal([]byte(stdout), &runs); err != nil || code != 0 {
		w.tb.Fatalf("ps --json = exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	return runs
}

// workers maps "pool/slot" to the worker, over all runs in the given state.
func (w *world) workers(state registry.RunState) map[string]registry.WorkerView {
	w.tb.Helper()
	out := map[string]registry.WorkerView{}
	for _, r := range w.runs() {
		for _, p := range r.Pools {
			for _, v := range p.Workers {
				if r.State == state {
					out[fmt.Sprintf("%s/%d", v.Pool, v.Slot)] = v
				}
			}
		}
	}
	return out
}

// groups lists the names directly below the world's cgroup root.
func (w *world) groups() []string {
	w.tb.Helper()
	return linuxtest.Subgroups(w.tb, w.root)
}

// logLine is one line of the supervisor's own JSON log.
type logLine struct {
	Level  string `json:"level"`
	Msg    string `json:"msg"`
	Worker string `json:"worker"`
	raw    string
}

// upProc is a running `pitvisor up`.
type upProc struct {
	tb     testing.TB
	proc   *pidfd.Process
	exited chan struct{}
	code   int
	signal syscall.Signal

	mu     sync.Mutex // guards what follows
	log    []logLine
	output []string
	more   chan struct{} // closed and renewed at each new line
}

// up starts a supervisor. It is killed at the end of the test if it still runs.
func (w *world) up(config string, args ...string) *upProc {
	w.tb.Helper()
	return startUp(w.tb, w.argv("up", append([]string{"-f", config, "--log-format", "json"}, args...)...))
}

func startUp(tb testing.TB, argv []string) *upProc {
	tb.Helper()
	return startUpWith(tb, argv)
}

// startUpWith passes files on, from descriptor 3.
func startUpWith(tb testing.TB, argv []string, files ...*os.File) *upProc {
	tb.Helper()
	u := &upProc{tb: tb, exited: make(chan struct{}), more: make(chan struct{})}
	cmd := exec.Command(argv[0], argv[1:]...)
	fd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd, Setsid: true}
	outR, outW := pipe(tb)
	errR, errW := pipe(tb)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = outW, errW, files
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	_ = outW.Close()
	_ = errW.Close()
	u.proc = pidfd.FromFD(fd, cmd.Process.Pid)
	var readers sync.WaitGroup
	readers.Go(func() { u.read(outR, func(line string) { u.output = append(u.output, line) }) })
	readers.Go(func() { u.read(errR, u.addLog) })
	go func() {
		defer close(u.exited)
		_ = cmd.Wait() // the state says it all
		readers.Wait()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		u.code, u.signal = cmd.ProcessState.ExitCode(), 0
		if status.Signaled() {
			u.signal = status.Signal()
		}
	}()
	tb.Cleanup(func() {
		_ = u.proc.Signal(unix.SIGKILL) // done already in most tests
		<-u.exited
		_ = u.proc.Close()
		if tb.Failed() {
			tb.Logf("supervisor's log:\n%s\noutput:\n%s", strings.Join(u.logText(), "\n"), strings.Join(u.lines(), "\n"))
		}
	})
	return u
}

func pipe(tb testing.TB) (r, w *os.File) {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	return r, w
}

func (u *upProc) read(f *os.File, add func(string)) {
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			u.mu.Lock()
			add(strings.TrimSuffix(line, "\n"))
			close(u.more)
			u.more = make(chan struct{})
			u.mu.Unlock()
		}
		if err != nil {
			if err != io.EOF {
				u.tb.Errorf("read the supervisor's output: %v", err)
			}
			return
		}
	}
}

func (u *upProc) addLog(line string) {
	l := logLine{raw: line}
	_ = json.Unmarshal([]byte(line), &l) // plain text stays in raw
	u.log = append(u.log, l)
}

func (u *upProc) logText() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for _, l := range u.log {
		out = append(out, l.raw)
	}
	return out
}

func (u *upProc) lines() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.output)
}

// waitLog returns when cond holds for the log so far.
func (u *upProc) waitLog(what string, cond func([]logLine) bool) {
	u.tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		u.mu.Lock()
		ok, more := cond(u.log), u.more
		u.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-more:
		case <-u.exited:
			u.mu.Lock()
			ok := cond(u.log)
			u.mu.Unlock()
			if !ok {
				u.tb.Fatalf("supervisor ended with code %d (%v) before: %s", u.code, u.signal, what)
			}
			return
		case <-deadline.C:
			u.tb.Fatalf("no sign of it within %s: %s", patience, what)
		}
	}
}

// ready returns when each named worker was reported ready.
func (u *upProc) ready(workers ...string) {
	u.tb.Helper()
	u.waitLog("ready: "+strings.Join(workers, " "), func(log []logLine) bool {
		for _, name := range workers {
			if !slices.ContainsFunc(log, func(l logLine) bool { return l.Worker == name && l.Msg == "ready" }) {
				return false
			}
		}
		return true
	})
}

// send signals the supervisor.
func (u *upProc) send(sig unix.Signal) {
	u.tb.Helper()
	if err := u.proc.Signal(sig); err != nil {
		u.tb.Fatalf("signal the supervisor: %v", err)
	}
}

// wait returns the exit code of a supervisor that is about to end.
func (u *upProc) wait() int {
	u.tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-u.exited:
		return u.code
	case <-deadline.C:
		u.tb.Fatalf("the supervisor has not ended within %s", patience)
		return -1
	}
}

// kill ends the supervisor as a crash does.
func (u *upProc) kill() {
	u.tb.Helper()
	u.send(unix.SIGKILL)
	u.wait()
}

// loud returns the log lines above info.
func (u *upProc) loud() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for _, l := range u.log {
		if l.Level != "INFO" && l.Level != "DEBUG" {
			out = append(out, l.raw)
		}
	}
	return out
}
