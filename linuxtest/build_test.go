package linuxtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBuildMakesAProgramOrTakesIt(t *testing.T) {
	source := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module hello\n", "main.go": "package main\n\nfunc main() { print(\"hello\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	built := t.TempDir()
	place := filepath.Join(built, source, "program")
	if os.Getenv("LINUXTEST_BUILT") == "" {
		Build(t, source, place)
		if status := Start(t, place).Wait(t, 10*time.Second); status.ExitStatus() != 0 {
			t.Errorf("the program ends with %#x", uint32(status))
		}
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place, []byte("ready-made"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LINUXTEST_BUILT", built)
	to := filepath.Join(t.TempDir(), "bin", "hello")
	Build(t, source, to)
	if got, err := os.ReadFile(to); string(got) != "ready-made" || err != nil {
		t.Errorf("Build gives %q, %v, want what is ready-made", got, err)
	}
	other := t.TempDir()
	wantFailure(t, func(tb testing.TB) { Build(tb, other, to) }, "was not built beforehand")
	t.Setenv("LINUXTEST_BUILT", "")
	if err := os.WriteFile(filepath.Join(source, "main.go"), []byte("package main\n\nfunc main() { nonsense }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := try(t, func(tb testing.TB) { Build(tb, source, to) })
	if said := strings.Join(r.said, "\n"); !r.skipped && !strings.Contains(said, "nonsense") {
		t.Errorf("Build of a broken program says %q, want the compiler's words", said)
	}
}
