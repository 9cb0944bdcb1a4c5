package server

import (
	"context"
	"slices"
	"strconv"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

// cold names the workers that the status calls frozen.
func (r *rig) cold() (names []string) {
	r.Helper()
	s, err := r.Status(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	for _, w := range s.Workers {
		if w.Frozen {
			names = append(names, w.Worker)
		}
	}
	return names
}

// frozenBehind freezes or thaws a cgroup of the run without the supervisor.
func (r *rig) frozenBehind(freeze bool, path ...string) {
	r.Helper()
	dir, owned := r.run.Dir(), false
	for _, name := range path {
		next, err := dir.OpenChild(name)
		if owned {
			_ = dir.Close()
		}
		if err != nil {
			r.Fatal(err)
		}
		dir, owned = next, true
	}
	defer dir.Close()
	do := dir.Thaw
	if freeze {
		do = dir.Freeze
	}
	if err := do(r.ctx()); err != nil {
		r.Fatal(err)
	}
}

// TestFrozenBySomebodyElse: the status shows what the kernel says, of a leaf and of a
// whole pool.
func TestFrozenBySomebodyElse(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 3), sleepers(t, "job", 1))
	r.ready()
	for _, c := range []struct {
		path []string
		want []string
	}{{[]string{"web", "1.1"}, []string{"web/1"}}, {[]string{"web"}, []string{"web/0", "web/1", "web/2"}}, {[]string{"job", "0.1"}, []string{"job/0"}}} {
		r.frozenBehind(true, c.path...)
		if got := r.cold(); !slices.Equal(got, c.want) {
			t.Errorf("with %v frozen: %v, want %v", c.path, got, c.want)
		}
		r.frozenBehind(false, c.path...)
		if got := r.cold(); len(got) > 0 {
			t.Errorf("with %v thawed: %v", c.path, got)
		}
	}
}

// TestFrostTakesTurns: of more workers than there is time for each has its turn.
func TestFrostTakesTurns(t *testing.T) {
	const n = 1500
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	pool, err := r.run.Dir().Create("many")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	defer func() {
		if err := r.run.Dir().Destroy(context.Background(), "many", 0); err != nil {
			t.Error(err)
		}
	}()
	workers := make([]supervise.WorkerStatus, n)
	for i := range workers {
		workers[i] = supervise.WorkerStatus{Worker: supervise.WorkerID{Pool: "many", Slot: i}, State: supervise.StateUp, Start: 1}
	}
	leaf, err := pool.Create(strconv.Itoa(n-1) + ".1") // the last of them; the others have ended
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	linuxtest.Command{Args: linuxtest.Helper(t, "run"), Cgroup: leaf.Path()}.Start(t)
	freeze(t, leaf)
	for range n/frostLeast + 1 {
		if r.server.look(workers).holds(&workers[n-1]) {
			return
		}
	}
	t.Error("never seen")
}

func freeze(t *testing.T, d *cgroup.Dir) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
}
