package linuxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// UserManager says how to run the systemd of an ordinary user for one test, below a
// systemd as PID 1, as on a host that was booted with it. The zero value works.
//
// They and the commands of the user see namespaces of their own: a /run and a /proc
// that belong to the test, and the test's cgroup as the root of /sys/fs/cgroup, with
// user.slice/user-UID.slice below it. Nothing else of the machine is hidden, and
// nothing of it can be changed by accident: / is read-only there. Of units there is
// only what is needed: no login manager, no journal.
type UserManager struct {
	UID   int               // 0 is 65534
	NoBus bool              // no bus of the user: systemd has only its own socket
	Units map[string]string // more unit files and drop-ins of the user, by their names
}

// Manager is a running UserManager.
type Manager struct {
	// Dir is the user's tree of cgroups, user@UID.service.
	Dir string
	// Runtime is the user's XDG_RUNTIME_DIR as the test sees it; its user sees
	// /run/user/UID.
	Runtime string

	uid  int
	proc *Process // PID 1
	log  string   // what systemd says
	root string   // the cgroup that holds it all
}

// systemdPath is where systemd expects to be, on every distribution.
const systemdPath = "/lib/systemd/systemd"

// Start starts the manager, waits until it can be talked to, and ends it and all of
// its units after the test. It fails the test if a process is left in a unit or in a
// session, unless [AllowLeak] was called. Skips without root and without systemd.
func (c UserManager) Start(tb testing.TB) *Manager {
	tb.Helper()
	NeedRoot(tb)
	NeedCapability(tb, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
	NeedCommand(tb, systemdPath, "systemctl", "dbus-daemon")
	if c.UID == 0 {
		c.UID = 65534
	}
	run := tb.TempDir() // first, so that it is removed last
	m := &Manager{
		uid: c.UID, log: filepath.Join(run, "log"), root: makeCgroup(tb),
		Runtime: filepath.Join(run, "user", fmt.Sprint(c.UID)),
	}
	m.Dir = filepath.Join(m.slice(), fmt.Sprintf("user@%d.service", c.UID))
	tb.Cleanup(func() {
		if err := destroyGroup(m.root); err != nil {
			tb.Error(err)
		}
	})
	if err := c.prepare(run, m.Runtime); err != nil {
		tb.Fatalf("prepare a user manager: %v", err)
	}
	log, err := os.Create(m.log)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = log.Close() }() // systemd has its own
	m.proc = Command{
		Args: Helper(tb, "systemd", run), Cgroup: m.root, Stdout: log, Stderr: log, cloneflags: unix.CLONE_NEWPID,
	}.Start(tb)
	// PID 1 is killed after that, and all others with it.
	tb.Cleanup(func() { m.checkLeft(tb) })
	m.await(tb)
	return m
}

// slice is the cgroup of all that belongs to the user.
func (m *Manager) slice() string {
	return filepath.Join(m.root, "user.slice", fmt.Sprintf("user-%d.slice", m.uid))
}

// session is where a login of the user would be.
func (m *Manager) session() string { return filepath.Join(m.slice(), "session-1.scope") }

// await waits until the user's systemd has started all that it should, and makes a
// session for its user.
func (m *Manager) await(tb testing.TB) {
	tb.Helper()
	command := m.Command(tb, "systemctl", "--user", "is-system-running")
	// A second as a rule; a minute in a machine that is emulated.
	ok, _ := poll(time.Minute, func() (bool, string) {
		if !m.proc.Alive() {
			return true, ""
		}
		if !pathExists(filepath.Join(m.Runtime, "systemd/private")) || os.MkdirAll(m.session(), 0o755) != nil {
			return false, ""
		}
		p, err := command.start()
		if err != nil {
			return false, ""
		}
		defer p.end(tb)
		status, exited, err := p.wait(time.Minute)
		return err == nil && exited && status == 0, ""
	})
	if !ok || !m.proc.Alive() {
		tb.Fatalf("the user's systemd does not come up:\n%s", m.state(tb))
	}
}

// state is what there is to say of systemd, for people.
func (m *Manager) state(tb testing.TB) string {
	text, _ := os.ReadFile(m.log) // what it said before it was systemd
	for _, p := range membersBelow(m.root) {
		text = append(text, "process "+p.String()+"\n"...)
	}
	out, err := os.Create(m.log)
	if err != nil {
		return string(text)
	}
	defer func() { _ = out.Close() }()  // read below
	_ = os.MkdirAll(m.session(), 0o755) // or nothing can be asked
	for _, args := range [][]string{{"list-jobs"}, {"--failed"}, {"status", "user@*", "dbus*"}} {
		c := m.CommandAs(tb, 0, append([]string{"systemctl", "--no-pager"}, args...)...)
		c.Stdout, c.Stderr = out, out
		p, err := c.start()
		if err != nil {
			text = append(text, err.Error()+"\n"...)
		} else {
			_, _, _ = p.wait(time.Minute) // what it has said by then is better than nothing
			_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
			_, _, _ = p.wait(time.Minute)
			_ = unix.Close(p.fd)
		}
	}
	more, _ := os.ReadFile(m.log)
	return string(text) + string(more)
}

// Command returns a command that runs as the user in a login session: outside of the
// manager's units, with XDG_RUNTIME_DIR and PATH as its whole environment.
func (m *Manager) Command(tb testing.TB, args ...string) Command {
	tb.Helper()
	return m.CommandAs(tb, m.uid, args...)
}

// CommandAs is Command as another user, who has the environment of the manager's.
func (m *Manager) CommandAs(tb testing.TB, uid int, args ...string) Command {
	tb.Helper()
	path, err := exec.LookPath(args[0])
	if err != nil {
		tb.Fatal(err)
	}
	return Command{
		Args: append(Helper(tb, "beside", fmt.Sprint(uid), path), args[1:]...), Dir: "/",
		Env:    []string{"PATH=" + os.Getenv("PATH"), fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", m.uid)},
		Cgroup: m.session(),
		beside: m.proc,
	}
}

// Systemctl runs systemctl --user and returns what it prints.
func (m *Manager) Systemctl(tb testing.TB, args ...string) string {
	tb.Helper()
	c := m.Command(tb, append([]string{"systemctl", "--user", "--no-pager", "--plain", "--no-legend"}, args...)...)
	c.Stderr = os.Stderr
	return c.Output(tb, 20*time.Second)
}

// Signal sends a signal to the user's systemd.
func (m *Manager) Signal(tb testing.TB, sig unix.Signal) {
	tb.Helper()
	dir := filepath.Join(m.Dir, "init.scope")
	members := Members(dir)
	if len(members) != 1 {
		tb.Fatalf("in %s are %v, want the user's systemd", dir, members)
	}
	fd, err := unix.PidfdOpen(members[0].PID, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }() // the signal is what counts
	if path, ok := cgroupOf(members[0].PID); !ok || path != dir {
		tb.Fatalf("the user's systemd is in %s now", path)
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		tb.Fatal(err)
	}
}

// checkLeft fails the test if a process is left in a unit or a session.
func (m *Manager) checkLeft(tb testing.TB) {
	tb.Helper()
	if mayLeak(tb) {
		return
	}
	for _, p := range membersBelow(m.root) {
		if !m.service(p.Cgroup) {
			tb.Errorf("left with the user's systemd: process %s", p)
		}
	}
}

// service says whether a cgroup is of systemd itself or of a bus.
func (m *Manager) service(dir string) bool {
	return dir == m.root || filepath.Base(dir) == "init.scope" || filepath.Base(dir) == "dbus.service"
}
