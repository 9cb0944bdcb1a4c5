package linuxtest

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Identity tells a process from a later one with the same number.
type Identity struct {
	PID   int
	Start uint64 // clock ticks after boot
	Inode uint64 // of its pidfd; unique in a boot since Linux 6.9, 0 before
}

// Identify returns the identity of the process that has the number now, false
// when there is none or it has exited.
func Identify(pid int) (Identity, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return Identity{}, false
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	id := Identity{PID: pid, Start: readProc(pid).Start}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == pidfsMagic && unix.Fstat(fd, &st) == nil {
		id.Inode = st.Ino
	}
	// Not readable means it had not exited, so what /proc said was about it.
	return id, !readable(fd, 0)
}

// Identity returns who this process is. It fails the test when it has exited.
func (p *Process) Identity(tb testing.TB) Identity {
	tb.Helper()
	id, ok := Identify(p.pid)
	if p.reaped || !ok {
		tb.Fatalf("process %d has exited", p.pid)
	}
	return id
}

// Members lists the processes in a cgroup and below it, by number.
func Members(dir string) []Proc {
	members := membersBelow(dir)
	slices.SortFunc(members, func(a, b Proc) int { return cmp.Compare(a.PID, b.PID) })
	return members
}

// Subgroups returns the names of the cgroups directly below one.
func Subgroups(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Identities is [Members] as identities: what a test compares to know that
// nothing ended and nothing was started, where a count would not tell.
func Identities(dir string) []Identity {
	var ids []Identity
	for _, p := range Members(dir) {
		if id, ok := Identify(p.PID); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// StableFor fails the test if the processes that which returns change in the
// given time: one that ends and one that is started make a difference even if
// their number stays the same. It looks every 20 ms and names the difference.
func StableFor(tb testing.TB, d time.Duration, which func() []Identity) {
	tb.Helper()
	first := which()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-ticker.C {
		if diff := difference(first, which()); diff != "" {
			tb.Fatalf("processes changed: %s", diff)
		}
	}
}

// Unaffected fails the test at its end if the processes below a cgroup are not
// the same ones as now: for what belongs to somebody else.
func Unaffected(tb testing.TB, dir string) {
	tb.Helper()
	first := Identities(dir)
	if len(first) == 0 {
		tb.Fatalf("no process in %s that could be affected", dir)
	}
	tb.Cleanup(func() {
		if diff := difference(first, Identities(dir)); diff != "" {
			tb.Errorf("processes of another in %s changed: %s", dir, diff)
		}
	})
}

// Bystander starts a program that has nothing to do with what is tested, and
// fails the test if it is not alive at its end.
func Bystander(tb testing.TB, c Command) *Process {
	tb.Helper()
	p := c.Start(tb)
	tb.Cleanup(func() { SurvivesAs(tb, p) })
	return p
}

// SurvivesAs fails the test if a process is not alive, and says how it ended.
func SurvivesAs(tb testing.TB, p *Process) {
	tb.Helper()
	if p.Alive() {
		return
	}
	status, _, _ := p.wait(0)
	tb.Errorf("process %d should have been left alone; %s", p.pid, statusText(status))
}

// difference says which identities are in only one of two lists.
func difference(before, after []Identity) string {
	var text string
	for _, id := range before {
		if !slices.Contains(after, id) {
			text += fmt.Sprintf(" ended: pid %d (started at %d);", id.PID, id.Start)
		}
	}
	for _, id := range after {
		if !slices.Contains(before, id) {
			text += fmt.Sprintf(" started: %s;", readProc(id.PID))
		}
	}
	return text
}

// statusText is a wait status in words.
func statusText(s unix.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("ended by signal %d (%v)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("exited with %d", s.ExitStatus())
}

// zombiesOf lists the processes of a cgroup that exited and were not reaped. The
// kernel keeps their cgroup in /proc, but not in cgroup.procs.
func zombiesOf(dir string) []Proc {
	var found []Proc
	for _, pid := range allPIDs() {
		p := readProc(pid)
		if p.State != 'Z' {
			continue
		}
		path, ok := cgroupOf(pid)
		if ok && (path == dir || below(path, dir)) {
			p.Cgroup = path
			found = append(found, p)
		}
	}
	return found
}

// pathExists is os.Lstat for a condition.
func pathExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
