package linuxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// groupPrefix starts the name of every cgroup directly below the base.
const groupPrefix = "pitvisor-test-"

// group is the cgroup of this test process:
//
//	<base>/pitvisor-test-<owner>/         flocked while the test process lives
//	    main/                             the test process
//	    <test>-<n>/                       one per call of Cgroup
type group struct {
	path string
	home string // where the test process came from
	lock int    // open directory of path, holds the flock
	own  bool   // the base is our own delegated cgroup, we may enable controllers in it
}

// openGroup makes the cgroup of the test process and moves it in.
func openGroup() (*group, error) {
	mount, err := findMount()
	if err != nil {
		return nil, err
	}
	self, err := selfPath()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(mount, self)
	g := &group{home: home}
	base := mount
	if os.Geteuid() != 0 {
		g.own = true
		base = home
		// A leaf of a delegated cgroup, made so that the cgroup can have children
		// with controllers: pitvisor's convention, and that of systemd's
		// DelegateSubgroup=.
		if name := filepath.Base(home); name == "supervisor" || strings.HasPrefix(name, "supervisor-") {
			base = filepath.Dir(home)
		}
	}
	removeStale(base)
	g.path = filepath.Join(base, groupPrefix+ownerName(os.Getpid()))
	if err := unix.Mkdir(g.path, 0o755); err != nil {
		// Without the name: the reason of a skip is the same in every test process.
		return nil, fmt.Errorf("make a cgroup in %s: %w", base, err)
	}
	if g.lock, err = lockDir(g.path); err != nil {
		return nil, errors.Join(err, unix.Rmdir(g.path))
	}
	leaf := filepath.Join(g.path, "main")
	err = unix.Mkdir(leaf, 0o755)
	if err == nil {
		err = writeGroupFile(leaf, "cgroup.procs", "0")
	}
	if err != nil {
		_ = unix.Rmdir(leaf)
		_ = unix.Rmdir(g.path)
		_ = unix.Close(g.lock)
		return nil, fmt.Errorf("move the test process to %s: %w", leaf, err)
	}
	return g, nil
}

// ownerName names a process for good: PID namespace, PID and start time.
func ownerName(pid int) string {
	var st unix.Stat_t
	_ = unix.Stat("/proc/self/ns/pid", &st) // 0 then, which is nobody's
	return fmt.Sprintf("%d-%d-%d", st.Ino, pid, readProc(pid).Start)
}

// removeStale ends what a test process left that was killed before its own
// clean-up. Its lock is free then, or held by a child that was frozen before its
// exec; then the owner's name proves that it is gone.
func removeStale(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), groupPrefix)
		if !ok || !e.IsDir() {
			continue
		}
		path := filepath.Join(base, e.Name())
		lock, free := lockStale(path)
		if !free && !ownerGone(name) {
			continue
		}
		if err := destroyGroup(path); err == nil {
			fmt.Fprintf(os.Stderr, "linuxtest: removed %s of an earlier run\n", path)
		}
		if free {
			_ = unix.Close(lock)
		}
	}
}

// ownerGone says whether a name of ownerName was given to a process of this PID
// namespace that has ended. Of another namespace it knows nothing.
func ownerGone(name string) bool {
	fields := strings.Split(name, "-")
	if len(fields) != 3 {
		return false
	}
	pid, err := strconv.Atoi(fields[1])
	if err != nil || !strings.HasPrefix(ownerName(os.Getpid()), fields[0]+"-") {
		return false
	}
	_, alive := Identify(pid)
	return !alive || ownerName(pid) != name
}

// close moves the test process home, ends everything below the group, removes it,
// and names what it found.
func (g *group) close() []string {
	var left []string
	leaf := filepath.Join(g.path, "main")
	for _, p := range membersBelow(g.path) {
		if p.PID != os.Getpid() {
			left = append(left, "process "+p.String())
		}
	}
	for _, dir := range groupsBelow(g.path) {
		if dir != leaf {
			left = append(left, "cgroup "+dir)
		}
	}
	if err := writeGroupFile(g.home, "cgroup.procs", "0"); err != nil {
		return append(left, fmt.Sprintf("cgroup %s: move the test process home: %v", g.path, err))
	}
	if err := destroyGroup(g.path); err != nil {
		left = append(left, err.Error())
	}
	if err := unix.Close(g.lock); err != nil {
		left = append(left, fmt.Sprintf("cgroup %s: close: %v", g.path, err))
	}
	return left
}

// enable switches a controller on for the cgroups that Cgroup makes.
func (g *group) enable(controller string) error {
	if g.own {
		// Our own delegated cgroup; elsewhere that is the host's business.
		if err := enableIn(filepath.Dir(g.path), controller); err != nil {
			return err
		}
	}
	return enableIn(g.path, controller)
}

func enableIn(dir, controller string) error {
	have, err := readGroupFile(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(have), controller) {
		return fmt.Errorf("not available in %s", parentWord(dir))
	}
	return writeGroupFile(dir, "cgroup.subtree_control", "+"+controller)
}

// parentWord names a cgroup without the part that differs from run to run, so
// that equal reasons for a skip stay equal.
func parentWord(dir string) string {
	if strings.HasPrefix(filepath.Base(dir), groupPrefix) {
		dir = filepath.Dir(dir)
	}
	if strings.HasPrefix(filepath.Base(dir), "linuxtest-confine-") {
		return "the delegated cgroup" // of package confine
	}
	return dir
}

// Cgroup makes an empty cgroup for the test and returns its directory. At the
// end of the test it is killed and removed with all that is below; if a process
// still lived in it the test fails and names each one, unless [AllowLeak] was
// called. Skips where no cgroup can be made; [NeedCgroup2] asks for controllers.
func Cgroup(tb testing.TB) string {
	tb.Helper()
	path := makeCgroup(tb)
	tb.Cleanup(func() { removeCgroup(tb, path) })
	return path
}

// makeCgroup is Cgroup without the end.
func makeCgroup(tb testing.TB) string {
	tb.Helper()
	NeedCgroup2(tb)
	name := fmt.Sprintf("%s-%d", safeName(tb.Name()), current.next())
	path := filepath.Join(current.group.path, name)
	if err := unix.Mkdir(path, 0o755); err != nil {
		tb.Fatalf("make the test's cgroup %s: %v", path, err)
	}
	return path
}

// AllowLeak lets processes survive in the test's cgroups: they are ended without
// a complaint. For tests whose subject is a survivor.
func AllowLeak(tb testing.TB) {
	tb.Helper()
	current.mu.Lock()
	defer current.mu.Unlock()
	if current.leaky == nil {
		current.leaky = map[testing.TB]bool{}
	}
	current.leaky[tb] = true
}

// mayLeak says whether the test has called AllowLeak.
func mayLeak(tb testing.TB) bool {
	current.mu.Lock()
	defer current.mu.Unlock()
	return current.leaky[tb]
}

// KillCgroup ends every process in a cgroup below [Cgroup] and waits until none is
// left. It works before Linux 5.14, too, where there is no cgroup.kill.
func KillCgroup(tb testing.TB, path string) {
	tb.Helper()
	Wait(tb, 10*time.Second, func() (bool, string) {
		members := membersBelow(path)
		if len(members) > 0 {
			killGroup(path)
		}
		return len(members) == 0, fmt.Sprintf("%s has %v", path, members)
	})
}

func removeCgroup(tb testing.TB, path string) {
	tb.Helper()
	if !mayLeak(tb) {
		for _, p := range membersBelow(path) {
			tb.Errorf("left in the test's cgroup: process %s", p)
		}
	}
	if err := destroyGroup(path); err != nil {
		tb.Error(err)
	}
}

// safeName makes a test's name fit for a directory.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 60)]
}

// destroyGroup kills what is below path and removes it. Nothing happens when it
// is already gone.
func destroyGroup(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var last error
	// Thousands of processes take long to die where the processor is emulated.
	ok, _ := poll(30*time.Second, func() (bool, string) {
		if len(membersBelow(path)) > 0 {
			killGroup(path)
		}
		last = removeTree(path)
		return last == nil, ""
	})
	if ok {
		return nil
	}
	var names []string
	for _, p := range membersBelow(path) {
		names = append(names, p.String())
	}
	return fmt.Errorf("cgroup %s cannot be removed: %w: %s", path, last, strings.Join(names, "; "))
}

// killGroup ends every process below path.
func killGroup(path string) {
	if writeGroupFile(path, "cgroup.kill", "1") == nil {
		return
	}
	// Before Linux 5.14. A number read from a cgroup may be reused before it is
	// opened, so membership is checked again after the pidfd is held.
	for _, p := range membersBelow(path) {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(membersBelow(path), func(q Proc) bool { return q.PID == p.PID }) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // the caller looks again
		}
		_ = unix.Close(fd)
	}
}

// removeTree removes path and the cgroups below it, deepest first.
func removeTree(path string) error {
	dirs := groupsBelow(path)
	slices.Reverse(dirs)
	for _, dir := range append(dirs, path) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return nil
}
