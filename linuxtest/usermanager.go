package linuxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// UserManager says how to run the systemd of an ordinary user, as on a host that was
// booted with systemd, for one test. The zero value works.
//
// The manager and the commands of its user see a mount and a cgroup namespace of
// their own: a /run that belongs to the test, and the test's cgroup as the root of
// /sys/fs/cgroup, with user.slice/user-UID.slice below it. There is no PID 1 that
// would move the user's processes between cgroups; instead the user's manager has
// the right to do it.
type UserManager struct {
	UID   int               // 0 is 65534
	NoBus bool              // no dbus-daemon: systemd has only its own socket
	Units map[string]string // more unit files and drop-ins, by their names
}

// Manager is a running UserManager.
type Manager struct {
	// Dir is the user's tree of cgroups, user@UID.service.
	Dir string
	// Runtime is the user's XDG_RUNTIME_DIR as the test sees it; its user sees
	// /run/user/UID.
	Runtime string

	uid  int
	proc *Process
	log  string // what systemd says
	root string // the cgroup that holds it all
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
	NeedCommand(tb, systemdPath, "systemctl", "nsenter", "setpriv")
	if !c.NoBus {
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
	m.proc = Command{
		Args:   Helper(tb, "user-manager", run, fmt.Sprint(c.UID), strings.TrimPrefix(m.Dir, m.root)),
		Cgroup: m.root, Stdout: log, Stderr: log,
	}.Start(tb)
	m.await(tb, "systemd/private")
	if !c.NoBus {
		m.await(tb, "bus")
	}
	return m
}

// slice is the cgroup of all that belongs to the user.
func (m *Manager) slice() string {
	return filepath.Join(m.root, "user.slice", fmt.Sprintf("user-%d.slice", m.uid))
}

// session is where a login of the user would be.
func (m *Manager) session() string { return filepath.Join(m.slice(), "session-1.scope") }

// prepare makes the files and the cgroups that PID 1 and logind would have made.
func (c UserManager) prepare(run string, m *Manager) error {
	units := map[string]string{"default.target": "[Unit]\nDescription=Test\n"}
	if !c.NoBus {
		units["default.target"] += "Wants=dbus.socket\n"
		units["dbus.socket"] = "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%t/bus\n"
		units["dbus.service"] = "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\nSlice=session.slice\n" +
			"ExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n"
	}
	for name, text := range c.Units {
		units[name] = text
	}
	for name, text := range units {
		path := filepath.Join(run, "units", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// What says that a host was booted with systemd.
	if err := os.MkdirAll(filepath.Join(run, "systemd", "system"), 0o755); err != nil {
		return err
	}
	for _, dir := range []string{m.Runtime, m.Dir, m.session()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// A delegated cgroup, and the right to move processes within the user's slice.
	given := []string{m.Runtime, m.Dir, filepath.Join(m.slice(), "cgroup.procs")}
	for _, name := range []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		given = append(given, filepath.Join(m.Dir, name))
	}
	for _, path := range given {
		if err := os.Chown(path, c.UID, c.UID); err != nil {
			return err
		}
	}
	return os.Chmod(m.Runtime, 0o700)
}

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
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		tb.Fatal(err)
	}
	uid := fmt.Sprint(m.uid)
	// Our own child, not reaped: the number is its own.
	ns := fmt.Sprintf("/proc/%d/ns/", m.proc.pid)
	return Command{
		Args: append([]string{
			nsenter, "--mount=" + ns + "mnt", "--cgroup=" + ns + "cgroup", "--",
			"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--",
		}, args...),
		Env:    []string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=/run/user/" + uid},
		Cgroup: m.session(),
	}
}

// Systemctl runs systemctl --user and returns what it prints.
func (m *Manager) Systemctl(tb testing.TB, args ...string) string {
	tb.Helper()
	c := m.Command(tb, append([]string{"systemctl", "--user", "--no-pager", "--plain", "--no-legend"}, args...)...)
	c.Stderr = os.Stderr
	return c.Output(tb, 20*time.Second)
}

// Process returns the manager itself.
func (m *Manager) Process() *Process { return m.proc }

// end ends what the test did not.
func (m *Manager) end(tb testing.TB) {
	tb.Helper()
	if m.proc != nil {
		m.proc.end(tb)
	}
	if !mayLeak(tb) {
		for _, p := range membersBelow(m.root) {
			if !below(p.Cgroup, filepath.Join(m.Dir, "session.slice")) && p.Cgroup != filepath.Join(m.Dir, "init.scope") {
				tb.Errorf("left with the user's systemd: process %s", p)
			}
		}
	}
	if err := destroyGroup(m.root); err != nil {
		tb.Error(err)
	}
}
