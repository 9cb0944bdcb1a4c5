package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// ran is a command inside a worker, with the other ends of its files.
type ran struct {
	*api.Running
	in       *os.File
	out, err *bufio.Reader
	files    [3]*os.File // of ours
}

// exec runs a script inside a worker.
func (r *rig) exec(ctx context.Context, e api.Exec, script string) (*ran, error) {
	r.Helper()
	var theirs, ours [3]*os.File
	for i := range 3 {
		read, write, err := os.Pipe()
		if err != nil {
			r.Fatal(err)
		}
		theirs[i], ours[i] = write, read
		if i == 0 {
			theirs[i], ours[i] = read, write
		}
		r.Cleanup(func() { _ = ours[i].Close() })
	}
	if e.Command == nil {
		e.Command, e.Env = []string{"sh", "-c", script}, append(e.Env, "PATH="+os.Getenv("PATH"))
	}
	running, err := r.Exec(ctx, e, theirs[0], theirs[1], theirs[2])
	for _, f := range theirs {
		_ = f.Close()
	}
	if err != nil {
		for _, f := range ours {
			_ = f.Close()
		}
		return nil, err
	}
	r.Cleanup(func() { _ = running.Close() })
	return &ran{running, ours[0], bufio.NewReader(ours[1]), bufio.NewReader(ours[2]), ours}, nil
}

func (r *rig) mustExec(ctx context.Context, e api.Exec, script string) *ran {
	r.Helper()
	x, err := r.exec(ctx, e, script)
	if err != nil {
		r.Fatal(err)
	}
	return x
}

// quiet fails the test unless all sessions have ended and no guest is left in a leaf.
func (r *rig) quiet() {
	r.Helper()
	linuxtest.Wait(r, patience, func() (bool, string) {
		r.server.sessions.mu.Lock()
		defer r.server.sessions.mu.Unlock()
		return len(r.server.sessions.end) == 0, fmt.Sprintf("%d sessions are left", len(r.server.sessions.end))
	})
	if left, err := filepath.Glob(r.run.Dir().Path() + "/*/*/" + cgroup.GuestPrefix + "*"); err != nil || len(left) > 0 {
		r.Errorf("cgroups of guests are left: %v, %v", left, err)
	}
}

// TestExec: files, exit code and identity are exact.
func TestExec(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 2))
	before := r.ready()
	x := r.mustExec(r.ctx(), api.Exec{Worker: "web/1", Dir: "/usr", Env: []string{"A=b c"}},
		`echo "$PITVISOR_WORKER $A $$"; pwd; cat /proc/self/cgroup; cat; echo bad >&2; exit 42`)
	if x.Worker != "web/1" || x.Start != 1 || x.PID == 0 {
		t.Errorf("started %+v", x.ExecStarted)
	}
	binary := strings.Repeat("\x00\xff\r\n", 100_000)
	go func() {
		_, _ = io.WriteString(x.in, binary)
		_ = x.in.Close()
	}()
	out, err := io.ReadAll(x.out)
	if err != nil {
		t.Fatal(err)
	}
	said, rest, _ := strings.Cut(string(out), "/guest-")
	if want := fmt.Sprintf("web/1 b c %d\n/usr\n", x.PID); !strings.HasPrefix(said, want) || !strings.HasSuffix(said, "/web/1.1") {
		t.Errorf("said %q, want %q", said, want)
	}
	if !strings.HasSuffix(rest, "\n"+binary) {
		t.Errorf("%d bytes have come back that are not what was sent, %d", len(rest), len(binary))
	}
	if bad, err := io.ReadAll(x.err); string(bad) != "bad\n" || err != nil {
		t.Errorf("stderr %q, %v", bad, err)
	}
	e, err := x.Wait()
	if err != nil || e.Exit.Code != 42 || e.Over {
		t.Errorf("ended with %+v, %v", e, err)
	}
	r.quiet()
	if after := r.ready(); after.Workers[1].PID != before.Workers[1].PID {
		t.Errorf("the worker is %+v, was %+v", after.Workers[1], before.Workers[1])
	}
}

// TestExecSignals: they reach the command, and nobody else.
func TestExecSignals(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	// No read in the loop: a shell would miss a signal that comes right before it.
	x := r.mustExec(r.ctx(), api.Exec{Worker: "web"}, `trap 'echo usr1' USR1; echo here; while :; do sleep 0.1; done`)
	if line, _ := x.out.ReadString('\n'); line != "here\n" {
		t.Fatalf("said %q", line)
	}
	for range 3 {
		if err := x.Signal("USR1"); err != nil {
			t.Fatal(err)
		}
		if line, _ := x.out.ReadString('\n'); line != "usr1\n" {
			t.Fatalf("said %q", line)
		}
	}
	if err := x.Signal("TERM"); err != nil {
		t.Fatal(err)
	}
	if e, err := x.Wait(); err != nil || e.Exit.Signal != "SIGTERM" || e.Exit.Code != -1 {
		t.Errorf("ended with %+v, %v", e, err)
	}
	r.quiet()
}

// TestExecEnds with the caller, with the worker and with the command: nothing of it is
// left in any case, and the worker lives in the first and last.
func TestExecEnds(t *testing.T) {
	linuxtest.NeedClone3(t)
	const script = `sh -c 'setsid sleep 600 & echo $!; exec sleep 600' & echo $!; exec sleep 600`
	for name, end := range map[string]func(r *rig, x *ran, cancel func()){
		"caller":  func(_ *rig, x *ran, _ func()) { _ = x.Close() },
		"context": func(_ *rig, _ *ran, cancel func()) { cancel() },
		"command": func(_ *rig, x *ran, _ func()) { _ = x.Signal("KILL") },
		"worker": func(r *rig, x *ran, _ func()) {
			if _, err := r.Signal(r.ctx(), api.Action{Select: []string{"web/0"}, Signal: "KILL"}); err != nil {
				r.Error(err)
			}
			if e, err := x.Wait(); err != nil || !e.Over || e.Exit.Signal != "SIGKILL" {
				r.Errorf("ended with %+v, %v", e, err)
			}
		},
		"stop": func(r *rig, x *ran, _ func()) {
			if _, err := r.Stop(r.ctx(), api.Stop{Selected: api.Selected{Select: []string{"web"}, Wait: true}}); err != nil {
				r.Error(err)
			}
		},
		"nonsense": func(_ *rig, x *ran, _ func()) { _ = x.Running.Signal("NONSENSE") },
	} {
		t.Run(name, func(t *testing.T) {
			r := begin(t, nil, sleepers(t, "web", 1))
			before := r.ready()
			ctx, cancel := context.WithCancel(r.ctx())
			defer cancel()
			x := r.mustExec(ctx, api.Exec{Worker: "web/0"}, script)
			held, err := pidfd.Open(x.PID)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = held.Close() }()
			for range 2 {
				if _, err := x.out.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			end(r, x, cancel)
			if err := held.Wait(r.ctx()); err != nil {
				t.Errorf("the command lives: %v", err)
			}
			if rest, err := io.ReadAll(x.out); err != nil || len(rest) > 0 { // until the last of them is gone
				t.Errorf("said %q, %v", rest, err)
			}
			r.quiet()
			if name == "worker" || name == "stop" {
				return
			}
			if s, err := r.Status(r.ctx()); err != nil || s.Workers[0].PID != before.Workers[0].PID || s.Workers[0].State != api.StateUp {
				t.Errorf("the worker is %+v, %v", s, err)
			}
		})
	}
}

// TestExecIsRefused: what cannot be done is said, and nothing is started.
func TestExecIsRefused(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 2))
	r.ready()
	for body, want := range map[string]int{
		`{"worker":"web/0","command":["true"]}`:                     400, // no upgrade
		`{"worker":"web/0"}`:                                        400,
		`{"worker":"web/0","command":[""]}`:                         400,
		`{"worker":"web/0","command":["a\u0000"]}`:                  400,
		`{"worker":"web/0","command":["true"],"env":["x"]}`:         400,
		`{"worker":"web/0","command":["true"],"dir":"x"}`:           400,
		`{"worker":"web/9","command":["true"]}`:                     404,
		`{"worker":"web","command":["true"]}`:                       409, // two
		`{"worker":"web/0.9","command":["true"]}`:                   409,
		`{"worker":"1","command":["true"],"tty":false,"user":"me"}`: 400,
	} {
		if got := r.call("POST /v1/exec " + body); got.Status != want {
			t.Errorf("%s = %+v, want %d", body, got, want)
		}
	}
	for code, e := range map[string]api.Exec{
		api.CodeNoProgram:     {Worker: "web/0", Command: []string{"no-such-program"}},
		api.CodeNotExecutable: {Worker: "web/0", Command: []string{"/etc/passwd"}},
		api.CodeConflict:      {Worker: "web/0", Command: []string{"true"}, Dir: "/nowhere"},
	} {
		var remote *api.Error
		if _, err := r.exec(r.ctx(), e, ""); !errors.As(err, &remote) || remote.Code != code || remote.Cause == "" {
			t.Errorf("%v = %v, want %s", e, err, code)
		}
	}
	if _, err := r.Freeze(r.ctx(), api.Action{Select: []string{"web/0"}}); err != nil {
		t.Fatal(err)
	}
	var frozen *api.Error
	if _, err := r.exec(r.ctx(), api.Exec{Worker: "web/0", Command: []string{"/bin/true"}}, ""); !errors.As(err, &frozen) || !strings.Contains(frozen.Cause, "frozen") || !strings.Contains(frozen.Cure, "pitvisor thaw") {
		t.Errorf("beside a frozen worker: %+v", err)
	}
	if _, err := r.Thaw(r.ctx(), api.Action{Select: []string{"web/0"}}); err != nil {
		t.Fatal(err)
	}
	r.quiet()
}

// TestExecRights: nobody but the owner.
func TestExecRights(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	const readers = 54321
	r := begin(t, func(o *Options) { o.ReaderGID = readers }, sleepers(t, "web", 1))
	r.ready()
	for _, groups := range [][]uint32{nil, {readers}} {
		for _, got := range r.as(stranger, groups, `POST /v1/exec {"worker":"web/0","command":["true"]}`) {
			refused(t, got, 403, api.CodeForbidden)
		}
	}
}

// TestExecHands: a caller that does not hand three files gets nothing started.
func TestExecHands(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	for n, sends := range map[string][]int{"none": nil, "two": {0, 1}, "five": {0, 1, 2, 0, 1}} {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: r.socket})
		if err != nil {
			t.Fatal(err)
		}
		body := `{"worker":"web/0","command":["true"]}`
		_, _ = fmt.Fprintf(c, "POST /v1/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: pitvisor-exec\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		lines := bufio.NewReader(c)
		for line := ""; line != "\r\n"; {
			if line, err = lines.ReadString('\n'); err != nil {
				t.Fatal(n, err)
			}
		}
		var rights []byte
		if sends != nil {
			rights = unix.UnixRights(sends...)
		}
		if _, _, err := c.WriteMsgUnix([]byte{0}, rights, nil); err != nil {
			t.Fatal(err)
		}
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "three descriptors") {
			t.Errorf("%s: %q, %v", n, line, err)
		}
		_ = c.Close()
	}
	r.quiet()
}

// TestExecTerminal: the command has a session of its own with that terminal.
func TestExecTerminal(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	master, slave := openPTY(t)
	x, err := r.Exec(r.ctx(), api.Exec{
		Worker: "web/0", TTY: true, Env: []string{"PATH=" + os.Getenv("PATH")},
		Command: []string{"sh", "-c", `tty >/dev/null && echo yes >/dev/tty; stty size; echo $(ps -o tty= -p $$ | tr -d ' ') $(($(ps -o sid= -p $$) - $$))`},
	}, slave, slave, slave)
	_ = slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	if e, err := x.Wait(); err != nil || e.Exit.Code != 0 {
		t.Errorf("ended with %+v, %v", e, err)
	}
	var out []byte
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			break // EIO: nobody has the slave any more
		}
	}
	lines := strings.Split(string(out), "\r\n")
	if len(lines) < 3 || lines[0] != "yes" || lines[1] != "33 77" || !strings.HasPrefix(lines[2], "pts/") || !strings.HasSuffix(lines[2], " 0") {
		t.Errorf("said %q", out)
	}
	r.quiet()
}

// openPTY makes a pseudo-terminal of 33 lines and 77 columns.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		linuxtest.Skip(t, "needs /dev/ptmx")
	}
	master = os.NewFile(uintptr(m), "master")
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	return master, os.NewFile(s, "slave")
}

// TestManyExecs at once: as many as there may be, and one more is refused.
func TestManyExecs(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	var all []*ran
	for range mostSessions {
		all = append(all, r.mustExec(context.Background(), api.Exec{Worker: "web/0"}, `exec sleep 600`))
	}
	var remote *api.Error
	if _, err := r.exec(r.ctx(), api.Exec{Worker: "web/0"}, `exec sleep 600`); !errors.As(err, &remote) || remote.Code != api.CodeTooMany {
		t.Errorf("one more: %v", err)
	}
	for _, x := range all {
		_ = x.Close()
	}
	r.quiet()
}
