package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// What systemctl status shows of it is tried in packaging.
func TestConfigRisk(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	path := filepath.Join(t.TempDir(), "some.toml")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		uid, gid int
		mode     fs.FileMode
		want     string // "" is no risk
	}{
		{0, 0, 0o644, ""},
		{0, 0, 0o664, ""}, // root's own group
		{0, 1, 0o644, ""},
		{0, 1, 0o664, "its group can have root start anything: chmod go-w " + path},
		{0, 0, 0o646, "everybody can have root start anything: chmod go-w " + path},
		{2147480000, 0, 0o600, path + " belongs to user 2147480000, who can have root start anything: chown root " + path},
	} {
		if err := os.Chown(path, test.uid, test.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		if got := configRisk(path); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%d:%d %04o: %q, want %q", test.uid, test.gid, test.mode, got, test.want)
		}
	}
	if got := configRisk(os.DevNull); got != "" {
		t.Errorf("a device: %q, want nothing", got)
	}
}

// A lock of a dead supervisor is nobody's, and a pipe is no configuration to hold.
func TestClaim(t *testing.T) {
	state, config := t.TempDir(), filepath.Join(t.TempDir(), "some.toml")
	if err := os.WriteFile(config, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := claimConfig(state, config)
		if err != nil {
			t.Fatal(err)
		}
		if err := releaseClaim(f); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(state, "claims")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if f, err := claimConfig(state, "/proc/self/fd/none"); f != nil || err != nil {
		t.Errorf("claim of what is no file = %v, %v", f, err)
	}
	if _, err := claimConfig(filepath.Join(config, "no-directory"), config); err == nil {
		t.Error("claimed below a file")
	}
}
