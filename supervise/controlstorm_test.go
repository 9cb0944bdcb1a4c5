package supervise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

// TestStormOfCommands: everybody asks for everything at once, while workers die. Nothing
// is lost: at the end the last configuration is there, and nothing else.
func TestStormOfCommands(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &watcher{watch: func(ctx context.Context, info StartInfo, _ ReadyInfo) error {
		if info.Start%7 == 3 {
			return errors.New("unwell")
		}
		<-ctx.Done()
		return nil
	}}
	spec := func(name string, size, version int) PoolSpec {
		p := sh(name, size, fmt.Sprintf("exec sleep 60%d", version))
		p.Backoff.Min, p.Liveness = 1, w
		if version%3 == 2 {
			p.Readiness = rule(func(context.Context, StartInfo, *pidfd.Process, *cgroup.Dir) (ReadyInfo, error) {
				return ReadyInfo{}, errors.New("never ready")
			})
		}
		return p
	}
	r := begin(t, spec("web", 3, 0))
	r.ready("web", 0, 1, 2)
	var all sync.WaitGroup
	for who := range uint64(4) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, who))
			for range 60 {
				r.askAnything(random, spec)
			}
		})
	}
	all.Wait()
	last := []PoolSpec{spec("web", 4, 0), spec("db", 2, 1)}
	if _, err := r.Reload(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(t.Context(), Everyone()); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2, 3)
	r.ready("db", 0, 1)
	linuxtest.Wait(t, patience, func() (bool, string) {
		for _, p := range r.Pools() {
			if p.Removed || p.Rollout != 0 || p.Surge+p.Leaving != 0 || p.Ready != p.Size {
				return false, fmt.Sprintf("%+v", p)
			}
		}
		return len(r.Pools()) == 2 && len(linuxtest.Members(r.run.Dir().Path())) == 6, "there are others"
	})
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if n := w.open.Load(); n != 0 {
		t.Errorf("%d vigils are still open", n)
	}
}

// askAnything gives one random command, or kills somebody.
func (r *rig) askAnything(random *rand.Rand, spec func(string, int, int) PoolSpec) {
	ctx := context.Background()
	pools := []string{"web", "db", "api"}
	name := pools[random.IntN(3)]
	one := only(name + "/" + fmt.Sprint(random.IntN(4)))
	var err error
	switch random.IntN(8) {
	case 0:
		err = r.Scale(ctx, name, random.IntN(6))
	case 1:
		_, err = r.Restart(ctx, only(name))
	case 2:
		_, err = r.Stop(ctx, one)
	case 3:
		_, err = r.Start(ctx, one)
	case 4:
		_, err = r.Kill(ctx, one)
	case 5:
		_, err = r.Signal(ctx, one, unix.SIGKILL)
	case 6:
		var specs []PoolSpec
		for _, n := range pools {
			if n == "web" || random.IntN(2) == 0 {
				specs = append(specs, spec(n, 1+random.IntN(4), random.IntN(4)))
			}
		}
		_, err = r.Reload(ctx, specs)
	default:
		for _, w := range r.Status() {
			r.Count(w.Worker, w.Start, 1)
		}
		r.Pools()
	}
	if err != nil && !errors.Is(err, ErrNoMatch) {
		r.Errorf("a command failed: %v", err)
	}
}
