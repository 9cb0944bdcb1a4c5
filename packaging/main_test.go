package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// build makes the packages for this machine, unless PITVISOR_PACKAGES in the environment
// names the directory with those that were built.
func build(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "packages")
	if built := os.Getenv("PITVISOR_PACKAGES"); built != "" {
		// Copied to where a machine with another root file system has it as well.
		if err := os.CopyFS(dir, os.DirFS(built)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	linuxtest.NeedCommand(t, "bash", "git", "gzip", "sha256sum")
	sh(t, "./build", "-o", dir, "-a", runtime.GOARCH)
	return dir
}

// one finds the file that a pattern means.
func one(t *testing.T, parts ...string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parts...))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v, want one file", filepath.Join(parts...), found, err)
	}
	return found[0]
}

// sh runs a command and returns what it prints.
func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, text string, parts ...string) {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
