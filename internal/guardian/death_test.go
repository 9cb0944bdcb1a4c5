package guardian

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func TestRunEndsWithItsOwner(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "double-fork", "stay")
		guard := o.hold(t)
		o.Kill(t)
		linuxtest.CgroupGone(t, o.run, second())
		gone(t, guard)
	})
}

// An owner that ends by itself and forgets its guardian is no better.
func TestRunEndsWithAnOwnerThatExits(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "run")
		if err := o.stdin.Close(); err != nil {
			t.Fatal(err)
		}
		linuxtest.ExitCause(t, o.Wait(t, within), 0)
		linuxtest.CgroupGone(t, o.run, second())
	})
}

func TestStoppedGuardianLeavesNothing(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "fork-bomb", "3")
		guard := o.hold(t)
		o.order(t, "stop")
		if exited, err := guard.Exited(); err != nil || !exited {
			t.Errorf("the guardian has exited: %v, %v", exited, err)
		}
		if left := linuxtest.Members(o.root); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		if err := o.stdin.Close(); err != nil {
			t.Fatal(err)
		}
		linuxtest.ExitCause(t, o.Wait(t, within), 0)
	})
}

// commands are what a run may hold.
func commands() [][]string {
	return [][]string{
		{"run"},
		{"double-fork"},
		{"double-fork", "stay"},
		{"setsid-storm", "20"},
		{"fork-bomb", "5"},
		{"fork-chain", "4"},
		{"ignore-term"},
	}
}

// bystanders are a process outside and a run of somebody else in the same root, which
// both must be there at the end of the test.
func bystanders(t *testing.T, root string) {
	t.Helper()
	linuxtest.Bystander(t, linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: linuxtest.Cgroup(t)})
	other := started(t, root, "program", "run")
	t.Cleanup(func() {
		linuxtest.SurvivesAs(t, other.Process)
		other.Kill(t)
		linuxtest.CgroupGone(t, other.run, second())
	})
	linuxtest.Unaffected(t, other.run)
}

// batches calls f so many times, in subtests of thirty.
func batches(t *testing.T, n int, f func(t *testing.T, i int)) {
	t.Helper()
	for begin := 0; begin < n && !t.Failed(); begin += 30 {
		t.Run(fmt.Sprint(begin), func(t *testing.T) {
			linuxtest.NoLeaks(t)
			for i := begin; i < min(begin+30, n) && !t.Failed(); i++ {
				f(t, i)
			}
		})
	}
}

// pause lets a random time go by.
func pause(most time.Duration) {
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	<-timer.C
}

// rounds is how often a test with random instants is repeated.
func rounds(kind string) int {
	switch {
	case testing.Short():
		return 15
	case kind == "clone":
		return 300
	}
	return 45
}

func TestOwnerKilledAtRandomInstants(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		root := linuxtest.Cgroup(t)
		begin := time.Now()
		bystanders(t, root)
		usual := time.Since(begin) // for two processes to start
		guarded := 0
		batches(t, rounds(kind), func(t *testing.T, i int) {
			o := launch(t, root, kind, commands()[i%len(commands())]...)
			late := i%3 == 0 // killed after it has told of its guardian; the others, at any moment
			if late && !o.guarded() {
				t.Fatalf("the owner has no guardian: %q, %v", o.lines.Text(), o.lines.Err())
			}
			pause(usual)
			o.Kill(t)
			if late || o.guarded() {
				guarded++
				linuxtest.CgroupGone(t, o.run, second())
				return
			}
			sweep(t, root) // it had made its run, perhaps, and no guardian yet
		})
		if left := linuxtest.Subgroups(t, root); len(left) != 1 {
			t.Errorf("left in the root: %v, want the other's run", left)
		}
		t.Logf("%d of %d owners had a guardian when they were killed", guarded, rounds(kind))
	})
}

func TestOwnerGoesOnWithoutItsGuardian(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		root := linuxtest.Cgroup(t)
		bystanders(t, root)
		o := started(t, root, kind, "setsid-storm", "1")
		guard := o.hold(t)
		linuxtest.Wait(t, within, func() (bool, string) { return len(linuxtest.Members(o.run)) == 2, "no child" })
		kill(t, guard)
		gone(t, guard)
		before := linuxtest.Identities(o.run)
		o.order(t, "nest")
		o.Kill(t)
		if after := linuxtest.Identities(o.run); len(after) != 2 || fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("without a guardian %v are left of %v", after, before)
		}
		if got := sweep(t, root); got.Swept != 1 || got.Processes != 2 {
			t.Errorf("Sweep() = %+v, want one run with two processes", got)
		}
		linuxtest.CgroupGone(t, o.run, 0)
	})
}

func TestBothKilledAtRandomInstants(t *testing.T) {
	needClone(t)
	noLeaks(t)
	root := linuxtest.Cgroup(t)
	bystanders(t, root)
	swept := 0
	batches(t, rounds("clone")/3, func(t *testing.T, i int) {
		o := started(t, root, "clone", commands()[i%len(commands())]...)
		guard := o.hold(t)
		if i%2 == 0 {
			kill(t, guard)
			pause(time.Millisecond)
			o.Kill(t)
		} else {
			o.Kill(t)
			pause(10 * time.Millisecond)
			kill(t, guard)
		}
		gone(t, guard)
		if _, err := os.Stat(o.run); err == nil {
			swept += sweep(t, root).Swept
		}
		linuxtest.CgroupGone(t, o.run, 0)
	})
	t.Logf("%d runs were left to a sweep", swept)
	if swept == 0 {
		t.Error("no run was left to a sweep")
	}
}

func TestFrozenRunIsKilled(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "fork-bomb", "4")
		o.order(t, "freeze")
		o.Kill(t)
		linuxtest.CgroupGone(t, o.run, second())
	})
}

func TestForkBombIsKilled(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		for _, bomb := range [][]string{{"fork-bomb", "8"}, {"fork-chain", "50"}} {
			o := started(t, linuxtest.Cgroup(t), kind, bomb...)
			pause(20 * time.Millisecond)
			o.Kill(t)
			linuxtest.CgroupGone(t, o.run, second())
		}
	})
}

// What a guardian has not been told of it cannot remove, but it does not wait for it
// for ever, and the next sweep can.
func TestUnknownCgroupsAreEmptiedAndLeft(t *testing.T) {
	needClone(t)
	noLeaks(t)
	root := linuxtest.Cgroup(t)
	o := started(t, root, "clone", "fork-bomb", "3")
	guard := o.hold(t)
	o.order(t, "nest")
	o.Kill(t)
	linuxtest.Wait(t, second(), func() (bool, string) { return len(linuxtest.Members(root)) == 0, "there are processes" })
	gone(t, guard)
	if left := linuxtest.Subgroups(t, filepath.Join(o.run, "job")); len(left) != 1 || left[0] != "other" {
		t.Errorf("left: %v, want only the directory that it did not know", left)
	}
	if got := sweep(t, root); got.Swept != 1 {
		t.Errorf("Sweep() = %+v, want one run", got)
	}
	linuxtest.CgroupGone(t, o.run, 0)
}

// A run that was ended while its guardian lived: there is nothing to do and to wait for.
func TestGuardianOfARunThatIsGone(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "run")
		guard := o.hold(t)
		o.order(t, "remove")
		if exited, err := guard.Exited(); err != nil || exited {
			t.Errorf("the guardian has exited: %v, %v, though its owner lives", exited, err)
		}
		o.Kill(t)
		gone(t, guard)
	})
}

// killGroup is PIDFD_SIGNAL_PROCESS_GROUP of linux/pidfd.h, Linux 6.9.
const killGroup = 4

func TestKillOfTheProcessGroupMissesTheGuardian(t *testing.T) {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.PidfdSendSignal(self, 0, nil, killGroup)
	_ = unix.Close(self) // nothing to lose
	if err == unix.EINVAL {
		linuxtest.Skip(t, "needs pidfd_send_signal to a process group")
	}
	kinds(t, func(t *testing.T, kind string) {
		o := started(t, linuxtest.Cgroup(t), kind, "setsid-storm", "5")
		if err := unix.PidfdSendSignal(o.FD(), unix.SIGKILL, nil, killGroup); err != nil {
			t.Fatal(err)
		}
		linuxtest.StoppedBy(t, o.Wait(t, within), unix.SIGKILL)
		linuxtest.CgroupGone(t, o.run, second())
	})
}

func TestManyOwnersAtOnce(t *testing.T) {
	needClone(t)
	noLeaks(t)
	root := linuxtest.Cgroup(t)
	n := 200
	if testing.Short() {
		n = 20
	}
	var owners []*owner
	for range n {
		owners = append(owners, launch(t, root, "clone", "run"))
	}
	for _, o := range owners {
		if !o.guarded() {
			t.Fatalf("no guardian: %q", o.lines.Text())
		}
		o.said(t, "started")
	}
	for _, o := range owners {
		if err := o.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	for _, o := range owners {
		linuxtest.CgroupGone(t, o.run, second()-min(second(), time.Since(begin)))
	}
	t.Logf("%d runs were gone after %v", n, time.Since(begin))
}
