package resource

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestUsage(t *testing.T) {
	d := testDir(t)
	p := helper(t, d, "flood")
	var u Usage
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		var err error
		if u, err = Read(d); err != nil {
			t.Fatal(err)
		}
		return u.CPUUsage != nil && *u.CPUUsage > 0, "no CPU time was used"
	})
	if *u.CPUUsage > time.Minute {
		t.Errorf("CPUUsage = %v, want a little", *u.CPUUsage)
	}
	have, err := d.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	memory, pids := slices.Contains(have, "memory"), slices.Contains(have, "pids")
	if got := u.MemoryCurrent != nil && *u.MemoryCurrent > 0; got != memory {
		t.Errorf("MemoryCurrent known = %v, want %v", got, memory)
	}
	if got := u.OOMKills != nil; got != memory {
		t.Errorf("OOMKills known = %v, want %v", got, memory)
	}
	if got := u.PIDs != nil; got != pids || got && *u.PIDs == 0 {
		t.Errorf("PIDs known = %v, want %v", got, pids)
	}
	p.Kill(t)
}

func TestUsageOfAnOutOfMemoryKill(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	d := testDir(t)
	wantNil(t, "Set", Set(d, Limits{MemoryMax: 32 << 20}))
	p := linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "256"), Cgroup: d.Path()}.Start(t)
	p.Wait(t, waitTime)
	u, err := Read(d)
	if err != nil || u.OOMKills == nil || *u.OOMKills == 0 {
		t.Errorf("Read = %+v, %v, want an OOM kill", u, err)
	}
}

// The statistics of a cgroup that comes and goes are an answer or cgroup.ErrGone, never a
// line on stderr: the library below us has a logger of its own.
func TestUsageIsQuietWhileCgroupsVanish(t *testing.T) {
	d := testDir(t)
	stderr := captureStderr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := child(t, d, "web")
	for ctx.Err() == nil {
		done := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = Read(c)
			}
			done <- err
		}()
		wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
		wantErr(t, "Read", <-done, cgroup.ErrGone)
		c.Close()
		c = child(t, d, "web")
	}
	if got := stderr(); got != "" {
		t.Errorf("written to stderr: %q", got)
	}
}

// Linking containerd/cgroups must not start anything.
func TestNoGoroutineOfALibrary(t *testing.T) {
	buf := make([]byte, 1<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	for _, library := range []string{"containerd", "cilium", "logrus", "godbus", "protobuf"} {
		if strings.Contains(stacks, library) {
			t.Errorf("a goroutine of %s runs:\n%s", library, stacks)
		}
	}
}

// captureStderr redirects descriptor 2 until the returned function is called, which
// returns what was written.
func captureStderr(t testing.TB) func() string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	saved, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if saved >= 0 {
			_ = unix.Dup3(saved, 2, 0)
			_ = unix.Close(saved)
			saved = -1
		}
	}
	t.Cleanup(restore)
	return func() string {
		restore()
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}
