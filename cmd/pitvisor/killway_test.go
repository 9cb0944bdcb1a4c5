package main

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestKillGoesTheWayOfTheKernel looks at the system calls with which a run that
// leaves something behind, a worker that does, and a crashed supervisor's run are
// ended: one write to cgroup.kill where the kernel has it (Linux 5.14). Elsewhere
// the cgroup is frozen and then each process gets SIGKILL through a pidfd.
func TestKillGoesTheWayOfTheKernel(t *testing.T) {
	w := newWorld(t)
	adoptOrphans(t)
	// A cgroup of an old kernel has no such file, except the top one, which never has it.
	_, err := os.Stat(filepath.Join(w.root, "cgroup.kill"))
	old := os.IsNotExist(err)
	crashed := func() {
		u := w.up(w.config(sleepers("web", 2)))
		u.ready(names("web", 2)...)
		u.kill()
		reapAll()
	}
	leaver := func() {
		w.config("[pool.web]\ncommand = [\"/bin/sh\", \"-c\", \"sleep 1000 & exit 0\"]\nrestart = \"never\"\n")
	}
	for _, test := range []struct {
		name   string
		before func()
		argv   []string
	}{
		{"run", func() {}, w.argv("run", "--", "/bin/sh", "-c", "sleep 1000 & exit 0")},
		{"up", leaver, w.argv("up", "-f", filepath.Join(w.dir, "pitvisor.toml"))},
		{"sweep", crashed, w.argv("sweep")},
	} {
		test.before()
		calls := killCalls(t, test.argv)
		// What is removed when it is empty need not be thawed, and with it goes all else.
		froze, killed, each := slices.Index(calls, "cgroup.freeze"), slices.Index(calls, "cgroup.kill"), slices.Index(calls, "SIGKILL by pidfd")
		switch {
		case slices.Contains(calls, "SIGKILL by number"):
			t.Errorf("%s: killed by number: %q", test.name, calls)
		case old && (killed >= 0 || froze < 0 || each < froze):
			t.Errorf("%s: calls %q, want a freeze, then SIGKILL through pidfds", test.name, calls)
		case !old && (killed < 0 || each >= 0 && each < killed): // a helper of ours gets one later
			t.Errorf("%s: calls %q, want cgroup.kill and no signal to single processes before", test.name, calls)
		}
		if left := w.groups(); len(left) > 0 {
			t.Errorf("%s: cgroups left: %v", test.name, left)
		}
		reapAll()
	}
}

// killCalls runs pitvisor to its end and returns its system calls that freeze,
// thaw or kill, in their order.
func killCalls(t *testing.T, argv []string) []string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var mu sync.Mutex // guards calls
	var calls []string
	trace := linuxtest.CrashTest{
		Command: func() linuxtest.Command {
			return linuxtest.Command{Args: argv, Env: os.Environ(), Stdout: out, Stderr: out}
		},
		Syscalls: []string{"write", "pidfd_send_signal", "kill"},
		Match: func(c linuxtest.Call) bool {
			what := ""
			switch base := filepath.Base(c.Path); {
			case c.Name == "write" && (base == "cgroup.kill" || base == "cgroup.freeze"):
				what = base
			case c.Name == "pidfd_send_signal" && c.Args[1] == uint64(unix.SIGKILL):
				what = "SIGKILL by pidfd"
			case c.Name == "kill" && c.Args[1] == uint64(unix.SIGKILL):
				what = "SIGKILL by number"
			}
			if what != "" {
				mu.Lock()
				calls = append(calls, what)
				mu.Unlock()
			}
			return false // it only looks
		},
		Within: 2 * patience,
	}
	if crash, ok := trace.At(t, 1); ok {
		t.Errorf("killed at %v", crash)
	}
	mu.Lock()
	defer mu.Unlock()
	said, err := os.ReadFile(out.Name())
	t.Logf("%v; %v\n%s", calls, err, said)
	return calls
}
