package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestOpenRefusesOtherFileSystems(t *testing.T) {
	_, err := Open(t.TempDir())
	wantErr(t, "Open of a plain directory", err, ErrNoCgroup2)
	_, err = Open("/proc/self/cgroup")
	wantErr(t, "Open of a file", err, unix.ENOTDIR)
	_, err = Open("/no/such/cgroup")
	wantErr(t, "Open of nothing", err, fs.ErrNotExist)
}

func TestOpenRefusesASymbolicLink(t *testing.T) {
	d := testDir(t)
	link := t.TempDir() + "/link"
	if err := os.Symlink(d.Path(), link); err != nil {
		t.Fatal(err)
	}
	_, err := Open(link)
	if err == nil {
		t.Error("Open of a symbolic link = nil, want an error")
	}
}

func TestCreateAndOpenChild(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "web.1")
	if got, want := c.Path(), d.Path()+"/web.1"; got != want {
		t.Errorf("Path = %q, want %q", got, want)
	}
	if got := c.Name(); got != "web.1" {
		t.Errorf("Name = %q, want web.1", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Path(), &st); err != nil || st.Ino != c.ID() {
		t.Errorf("ID = %d, want inode %d (%v)", c.ID(), st.Ino, err)
	}
	again, err := d.OpenChild("web.1")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != c.ID() {
		t.Errorf("OpenChild: ID = %d, want %d", again.ID(), c.ID())
	}
	_, err = d.Create("web.1")
	wantErr(t, "Create of an existing name", err, fs.ErrExist)
	_, err = d.OpenChild("web.2")
	wantErr(t, "OpenChild of a missing name", err, fs.ErrNotExist)
	if errors.Is(err, ErrGone) {
		t.Errorf("OpenChild of a missing name = %v, which is ErrGone", err)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	d := testDir(t)
	tests := []struct{ name, want string }{
		{"", "is empty"},
		{".", "directory of its own"},
		{"..", "directory of its own"},
		{"a/b", "slash"},
		{"/", "slash"},
		{"../x", "slash"},
		{"a\nb", "control character"},
		{"a\x00b", "control character"},
		{"a\x7f", "control character"},
		{"\xff", "UTF-8"},
		{"cgroup.procs", `begins with "cgroup."`},
		{strings.Repeat("x", 300), "has 300 bytes"},
	}
	for _, test := range tests {
		_, createErr := d.Create(test.name)
		_, openErr := d.OpenChild(test.name)
		for call, err := range map[string]error{
			"Create":      createErr,
			"OpenChild":   openErr,
			"RemoveChild": d.RemoveChild(test.name, 0),
			"Destroy":     d.Destroy(t.Context(), test.name, 0),
		} {
			call = fmt.Sprintf("%s(%.20q)", call, test.name)
			wantErr(t, call, err, fs.ErrInvalid)
			wantText(t, call, err, test.want)
		}
	}
	if names, err := d.Children(); err != nil || len(names) != 0 {
		t.Errorf("Children = %q, %v, want none", names, err)
	}
}

func TestOddNamesThatCanBe(t *testing.T) {
	d := testDir(t)
	names := []string{"-rf", "a b", "...", "ü", strings.Repeat("y", 255), "web.1:2@[%]"}
	for _, name := range names {
		child(t, d, name)
	}
	got, err := d.Children()
	slices.Sort(names)
	if err != nil || !slices.Equal(got, names) {
		t.Errorf("Children = %q, %v, want %q", got, err, names)
	}
}

// A Dir means one cgroup and no other, also when the name is taken by another.
func TestIdentityAfterTheNameIsUsedAgain(t *testing.T) {
	d := testDir(t)
	old := child(t, d, "web")
	if err := d.RemoveChild("web", old.ID()); err != nil {
		t.Fatal(err)
	}
	young := child(t, d, "web")
	child(t, young, "x") // what a call by path would find
	bystander := sleeper(t, young)

	if there, err := old.Exists(); there || err != nil {
		t.Errorf("Exists = %v, %v, want false", there, err)
	}
	if there, err := young.Exists(); !there || err != nil {
		t.Errorf("Exists of the new one = %v, %v, want true", there, err)
	}
	for call, f := range everyCall(t) {
		if call != "Locked" && call != "Lock" { // the lock belongs to the directory, gone or not
			wantErr(t, call, f(old), ErrGone)
		}
	}
	wantNil(t, "WaitEmpty", old.WaitEmpty(t.Context()))
	wantErr(t, "Destroy with the old id", d.Destroy(t.Context(), "web", old.ID()), ErrGone)
	wantErr(t, "RemoveChild with the old id", d.RemoveChild("web", old.ID()), ErrGone)
	if !bystander.Alive() {
		t.Error("the process of the new cgroup died")
	}
	wantPopulated(t, young, true)
}

// everyCall is every method that goes to the kernel, as one that returns an error.
func everyCall(t *testing.T) map[string]func(*Dir) error {
	return map[string]func(*Dir) error{
		"Create":        func(d *Dir) error { _, err := d.Create("x"); return err },
		"OpenChild":     func(d *Dir) error { _, err := d.OpenChild("x"); return err },
		"Children":      func(d *Dir) error { _, err := d.Children(); return err },
		"Controllers":   func(d *Dir) error { _, err := d.Controllers(); return err },
		"Enable":        func(d *Dir) error { return d.Enable("memory") },
		"Missing":       func(d *Dir) error { return d.Missing("memory", "memory.max") },
		"ReadFile":      func(d *Dir) error { _, err := d.ReadFile("cpu.stat"); return err },
		"WriteFile":     func(d *Dir) error { return d.WriteFile("cgroup.freeze", "0") },
		"PIDs":          func(d *Dir) error { _, err := d.PIDs(); return err },
		"PIDsRecursive": func(d *Dir) error { _, err := d.PIDsRecursive(); return err },
		"Events":        func(d *Dir) error { _, err := d.Events(); return err },
		"OpenEvents":    func(d *Dir) error { _, err := d.OpenEvents(); return err },
		"Kill":          func(d *Dir) error { return d.Kill() },
		"KillEach":      func(d *Dir) error { return d.KillEach(t.Context()) },
		"Signal":        func(d *Dir) error { _, err := d.Signal(unix.SIGKILL); return err },
		"Freeze":        func(d *Dir) error { return d.Freeze(t.Context()) },
		"Thaw":          func(d *Dir) error { return d.Thaw(t.Context()) },
		"MoveSelf":      func(d *Dir) error { return d.MoveSelf() },
		"HoldsSelf":     func(d *Dir) error { _, err := d.HoldsSelf(); return err },
		"Lock":          func(d *Dir) error { return d.Lock() },
		"Locked":        func(d *Dir) error { _, err := d.Locked(); return err },
	}
}

func TestEveryCallAfterClose(t *testing.T) {
	d := child(t, testDir(t), "web")
	wantNil(t, "Close", d.Close())
	wantErr(t, "second Close", d.Close(), os.ErrClosed)
	for call, f := range everyCall(t) {
		wantErr(t, call, f(d), os.ErrClosed)
	}
	_, err := d.Exists()
	wantErr(t, "Exists", err, os.ErrClosed)
}

func TestRemoveRefusesWhilePopulated(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "web")
	p := sleeper(t, c)
	wantErr(t, "RemoveChild with a process", d.RemoveChild("web", 0), ErrPopulated)
	wantErr(t, "RemoveChild with a process", d.RemoveChild("web", c.ID()), ErrPopulated)
	p.Kill(t)
	wantNil(t, "WaitEmpty", c.WaitEmpty(t.Context()))
	child(t, c, "sub")
	wantErr(t, "RemoveChild with a cgroup", d.RemoveChild("web", 0), ErrPopulated)
	wantNil(t, "RemoveChild of the inner one", c.RemoveChild("sub", 0))
	wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
	wantNil(t, "RemoveChild of nothing", d.RemoveChild("web", 0))
	wantNil(t, "RemoveChild of nothing with an id", d.RemoveChild("web", c.ID()))
}

// H-29: a zombie is dead: it is not counted, not listed, and holds nothing up.
func TestH29ZombiesDoNotCount(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "web")
	var zombies []*linuxtest.Process
	for range 3 {
		p := linuxtest.Command{Args: []string{"/bin/true"}, Cgroup: c.Path()}.Start(t)
		linuxtest.Wait(t, waitTime, func() (bool, string) { return !p.Alive(), "still running" })
		zombies = append(zombies, p)
	}
	wantNil(t, "WaitEmpty", c.WaitEmpty(within(t, waitTime)))
	wantPopulated(t, c, false)
	if pids, err := c.PIDsRecursive(); err != nil || len(pids) != 0 {
		t.Errorf("PIDsRecursive = %v, %v, want none", pids, err)
	}
	if n, err := c.Signal(unix.SIGTERM); err != nil || n != 0 {
		t.Errorf("Signal = %d, %v, want 0", n, err)
	}
	wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
	for _, z := range zombies {
		if got := z.Wait(t, waitTime).ExitStatus(); got != 0 {
			t.Errorf("the zombie's status was lost: %d", got)
		}
	}
}

func TestLimitOfDescendantsIsNamed(t *testing.T) {
	d := testDir(t)
	inner := child(t, d, "inner")
	write(t, d, "cgroup.max.descendants", "2")
	write(t, inner, "cgroup.max.depth", "1") // not reached
	child(t, inner, "one")
	_, err := inner.Create("two")
	var limit *TreeLimitError
	if !errors.As(err, &limit) {
		t.Fatalf("Create = %v, want a *TreeLimitError", err)
	}
	want := TreeLimitError{File: "cgroup.max.descendants", Path: d.Path(), Limit: 2, Err: unix.EAGAIN}
	if *limit != want {
		t.Errorf("limit = %+v, want %+v", *limit, want)
	}
	wantErr(t, "Create", err, unix.EAGAIN)
	wantText(t, "Create", err, "cgroup.max.descendants=2 of "+d.Path())
	if !strings.Contains(limit.Hint(), d.Path()+"/cgroup.max.descendants") {
		t.Errorf("Hint = %q", limit.Hint())
	}
	wantNil(t, "RemoveChild", inner.RemoveChild("one", 0))
	child(t, inner, "two") // the place is free at once
}

func TestLimitOfDepthIsNamed(t *testing.T) {
	d := testDir(t)
	inner := child(t, d, "inner")
	write(t, d, "cgroup.max.depth", "1")
	_, err := inner.Create("deeper")
	wantText(t, "Create", err, "cgroup.max.depth=1 of "+d.Path())
}

func TestAnswersOfTheKernelHaveOneMeaning(t *testing.T) {
	d := testDir(t)
	for errno, want := range map[unix.Errno]error{
		unix.ENODEV: ErrGone, unix.ENOENT: ErrNotSupported, unix.EOPNOTSUPP: ErrNotSupported,
		unix.ENOSYS: ErrNotSupported, unix.EBADF: os.ErrClosed, unix.EACCES: fs.ErrPermission,
	} {
		err := d.wrap("try it", fmt.Errorf("deep down: %w", errno))
		wantErr(t, "wrap", err, want)
		wantErr(t, "wrap", err, errno)
		wantText(t, "wrap", err, "try it of "+d.Path())
	}
}

func TestCreateLeavesNothingWithoutDescriptors(t *testing.T) {
	d := testDir(t)
	if got, want := call(t, "", "create-without-fds", d.Path()), "too many open files"; !strings.Contains(got, want) {
		t.Errorf("Create without descriptors: %q, want %q", got, want)
	}
	if names, err := d.Children(); err != nil || len(names) != 0 {
		t.Errorf("Children = %q, %v, want none", names, err)
	}
}

// The way of one start: make, look, remove. 10,000 of them come in a row.
func TestCreateAndRemoveAllocateLittle(t *testing.T) {
	d := testDir(t)
	n := testing.AllocsPerRun(100, func() {
		c, err := d.Create("web.1")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Destroy(t.Context(), "web.1", c.ID()); err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	if n > 8 {
		t.Errorf("%v allocations per cgroup, want at most 8", n)
	}
}

func BenchmarkCreateDestroy(b *testing.B) {
	d := testDir(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := d.Create("web.1")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
		if err := d.Destroy(b.Context(), "web.1", c.ID()); err != nil {
			b.Fatal(err)
		}
	}
}

// write sets a cgroup file behind the package's back.
func write(t testing.TB, d *Dir, name, value string) {
	t.Helper()
	if err := writeAt(d.fd, name, value); err != nil {
		t.Fatalf("write %s=%s: %v", name, value, err)
	}
}
