package linuxtest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Build builds the Go program in a directory, without cgo, as the file to, whose
// directory it makes. Where there is no go command, as in the guests of
// linuxtest/vm, it takes the program that was built beforehand: LINUXTEST_BUILT in
// the environment names a directory with such programs by their own directory.
func Build(tb testing.TB, dir, to string) {
	tb.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		tb.Fatal(err)
	}
	if built := os.Getenv("LINUXTEST_BUILT"); built != "" {
		program, err := os.ReadFile(filepath.Join(built, dir, "program"))
		if errors.Is(err, fs.ErrNotExist) {
			tb.Fatalf("the program in %s was not built beforehand: see the flag -build of pitvisor-linuxtest", dir)
		}
		if err == nil {
			err = os.WriteFile(to, program, 0o755)
		}
		if err != nil {
			tb.Fatal(err)
		}
		return
	}
	NeedCommand(tb, "go")
	cmd := exec.Command("go", "build", "-o", to, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", dir, err, out)
	}
}
