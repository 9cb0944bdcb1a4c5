// Package ci_test runs the scripts as the CI systems do, with stand-ins for what those
// are: the runner that starts, cancels and kills a job, and the agent that takes reports.
package ci_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// patience bounds waits for things that take milliseconds.
const patience = 30 * time.Second

// installed builds both programs into a directory, laid out as a package has them.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	linuxtest.Build(t, "../../cmd/front", filepath.Join(dir, "bin", "pitvisor"))
	linuxtest.Build(t, "../../cmd/pitvisor", filepath.Join(dir, "libexec", "pitvisor", "pitvisor"))
	return filepath.Join(dir, "bin")
}

// machine is one that a CI system runs jobs on.
type machine struct {
	root string // cgroup of the runs
	dir  string // workspace of the job
	temp string
	here string // packaging/ci
	env  map[string]string

	inputs map[string]string // of the GitHub action
}

func newMachine(t *testing.T, bin string) *machine {
	t.Helper()
	m := &machine{root: linuxtest.Cgroup(t), dir: t.TempDir(), temp: t.TempDir(), inputs: map[string]string{}}
	openUp(t, m.temp)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	m.here = here
	m.env = map[string]string{
		"PATH": bin + ":" + os.Getenv("PATH"), "HOME": m.dir, "TMPDIR": m.temp,
		"PITVISOR_CGROUP_ROOT": m.root, "PITVISOR_STATE_DIR": m.temp,
		"PITVISOR_FAIL_ON_LEAK": "true", "PITVISOR_TIMEOUT": "1min",
	}
	return m
}

// openUp lets other users pass to a directory of the test's.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for ; filepath.Clean(os.TempDir()) != dir && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *machine) script(name string) string { return filepath.Join(m.here, name) }

func (m *machine) environ() []string {
	var env []string
	for name, value := range m.env {
		env = append(env, name+"="+value)
	}
	return env
}

// write makes a file in the machine's own directory and returns its path.
func (m *machine) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(m.temp, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// link installs a script as docs/ci.md says it: as a symbolic link.
func (m *machine) link(t *testing.T, script, name string) {
	t.Helper()
	path := filepath.Join(m.temp, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(m.script(script), path); err != nil {
		t.Fatal(err)
	}
}

// run returns how a program ended in the workspace, and what it said.
func (m *machine) run(t *testing.T, argv ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = m.environ(), m.dir, &out, &errs
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		t.Fatalf("run %q: %v", argv, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// empty fails the test if a process or a run is left.
func (m *machine) empty(t *testing.T) {
	t.Helper()
	linuxtest.NoProcessesLeft(t, m.root)
	if runs := m.glob(t, m.root, "run-*"); len(runs) > 0 {
		t.Errorf("runs left: %v, want none", runs)
	}
}

func (m *machine) glob(t *testing.T, parts ...string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// only is the one file that a pattern names.
func (m *machine) only(t *testing.T, parts ...string) string {
	t.Helper()
	found := m.glob(t, parts...)
	if len(found) != 1 {
		t.Fatalf("files %s = %v, want one", filepath.Join(parts...), found)
	}
	return found[0]
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// job is one that was started and says something.
type job struct {
	*linuxtest.Process
	out    *bufio.Reader
	cancel *os.File // of who listens to it
}

// start starts a program of the CI system's and waits until the job below it is ready.
func (m *machine) start(t *testing.T, argv ...string) *job {
	t.Helper()
	out, write := pipe(t)
	stdin, cancel := pipe(t)
	t.Cleanup(func() { _ = cancel.Close() }) // nothing more to say
	program, err := exec.LookPath(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	p := linuxtest.Command{
		Args: append([]string{program}, argv[1:]...), Env: m.environ(), Dir: m.dir,
		Stdin: stdin, Stdout: write, Stderr: write,
	}.Start(t)
	_ = write.Close() // copies that were only passed on
	_ = stdin.Close()
	j := &job{Process: p, out: bufio.NewReader(out), cancel: cancel}
	for {
		line, err := j.out.ReadString('\n')
		if err != nil {
			t.Fatalf("the job ended before it was ready: %q, %v", line, err)
		}
		if line == "ready\n" {
			return j
		}
	}
}

// pipe gives up when something is broken.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() }) // was only read
	if err := read.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return read, write
}

// end waits for the end of the output, as CI systems do, and of the job.
func (j *job) end(t *testing.T) (code int, said string) {
	t.Helper()
	rest, err := io.ReadAll(j.out)
	if err != nil {
		t.Fatalf("read the job's output: %v", err)
	}
	status := j.Wait(t, patience)
	if status.Signaled() {
		return 128 + int(status.Signal()), string(rest)
	}
	return status.ExitStatus(), string(rest)
}

func (j *job) signal(t *testing.T, signals ...unix.Signal) {
	t.Helper()
	for _, sig := range signals {
		if err := j.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
}

// groupRunner is a runner that starts its arguments in a process group of their own
// and signals that group when it is told to.
const groupRunner = `#!/bin/bash
set -m
"$@" </dev/null &
job=$!
read -r _
kill -s TERM %1
wait "$job" 2>/dev/null
`

// signalByCookie sends TERM to all processes that have a variable, as Jenkins does.
func signalByCookie(t *testing.T, cookie string) {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, dir := range entries {
		// The directory is held, so that what is read of it and what is signalled by way
		// of it is one process.
		fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it has ended
		}
		if has(fd, cookie) && unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) == nil {
			n++
		}
		_ = unix.Close(fd) // only named a process
	}
	if n < 2 {
		t.Errorf("%d processes have %s, want pitvisor and its guardian at least", n, cookie)
	}
}

// has says whether the process of a directory in /proc was started with a variable.
func has(dir int, variable string) bool {
	fd, err := unix.Openat(dir, "environ", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), "environ")
	defer func() { _ = f.Close() }() // was only read
	text, err := io.ReadAll(f)
	return err == nil && slices.Contains(strings.Split(string(text), "\x00"), variable)
}
