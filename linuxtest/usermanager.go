package linuxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// UserManager says how to run the systemd of an ordinary user, as on a host that was
// booted with systemd, for one test. The zero value works.
//
// The manager and the commands of its user see namespaces of their own: a /run that
// belongs to the test, and the test's cgroup as the root of /sys/fs/cgroup, with
// user.slice/user-UID.slice below it. Nothing else of the machine is hidden, and
// nothing of it can be changed by accident: / is read-only there.
type UserManager struct {
	UID   int               // 0 is 65534
	NoBus bool              // no dbus-daemon: systemd has only its own socket
	Units map[string]string // more unit files and drop-ins of the user, by their names

	// Booted runs a systemd as PID 1 as well, which starts that of the user, in a PID
	// namespace. It moves processes on the user's behalf, over a system bus. Without
	// it the user's systemd may do that itself, which is faster to start.
	Booted bool
}

// Manager is a running UserManager.
type Manager struct {
	// Dir is the user's tree of cgroups, user@UID.service.
	Dir string
	// Runtime is the user's XDG_RUNTIME_DIR as the test sees it; its user sees
	// /run/user/UID.
	Runtime string

	uid  int
	proc *Process // the user's systemd, or PID 1
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
	NeedCommand(tb, systemdPath, "systemctl")
	if !c.NoBus || c.Booted {
		NeedCommand(tb, "dbus-daemon")
	}
	if c.UID == 0 {
		c.UID = 65534
	}
	run := tb.TempDir() // first, so that it is removed last
	m := &Manager{
		uid: c.UID, log: filepath.Join(run, "log"), root: makeCgroup(tb),
		Runtime: filepath.Join(run, "user", fmt.Sprint(c.UID)),
	}
	m.Dir = filepath.Join(m.slice(), fmt.Sprintf("user@%d.service", c.UID))
	tb.Cleanup(func() { m.end(tb) })
	if err := c.prepare(run, m); err != nil {
		tb.Fatalf("prepare a user manager: %v", err)
	}
	log, err := os.Create(m.log)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = log.Close() }() // systemd has its own
	command := Command{
		Args:   Helper(tb, "user-manager", run, fmt.Sprint(c.UID), strings.TrimPrefix(m.Dir, m.root)),
		Cgroup: m.root, Stdout: log, Stderr: log,
	}
	if c.Booted {
		command.cloneflags = unix.CLONE_NEWPID
	}
	m.proc = command.Start(tb)
	m.await(tb, "systemd/private")
	if !c.NoBus {
		m.await(tb, "bus")
	}
	if err := os.MkdirAll(m.session(), 0o755); err != nil {
		tb.Fatal(err)
	}
	return m
}

// slice is the cgroup of all that belongs to the user.
func (m *Manager) slice() string {
	return filepath.Join(m.root, "user.slice", fmt.Sprintf("user-%d.slice", m.uid))
}

// session is where a login of the user would be.
func (m *Manager) session() string { return filepath.Join(m.slice(), "session-1.scope") }

// await waits for a socket below the user's runtime directory.
func (m *Manager) await(tb testing.TB, name string) {
	tb.Helper()
	ok, _ := poll(20*time.Second, func() (bool, string) {
		return pathExists(filepath.Join(m.Runtime, name)) || !m.proc.Alive(), ""
	})
	if !ok || !m.proc.Alive() {
		log, _ := os.ReadFile(m.log) // may be missing, and is for people
		tb.Fatalf("the user's systemd does not come up: no %s\n%s", name, log)
	}
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
		Args: append([]string{path}, args[1:]...), Dir: "/",
		Env:    []string{"PATH=" + os.Getenv("PATH"), fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", m.uid)},
		Cgroup: m.session(),
		beside: m.proc,
		user:   &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)},
	}
}

// Systemctl runs systemctl --user and returns what it prints.
func (m *Manager) Systemctl(tb testing.TB, args ...string) string {
	tb.Helper()
	c := m.Command(tb, append([]string{"systemctl", "--user", "--no-pager", "--plain", "--no-legend"}, args...)...)
	c.Stderr = os.Stderr
	return c.Output(tb, 20*time.Second)
}

// Process returns the manager itself, or PID 1 if that was booted.
func (m *Manager) Process() *Process { return m.proc }

// end ends what the test did not.
func (m *Manager) end(tb testing.TB) {
	tb.Helper()
	left := membersBelow(m.root)
	if m.proc != nil {
		m.proc.end(tb)
	}
	if !mayLeak(tb) {
		for _, p := range left {
			if !m.service(p.Cgroup) {
				tb.Errorf("left with the user's systemd: process %s", p)
			}
		}
	}
	if err := destroyGroup(m.root); err != nil {
		tb.Error(err)
	}
}

// service says whether a cgroup is of systemd itself or of a bus.
func (m *Manager) service(dir string) bool {
	return dir == m.root || filepath.Base(dir) == "init.scope" || filepath.Base(dir) == "dbus.service"
}
