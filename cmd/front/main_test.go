package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m, linuxtest.Modes{"tally": modeTally}) }

// installed builds both programs into a directory, laid out as a package has them,
// and returns where pitvisor is.
func installed(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	linuxtest.Build(t, ".", filepath.Join(dir, "bin", "pitvisor"))
	linuxtest.Build(t, "../pitvisor", filepath.Join(dir, "libexec", "pitvisor", "pitvisor"))
	openUp(t, dir)
	return filepath.Join(dir, "bin")
}

// openUp lets other users pass to a directory of the test's.
func openUp(t testing.TB, dir string) {
	t.Helper()
	for ; filepath.Clean(os.TempDir()) != dir && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScript runs testdata/script: what a person types at the two programs, and what
// comes back. Each script has a cgroup root and directories of its own, and leaves
// nothing in them.
func TestScript(t *testing.T) { scripts(t, "testdata/script") }

// TestScriptAsRoot runs what only root can do.
func TestScriptAsRoot(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	scripts(t, "testdata/root")
}

// TestScriptInNamespaces runs what needs namespaces.
func TestScriptInNamespaces(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	scripts(t, "testdata/admin")
}

func scripts(t *testing.T, dir string) {
	t.Helper()
	linuxtest.NeedCgroup2(t)
	bin := installed(t)
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Condition: func(name string) (bool, error) {
			if name != "nsdelegate" { // cgroup namespaces are borders
				return false, fmt.Errorf("no condition %q", name)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			return strings.Contains(string(mounts), "nsdelegate"), err
		},
		Setup: func(env *testscript.Env) error {
			root := linuxtest.Cgroup(env.T().(testing.TB))
			env.Setenv("PITVISOR_CGROUP_ROOT", root)
			env.Setenv("PITVISOR_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("LIMIT", map[bool]string{false: "1s", true: "10s"}[linuxtest.Emulated()])
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Defer(func() {
				if left, err := filepath.Glob(filepath.Join(root, "run-*")); err != nil || len(left) > 0 {
					panic(fmt.Sprintf("runs left: %v, %v", left, err))
				}
			})
			return nil
		},
	})
}
