package supervise

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestH16CapacityReturnsAfterAStorm, which is H-37 too: twelve times, two or
// three random workers are killed at once. Each time the pool is back at its full
// size, with exactly the killed ones replaced.
func TestH16CapacityReturnsAfterAStorm(t *testing.T) {
	const size, cycles = 10, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := sleeper("web", size)
	p.Backoff = Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond, Free: 2, Reset: time.Hour}
	r := begin(t, p)
	r.await("ready", size, kind(EventReady))
	ready := size
	for cycle := range cycles {
		before := identities(r)
		victims := random.Perm(size)[:2+random.IntN(2)]
		for _, slot := range victims {
			r.kill(r.Status()[slot].PID, unix.SIGKILL)
		}
		ready += len(victims)
		r.await("ready again", ready, kind(EventReady))
		after := identities(r)
		for slot := range size {
			replaced := before[slot] != after[slot]
			if killed := slices.Contains(victims, slot); replaced != killed {
				t.Errorf("cycle %d: worker %d killed %v, replaced %v", cycle, slot, killed, replaced)
			}
		}
	}
	linuxtest.CapacityBack(t, size, patience, func() int { return len(linuxtest.Members(r.run.Dir().Path())) })
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if got := r.Result(); got.Exited != ready-size || got.Ready != ready || got.GaveUp != 0 {
		t.Errorf("Result() = %+v, want %d ends and %d starts", got, ready-size, ready)
	}
}

// identities returns who the workers are, by slot.
func identities(r *rig) map[int]linuxtest.Identity {
	ids := map[int]linuxtest.Identity{}
	for _, w := range r.Status() {
		ids[w.Worker.Slot], _ = linuxtest.Identify(w.PID)
	}
	return ids
}

// TestStormOfEverything kills at random for a while, whatever is in whatever
// state, among workers that are slow, fail and leave daemons.
func TestStormOfEverything(t *testing.T) {
	web := sleeper("web", 6)
	flaky := sh("flaky", 4, `test $(($$ % 3)) = 0 && exit 1; sleep 600 & exec sleep 600`)
	flaky.Readiness = rule(becomesSleep)
	flaky.StartTimeout = time.Minute
	r := begin(t, web, flaky, daemon("daemons", 3))
	r.await("ready", 5, kind(EventReady))
	linuxtest.Storm{Kills: linuxtest.Times(60, 20), Period: 5 * time.Millisecond}.Rage(t, r.run.Dir().Path())
	linuxtest.Wait(t, patience, func() (bool, string) {
		for _, w := range r.Status() {
			if w.State != StateUp || !w.Ready {
				return false, fmt.Sprintf("%v is %v", w.Worker, w.State)
			}
		}
		return true, ""
	})
	linuxtest.StopWithin(t, patience, r.registry.Root().Path(), func() error { _ = r.halt(); return nil })
}

// TestFirstRestartsAreFree is the row of bursts: back-off only after three
// deaths in a row.
func TestFirstRestartsAreFree(t *testing.T) {
	p := sleeper("web", 1)
	p.Backoff = Backoff{Min: 300 * time.Millisecond, Max: time.Second, Free: 2, Reset: time.Hour}
	r := begin(t, p)
	for i := range 4 {
		r.await("ready", i+1, kind(EventReady))
		r.kill(r.Status()[0].PID, unix.SIGKILL)
	}
	backoffs := r.await("backoff", 2, kind(EventBackoff))
	if backoffs[0].Start != 3 || backoffs[0].Delay != 300*time.Millisecond || backoffs[1].Delay != 600*time.Millisecond {
		t.Errorf("backoffs = %s and %s; want 300 ms after start 3, then 600 ms", eventText(backoffs[0]), eventText(backoffs[1]))
	}
	starts := r.await("starting", 4, kind(EventStarting))
	if gap := starts[3].At.Sub(backoffs[0].At); gap < 300*time.Millisecond {
		t.Errorf("start 4 came %v after the backoff began, want 300 ms", gap)
	}
}
