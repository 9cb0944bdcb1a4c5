package linuxtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
// only what is needed: no login manager.
type UserManager struct {
	UID   int               // 0 is 65534
	NoBus bool              // no bus of the user: systemd has only its own socket
	Units map[string]string // more unit files and drop-ins of the user, by their names

	// Root is a directory with the root file system of another distribution, to have
	// its systemd, such as `pitvisor-linuxtest root trixie` prepares. It is not
	// changed. "" is LINUXTEST_SYSTEMD_ROOT of the environment, and then the machine's own.
	Root string
	// Own lets root install things there: /usr, /etc and /var can be written, and all
	// that was written is gone in the end.
	Own bool
	// Journal collects what units and systemd itself say, for journalctl and
	// `systemctl status`. It implies Own.
	Journal bool
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
	tree string   // the root file system, "/" for the machine's own
}

// systemdPath is where systemd expects to be, on every distribution.
const systemdPath = "/lib/systemd/systemd"

// rootEnv names a root file system for all user managers of a test run.
const rootEnv = "LINUXTEST_SYSTEMD_ROOT"

// Start starts the manager, waits until it can be talked to, and ends it and all of
// its units after the test. It fails the test if a process is left in a unit or in a
// session, unless [AllowLeak] was called. Skips without root and without systemd.
func (c UserManager) Start(tb testing.TB) *Manager {
	tb.Helper()
	NeedAdmin(tb, "to start a systemd")
	c.need(tb)
	run := tb.TempDir() // first, so that it is removed last
	m := &Manager{
		uid: c.UID, log: filepath.Join(run, "linuxtest.log"), root: makeCgroup(tb), tree: c.Root,
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
	rig, err := json.Marshal(systemdRig{
		Run: run, Root: c.Root, Stage: tb.TempDir(), Keep: filepath.Dir(current.tmp), Own: c.Own, Journal: c.Journal,
	})
	if err != nil {
		tb.Fatal(err)
	}
	m.proc = Command{
		Args: Helper(tb, "systemd", string(rig)), Cgroup: m.root, Stdout: log, Stderr: log, cloneflags: unix.CLONE_NEWPID,
	}.Start(tb)
	// PID 1 is killed after that, and all others with it.
	tb.Cleanup(func() { m.checkLeft(tb) })
	m.await(tb)
	return m
}

// need fills in what was left to it, and skips where that is not there.
func (c *UserManager) need(tb testing.TB) {
	tb.Helper()
	if c.UID == 0 {
		c.UID = 65534
	}
	if c.Root == "" {
		c.Root = os.Getenv(rootEnv)
	}
	if c.Root == "" {
		c.Root = "/"
	}
	c.Own = c.Own || c.Journal
	if types, err := os.ReadFile("/proc/filesystems"); c.Own || c.Root != "/" {
		if err != nil || !strings.Contains(string(types), "\toverlay\n") {
			Skip(tb, "needs overlayfs")
		}
	}
	programs := []string{systemdPath, "systemctl", "dbus-daemon"}
	if c.Journal {
		programs = append(programs, journaldPath, "journalctl")
	}
	for _, name := range programs {
		if _, ok := lookIn(c.Root, name); !ok && c.Root == "/" {
			Skip(tb, "needs the command "+name)
		} else if !ok {
			tb.Fatalf("the root file system %s has no %s", c.Root, name)
		}
	}
}

// lookIn is exec.LookPath in another root file system.
func lookIn(root, name string) (string, bool) {
	candidates := []string{name}
	if !filepath.IsAbs(name) {
		candidates = nil
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, path := range candidates {
		if st, err := os.Stat(filepath.Join(root, path)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
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
	path, ok := lookIn(m.tree, args[0])
	if strings.HasPrefix(args[0], filepath.Dir(current.tmp)+"/") {
		path, ok = args[0], true // what the test has is there as well
	}
	if !ok {
		tb.Fatalf("there is no program %s in %s", args[0], m.tree)
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

// Version is that of its systemd, such as 257.
func (m *Manager) Version(tb testing.TB) int {
	tb.Helper()
	out := m.CommandAs(tb, 0, "systemctl", "--version").Output(tb, 20*time.Second)
	var version int
	if _, err := fmt.Sscanf(out, "systemd %d", &version); err != nil {
		tb.Fatalf("systemctl --version says %q", out)
	}
	return version
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
	var left []string
	poll(settle, func() (bool, string) { // systemd has helpers of its own, which soon end
		left = nil
		for _, p := range membersBelow(m.root) {
			if !m.service(p.Cgroup) {
				left = append(left, p.String())
			}
		}
		return len(left) == 0, ""
	})
	for _, p := range left {
		tb.Errorf("left with the user's systemd: process %s", p)
	}
}

// service says whether a cgroup is of systemd itself, of a bus or of the journal.
func (m *Manager) service(dir string) bool {
	if dir == m.root {
		return true
	}
	switch filepath.Base(dir) {
	case "init.scope", "dbus.service", "systemd-journald.service":
		return true
	}
	return false
}
