package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestFilesOfACgroup(t *testing.T) {
	d := testDir(t)
	b, err := d.ReadFile("cpu.stat")
	if !strings.HasPrefix(string(b), "usage_usec ") || err != nil {
		t.Errorf("ReadFile(cpu.stat) = %q, %v", b, err)
	}
	wantNil(t, "WriteFile", d.WriteFile("cgroup.max.depth", "7"))
	wantFiles(t, d, map[string]string{"cgroup.max.depth": "7"})
	err = d.WriteFile("cgroup.max.depth", "seven")
	wantErr(t, "WriteFile", err, unix.EINVAL)
	wantText(t, "WriteFile", err, "set cgroup.max.depth=seven of "+d.Path())

	_, err = d.ReadFile("no.such")
	wantErr(t, "ReadFile(no.such)", err, ErrNotSupported)
	wantErr(t, "WriteFile(no.such)", d.WriteFile("no.such", "1"), ErrNotSupported)
	// One of our own: where the rule is broken, the test writes to it.
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../cgroup.procs", outside} {
		_, err := d.ReadFile(name)
		wantErr(t, "ReadFile("+name+")", err, fs.ErrInvalid)
		wantErr(t, "WriteFile("+name+")", d.WriteFile(name, "0"), fs.ErrInvalid)
	}
	if text, err := os.ReadFile(outside); string(text) != "untouched" || err != nil {
		t.Errorf("the file outside holds %q, %v", text, err)
	}
}

// A controller that cannot be had is an error which names it and the cure.
func TestMissingControllerIsNamed(t *testing.T) {
	d := testDir(t)
	have, err := d.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	for _, controller := range []string{"memory", "pids", "cpu", "io", "cpuset"} {
		if slices.Contains(have, controller) {
			continue
		}
		for call, err := range map[string]error{
			"Enable": d.Enable(controller), "Missing": d.Missing(controller, controller+".max"),
		} {
			var missing *ControllerError
			if !errors.As(err, &missing) {
				t.Errorf("%s = %v, want a *ControllerError", call, err)
				continue
			}
			wantErr(t, call, err, ErrNotSupported)
			if missing.Controller != controller || missing.File != "" || missing.Path != d.Path() {
				t.Errorf("%s: %+v, want the %s controller of %s", call, missing, controller, d.Path())
			}
			if missing.Hybrid != heldByV1(controller) {
				t.Errorf("%s: Hybrid = %v for %s", call, missing.Hybrid, controller)
			}
			wantText(t, call, err, "no "+controller+" controller in cgroup "+d.Path())
			cure := "Delegate=" + controller
			if missing.Hybrid {
				cure = "cgroup_no_v1=" + v1Name(controller)
			}
			if !strings.Contains(missing.Hint(), cure) {
				t.Errorf("%s: Hint = %q, want %q", call, missing.Hint(), cure)
			}
		}
	}
	err = d.Enable("no-such")
	var missing *ControllerError
	if !errors.As(err, &missing) || missing.Controller != "no-such" {
		t.Errorf("Enable(no-such) = %v, want a *ControllerError", err)
	}
}

func TestHintsAreForTheirCase(t *testing.T) {
	for _, test := range []struct {
		e    ControllerError
		want string
	}{
		{ControllerError{Controller: "io", Hybrid: true}, "cgroup_no_v1=blkio"},
		{ControllerError{Controller: "memory", File: "memory.swap.max"}, "swapaccount=1"},
		{ControllerError{Controller: "memory", File: "memory.high"}, "but not memory.high"},
		{ControllerError{Controller: "memory", Err: unix.EBUSY}, "move them to a leaf"},
		{ControllerError{Controller: "memory", Err: unix.EACCES}, "Delegate=yes"},
		{ControllerError{Controller: "pids", Err: unix.ENOENT}, "Delegate=pids"},
		{ControllerError{Controller: "pids", Err: unix.ENOENT, Container: true}, "docs/containers.md"},
	} {
		if got := test.e.Hint(); !strings.Contains(got, test.want) {
			t.Errorf("Hint of %+v = %q, want %q", test.e, got, test.want)
		}
	}
}

func TestEnable(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("memory", "pids"))
	wantNil(t, "Enable again", d.Enable("memory"))
	wantFiles(t, d, map[string]string{"cgroup.subtree_control": "memory pids"})
	leaf := child(t, d, "leaf")
	wantNil(t, "WriteFile", leaf.WriteFile("memory.max", "67108864"))
	sleeper(t, leaf)
	var busy *ControllerError
	if err := leaf.Enable("memory"); !errors.As(err, &busy) || !strings.Contains(busy.Hint(), "move them to a leaf") {
		t.Errorf("Enable beside a process = %v, want the cure", err)
	}
}

func TestMemoryCurrent(t *testing.T) {
	d := testDir(t)
	have, err := d.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	sleeper(t, d)
	memory := slices.Contains(have, "memory")
	if n, ok := d.MemoryCurrent(); ok != memory || ok != (n > 0) {
		t.Errorf("MemoryCurrent = %d, %v, want known = %v", n, ok, memory)
	}
}

func wantFiles(t testing.TB, d *Dir, want map[string]string) {
	t.Helper()
	for name, value := range want {
		b, err := readAt(d.fd, name, nil)
		if got := strings.TrimSpace(string(b)); got != value || err != nil {
			t.Errorf("%s = %q, %v, want %q", name, got, err, value)
		}
	}
}
