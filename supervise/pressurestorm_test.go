package supervise

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestStormUnderPressure: the storm of commands, with pools that hold, shrink and freeze
// while pressure comes and goes. When it is over, or has gone on for MaxFor, everything is as
// it was asked for, and nothing is frozen.
func TestStormUnderPressure(t *testing.T) {
	needPressure(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	spec := func(name string, size, version int) PoolSpec {
		p := sh(name, size, fmt.Sprintf("exec sleep 60%d", version%2))
		p.Backoff.Min = 1
		p.Stop.Drain = time.Duration(version) * time.Millisecond
		p.Rollout = Rollout{MaxSurge: 1, MinReady: time.Duration(version) * 5 * time.Millisecond, Progress: time.Duration(version) * 100 * time.Millisecond}
		action := PressureAction(1 + (len(name)+version)%3)
		p.Pressure = under(action)
		p.Pressure.MaxFor = time.Duration(version) * 20 * time.Second
		if version == 3 {
			p.Pressure = PressurePolicy{}
		}
		if p.Pressure.Priority = 0; action == PressureFreeze {
			p.Pressure.Priority = len(name)
		}
		return p
	}
	w := calm(t, spec("web", 3, 0))
	w.await("ready", 3, kind(EventReady))
	var all sync.WaitGroup
	for who := range uint64(3) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, who))
			for range 50 {
				w.askAnything(random, spec)
			}
		})
	}
	all.Go(func() {
		random := rand.New(rand.NewPCG(seed, 99))
		for range 60 {
			w.blow(1+random.IntN(15), float64(random.IntN(2)))
		}
	})
	all.Wait()
	last := []PoolSpec{spec("web", 5, 0), spec("db", 4, 2), spec("api", 2, 2)} // hold, shrink, freeze
	for i := range last {
		last[i].Rollout.Progress = 0 // a busy machine would make it go back to another policy
		last[i].Pressure.MaxFor = 15 * time.Minute
	}
	if _, err := w.Reload(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Start(t.Context(), Everyone()); err != nil {
		t.Fatal(err)
	}
	w.blow(500, 0)
	w.settled11(t, "")
	// Once more everything: some of each pool die meanwhile.
	w.blow(12, 1)
	w.frozen("api/1", true)
	for _, worker := range []string{"web/0", "web/4", "db/0", "api/0"} {
		if ids, err := w.Signal(t.Context(), only(worker), unix.SIGKILL); err != nil || len(ids) != 1 {
			t.Errorf("Signal of %s = %v, %v", worker, ids, err)
		}
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		web, db, api := w.pool("web"), w.pool("db"), w.pool("api")
		return web.Held == 2 && db.Withheld == 1 && db.Ready == 3 && api.Held == 1 && api.Frozen == 1, fmt.Sprintf("%+v, %+v, %+v", web, db, api)
	})
	w.blow(1000, 1)
	w.settled11(t, "nothing is done for now: ") // although it goes on
	w.blow(500, 0)
	w.settled11(t, "")
	for _, s := range w.Status() {
		w.frozen(s.Worker.String(), false)
		_, leaf := w.members(s.Worker.String())
		if text, err := os.ReadFile(leaf + "/cgroup.freeze"); err != nil || strings.TrimSpace(string(text)) != "0" {
			t.Errorf("%v: cgroup.freeze is %q, %v", s.Worker, text, err)
		}
	}
	if err := w.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// settled11 waits until three pools of eleven workers are as they were asked for, and say
// that of pressure.
func (w *wind) settled11(t *testing.T, words string) {
	t.Helper()
	linuxtest.Wait(t, patience, func() (bool, string) {
		for _, p := range w.Pools() {
			if p.Removed || p.Rollout != 0 || p.Surge+p.Leaving != 0 || p.Ready != p.Size || !strings.HasPrefix(p.Pressure, words) || (words == "") != (p.Pressure == "") || p.Held+p.Frozen+p.Withheld != 0 {
				return false, fmt.Sprintf("%+v", p)
			}
		}
		return len(w.Pools()) == 3 && len(linuxtest.Members(w.run.Dir().Path())) == 11, "there are others"
	})
}
