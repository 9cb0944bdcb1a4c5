package packaging

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestARM64 runs the programs for arm64 in QEMU's emulator of user programs, where
// there are packages for arm64: `make packages-check`. What only looks works there.
// The emulator has none of the ways to start a process that pitvisor uses, as doctor
// finds out, so that run is refused: nothing is claimed of it.
func TestARM64(t *testing.T) {
	dir := os.Getenv("PITVISOR_PACKAGES")
	found, err := filepath.Glob(filepath.Join(dir, "*-linux-arm64.tar.gz"))
	if err != nil || dir == "" || len(found) != 1 {
		linuxtest.Skip(t, "needs packages for arm64: make packages-check")
	}
	const emulator = "qemu-aarch64-static"
	linuxtest.NeedCommand(t, emulator)
	tree := t.TempDir()
	sh(t, "tar", "-xzf", found[0], "-C", tree, "--strip-components=1")
	front, full := filepath.Join(tree, "bin/pitvisor"), filepath.Join(tree, "libexec/pitvisor/pitvisor")
	for _, program := range []string{front, full} {
		static(t, program)
		if f, err := elf.Open(program); err != nil || f.Machine != elf.EM_AARCH64 {
			t.Errorf("%s is not for arm64: %v", program, err)
		} else {
			_ = f.Close() // was only read
		}
	}
	env := append(os.Environ(), "PITVISOR_CGROUP_ROOT="+linuxtest.Cgroup(t), "PITVISOR_STATE_DIR="+t.TempDir(), "PITVISOR_RUNTIME_DIR="+t.TempDir())
	write(t, workers, tree, "some.toml")
	for _, try := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{full, "version"}, 0, "linux/arm64"},
		{[]string{full, "check", "-f", filepath.Join(tree, "some.toml")}, 0, "2 workers"},
		{[]string{full, "doctor"}, 1, "NO   start inside a cgroup"},
		{[]string{full, "ps"}, 0, "no runs"},
		{[]string{full, "sweep"}, 0, "swept 0 runs"},
		{[]string{front, "run", "--", "/bin/true"}, 125, "clone the guardian: unsupported operation"},
	} {
		cmd := exec.Command(emulator, try.args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != try.code || !strings.Contains(string(out), try.says) {
			t.Errorf("%s = %d: %s, want %d and %q", strings.Join(try.args, " "), code, out, try.code, try.says)
		}
	}
}
