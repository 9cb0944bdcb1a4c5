package userscope

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Names decide, so an ordinary directory stands for the mount.
func TestFindKnowsScopesAndServices(t *testing.T) {
	mount := t.TempDir()
	var want []string
	for path, found := range map[string]bool{
		"system.slice/pitvisor.service/run-x":                                               true,
		"system.slice/system-pitvisor.slice/pitvisor@ci.service/run-x":                      true,
		"system.slice/pitvisor.service/supervisor/run-x":                                    true, // ProtectControlGroups=private
		"system.slice/system-pitvisor.slice/pitvisor@ci.service/supervisor/other":           false,
		"system.slice/pitvisor-exporter.service/run-x":                                      false,
		"system.slice/docker.service/a/pitvisor.service/run-x":                              false, // somebody's own
		"user.slice/user-1000.slice/user@1000.service/app.slice/pitvisor.service/run-x":     true,
		"user.slice/user-1000.slice/user@1000.service/app.slice/pitvisor-run-1.scope/run-x": true,
		"user.slice/user-1000.slice/session-1.scope/run-x":                                  false,
	} {
		if err := os.MkdirAll(filepath.Join(mount, path), 0o755); err != nil {
			t.Fatal(err)
		}
		if found {
			want = append(want, filepath.Join(mount, filepath.Dir(path)))
		}
	}
	got := Find(mount)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("Find = %q, want %q", got, want)
	}
}
