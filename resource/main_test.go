package resource

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// waitTime bounds what takes a moment.
const waitTime = 10 * time.Second

func TestMain(m *testing.M) {
	// With -race every helper would wait for a second at its exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	linuxtest.Main(m)
}

// testDir is an empty cgroup of the test's own, open until its end.
func testDir(t testing.TB) *cgroup.Dir {
	t.Helper()
	d, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// child makes a cgroup below d, open until the end of the test.
func child(t testing.TB, d *cgroup.Dir, name string) *cgroup.Dir {
	t.Helper()
	c, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.FD() >= 0 {
			c.Close()
		}
	})
	return c
}

// helper starts a helper mode in the cgroup and waits for its first line, which
// says that it has done its worst.
func helper(t testing.TB, d *cgroup.Dir, mode string, args ...string) *linuxtest.Process {
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

func wantFiles(t testing.TB, d *cgroup.Dir, want map[string]string) {
	t.Helper()
	for name, value := range want {
		b, err := d.ReadFile(name)
		if got := strings.TrimSpace(string(b)); got != value || err != nil {
			t.Errorf("%s = %q, %v, want %q", name, got, err, value)
		}
	}
}
