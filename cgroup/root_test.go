package cgroup

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

const nobody = 65534

// give hands a cgroup to nobody, as systemd hands one to a user.
func give(t testing.TB, d *Dir) {
	t.Helper()
	for _, name := range []string{"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"} {
		if err := os.Chown(d.Path()+name, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// wantRefusal checks one refusal of FindRoot: typed, with a cause and with a cure.
func wantRefusal(t testing.TB, out, cause, hint string) {
	t.Helper()
	if field(out, "typed") != "true" {
		t.Errorf("FindRoot = %q, want a *NoRootError", out)
	}
	if !strings.Contains(out, cause) {
		t.Errorf("FindRoot = %q, want %q", out, cause)
	}
	if got := field(out, "hint"); !strings.Contains(got, hint) {
		t.Errorf("Hint = %q, want %q", got, hint)
	}
}

func wantRoot(t testing.TB, out, path string, source RootSource) {
	t.Helper()
	if field(out, "path") != path || field(out, "source") != string(source) {
		t.Errorf("FindRoot = %q, want %s (%s)", out, path, source)
	}
}

func TestFindRootWithoutMount(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	testDir(t)
	for _, explicit := range []string{"", "/sys/fs/cgroup/unified/x"} {
		out := call(t, "", "mounts", "none", "", "find-root", explicit)
		wantRefusal(t, out, "is: no-cgroup2", "mount -t cgroup2")
	}
}

func TestFindRootOnAReadOnlyMount(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	for _, explicit := range []string{"", d.Path() + "/mine"} {
		out := call(t, "", "mounts", "read-only", "", "find-root", explicit)
		wantRefusal(t, out, "is: read-only", "unmask=/sys/fs/cgroup")
	}
	if names, err := d.Children(); err != nil || len(names) != 0 {
		t.Errorf("Children = %q, %v, want none", names, err)
	}
}

func TestFindRootExplicit(t *testing.T) {
	d := testDir(t)
	want := d.Path() + "/a/b"
	for range 2 { // made, then found
		root, err := FindRoot(d.Path() + "/a//b/")
		if err != nil {
			t.Fatal(err)
		}
		if root.Dir.Path() != want || root.Source != RootFlag {
			t.Errorf("FindRoot = %s (%s), want %s (flag)", root.Dir.Path(), root.Source, want)
		}
		root.Dir.Close()
	}
}

func TestFindRootExplicitRefusals(t *testing.T) {
	d := testDir(t)
	m, err := FindMount()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, cause, hint string }{
		{t.TempDir(), "not below a cgroup2 mount", "findmnt"},
		{"pitvisor", "not below a cgroup2 mount", "findmnt"},
		{m.Path + "/x/../../pitvisor", "not below a cgroup2 mount", "findmnt"},
		{d.Path() + "/a/" + strings.Repeat("x", 300), "has 300 bytes", "--cgroup-root"},
		{d.Path() + "/a/b\x01c", "control character", "--cgroup-root"},
		{d.Path() + "/cgroup.procs", "begins with", "--cgroup-root"},
	}
	for _, test := range tests {
		_, err := FindRoot(test.path)
		wantText(t, "FindRoot("+test.path+")", err, test.cause)
		if no, ok := err.(*NoRootError); !ok || !strings.Contains(no.Hint(), test.hint) {
			t.Errorf("FindRoot(%s): hint of %#v, want %q", test.path, err, test.hint)
		}
	}
	write(t, d, "cgroup.max.descendants", "1")
	_, err = FindRoot(d.Path() + "/a/b")
	wantText(t, "FindRoot beyond max.descendants", err, "cgroup.max.descendants=1")
	if names, err := d.Children(); err != nil || len(names) != 0 {
		t.Errorf("Children = %q, %v, want none: whatever fails leaves nothing", names, err)
	}
}

// With a bind mount the tree begins elsewhere, as in a container: root's own root
// is made below the mount, not on the host.
func TestFindRootOwned(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	leaf := child(t, d, "leaf")
	wantNil(t, "SetXattr", leaf.SetXattr("user.delegate", []byte("0"))) // no mark
	m, err := FindMount()
	if err != nil {
		t.Fatal(err)
	}
	out := call(t, leaf.Path(), "mounts", "bind", d.Path(), "find-root", "")
	wantRoot(t, out, m.Path+"/pitvisor", RootOwned)
	if got, want := field(out, "root"), strings.TrimPrefix(d.Path(), m.Path); got != want {
		t.Errorf("Mount.Root = %q, want %q", got, want)
	}
	if names, err := d.Children(); err != nil || !slices.Equal(names, []string{"leaf", "pitvisor"}) {
		t.Errorf("Children = %q, %v, want leaf and pitvisor", names, err)
	}
}

func TestFindRootBelowACoveredMount(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	out := call(t, "", "mounts", "cover", d.Path(), "find-root", "")
	wantRoot(t, out, "/mnt/pitvisor", RootOwned)
}

func TestFindRootDelegatedByMark(t *testing.T) {
	d := testDir(t)
	unit := child(t, d, "unit")
	wantNil(t, "SetXattr", unit.SetXattr("user.delegate", []byte("1")))
	wantRoot(t, call(t, unit.Path(), "find-root", ""), unit.Path(), RootDelegated)
	for _, name := range []string{"supervisor", "supervisor-7"} {
		leaf := child(t, unit, name)
		wantRoot(t, call(t, leaf.Path(), "find-root", ""), unit.Path(), RootDelegated)
	}
}

func TestFindRootUnprivileged(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	d := testDir(t)
	mine := child(t, d, "mine")
	give(t, mine)
	leaf, supervisor := child(t, mine, "leaf"), child(t, mine, "supervisor-1")
	give(t, leaf)
	give(t, supervisor)
	elsewhere := child(t, d, "elsewhere")

	out := call(t, mine.Path(), "as", "65534", "find-root", "")
	wantRoot(t, out, mine.Path(), RootDelegated)
	out = call(t, leaf.Path(), "as", "65534", "find-root", "")
	wantRoot(t, out, leaf.Path(), RootDelegated)
	out = call(t, supervisor.Path(), "as", "65534", "find-root", "")
	wantRoot(t, out, mine.Path(), RootDelegated)
	out = call(t, leaf.Path(), "as", "65534", "find-root", mine.Path()+"/runs")
	wantRoot(t, out, mine.Path()+"/runs", RootFlag)

	out = call(t, elsewhere.Path(), "as", "65534", "find-root", "")
	wantRefusal(t, out, "is: permission", "systemd-run --user --scope -p Delegate=yes pitvisor")
	out = call(t, leaf.Path(), "as", "65534", "find-root", d.Path()+"/new")
	wantRefusal(t, out, "is: permission", "systemd-run --user --scope -p Delegate=yes pitvisor")
	// Owned, but started from outside: the kernel would refuse every start.
	out = call(t, elsewhere.Path(), "as", "65534", "find-root", mine.Path())
	wantRefusal(t, out, "runs outside of it", "inside the delegated tree")
}

// What works for a user whose cgroup was handed over, as without systemd's help.
func TestUnprivilegedInAGivenTree(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	mine := child(t, testDir(t), "mine")
	give(t, mine)
	supervisor := child(t, mine, "supervisor")
	give(t, supervisor)
	out := call(t, supervisor.Path(), "as", "65534", "whole-life", mine.Path())
	if out != "destroyed" {
		t.Errorf("life of a worker as nobody: %s", out)
	}
}

// cgroup.kill and cgroup.freeze of the top cgroup are not handed over: the fallback
// reaches whoever may be signalled, and says so if that is not everybody.
func TestUnprivilegedKillOfTheTop(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	mine := child(t, testDir(t), "mine")
	give(t, mine)
	workers := child(t, mine, "workers")
	p := helper(t, workers, "call", "as", "65534", "stay")
	if out := call(t, "", "as", "65534", "kill", mine.Path()); out != "killed" {
		t.Errorf("Kill of nobody's own process: %s", out)
	}
	p.Wait(t, waitTime)
	roots := sleeper(t, workers)
	if out := call(t, "", "as", "65534", "kill", mine.Path()); !strings.Contains(out, "operation not permitted") {
		t.Errorf("Kill of root's process as nobody: %s", out)
	}
	if !roots.Alive() {
		t.Error("nobody killed root's process")
	}
}
