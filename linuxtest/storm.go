package linuxtest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Storm kills processes at random. The seed is logged, so that a failure can be
// had again; the schedule of the kernel cannot.
type Storm struct {
	Kills  int           // how many
	Period time.Duration // between two kills
	Seed   uint64        // 0 takes one from the clock
}

// Rage kills members of a cgroup, one a period, each through a pidfd that was
// opened before its membership was looked at again. It returns the numbers it
// killed, which are fewer than Kills only if the cgroup was empty at times.
func (s Storm) Rage(tb testing.TB, dir string) []int {
	tb.Helper()
	if s.Seed == 0 {
		s.Seed = uint64(time.Now().UnixNano())
	}
	tb.Logf("storm of %d kills, seed %d", s.Kills, s.Seed)
	random := rand.New(rand.NewPCG(s.Seed, 0))
	ticker := time.NewTicker(max(s.Period, time.Microsecond))
	defer ticker.Stop()
	var killed []int
	for range s.Kills {
		if pid, ok := killOne(dir, random); ok {
			killed = append(killed, pid)
		}
		<-ticker.C
	}
	return killed
}

func killOne(dir string, random *rand.Rand) (int, bool) {
	members := Members(dir)
	if len(members) == 0 {
		return 0, false
	}
	pid := members[random.IntN(len(members))].PID
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, false
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	if !slices.ContainsFunc(Members(dir), func(p Proc) bool { return p.PID == pid }) {
		return 0, false
	}
	// A process that is about to die would be chosen again.
	return pid, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil && readable(fd, 10*time.Second)
}
