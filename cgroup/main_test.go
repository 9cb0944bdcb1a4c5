package cgroup

import (
	"bufio"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) {
	// With -race every helper would wait for a second at its exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	linuxtest.Main(m, linuxtest.Modes{"call": modeCall})
}

// testDir is an empty cgroup of the test's own, open until its end.
func testDir(t testing.TB) *Dir {
	t.Helper()
	d, err := Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// child makes a cgroup below d, open until the end of the test.
func child(t testing.TB, d *Dir, name string) *Dir {
	t.Helper()
	c, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.fd >= 0 {
			c.Close()
		}
	})
	return c
}

// sleeper starts a quiet process in the cgroup.
func sleeper(t testing.TB, d *Dir) *linuxtest.Process {
	t.Helper()
	return linuxtest.Command{Args: []string{"/bin/sleep", "120"}, Cgroup: d.Path()}.Start(t)
}

// helper starts a helper mode in the cgroup and waits for its first line, which
// says that it has done its worst.
func helper(t testing.TB, d *Dir, mode string, args ...string) *linuxtest.Process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := linuxtest.Command{Args: linuxtest.Helper(t, mode, args...), Cgroup: d.Path(), Stdout: w}.Start(t)
	w.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatalf("helper %s: first line %q: %v", mode, line, err)
	}
	return p
}

// within is a context for what must not take long.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantErr(t testing.TB, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", call, err, want)
	}
}

func wantText(t testing.TB, call string, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s = %v, want text %q", call, err, w)
		}
	}
}

func wantNil(t testing.TB, call string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s = %v, want nil", call, err)
	}
}

func wantPopulated(t testing.TB, d *Dir, want bool) {
	t.Helper()
	e, err := d.Events()
	if err != nil {
		t.Fatal(err)
	}
	if e.Populated != want {
		t.Errorf("%s: populated %v, want %v", d.Path(), e.Populated, want)
	}
}
