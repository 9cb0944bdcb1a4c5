package resource

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestWhoseForkItWas(t *testing.T) {
	const old, split = false, true
	for _, test := range []struct {
		name   string
		counts []pidsCounts // hits, own hits, counted where the limit is, full; the leaf first
		before uint64
		want   PIDs
	}{
		{"nothing happened", []pidsCounts{{0, 0, 0, split, false}, {1, 0, 0, split, true}}, 0, PIDs{0, Hit{LimitNone, -1, "", true}}},
		{"the leaf's own", []pidsCounts{{0, 2, 2, split, true}, {1, 5, 3, split, true}}, 3, PIDs{2, Hit{LimitOwn, 0, "", true}}},
		{"below the leaf", []pidsCounts{{0, 2, 0, split, true}, {1, 2, 0, split, true}}, 0, PIDs{2, Hit{LimitBelow, 0, "", true}}},
		{"the pool's", []pidsCounts{{0, 0, 0, split, false}, {1, 4, 4, split, true}, {2, 4, 0, split, false}}, 1, PIDs{3, Hit{LimitAncestor, 1, "", false}}},
		{"the run's", []pidsCounts{{0, 0, 0, split, false}, {1, 0, 0, split, true}, {2, 4, 4, split, true}}, 0, PIDs{4, Hit{LimitAncestor, 2, "", false}}},
		{"the pool's, before the leaf", []pidsCounts{{0, 0, 0, split, false}, {1, 4, 4, split, true}}, 4, PIDs{0, Hit{LimitNone, -1, "", true}}},
		{"a leaf without the controller", []pidsCounts{{1, 4, 4, split, true}}, 3, PIDs{1, Hit{LimitAncestor, 1, "", false}}},

		{"old: nothing happened", []pidsCounts{{0, 0, 0, old, true}, {1, 0, 0, old, true}}, 0, PIDs{0, Hit{LimitNone, -1, "", true}}},
		{"old: the leaf's own", []pidsCounts{{0, 2, 0, old, true}, {1, 9, 0, old, false}}, 0, PIDs{2, Hit{LimitOwn, 0, "", true}}},
		{"old: the pool's", []pidsCounts{{0, 2, 0, old, false}, {1, 9, 0, old, true}}, 0, PIDs{2, Hit{LimitAncestor, 1, "", true}}},
		{"old: the leaf's or the pool's", []pidsCounts{{0, 2, 0, old, true}, {1, 9, 0, old, true}}, 0, PIDs{2, Hit{LimitOwn, 0, "", false}}},
		{"old: further up", []pidsCounts{{0, 2, 0, old, false}, {1, 9, 0, old, false}}, 0, PIDs{2, Hit{LimitAbove, -1, "", true}}},
		{"old: a leaf without the controller", []pidsCounts{{1, 4, 0, old, true}}, 0, PIDs{0, Hit{LimitNone, -1, "", false}}},
	} {
		if got := whoseFork(test.counts, test.before); got != test.want {
			t.Errorf("%s: whoseFork(%+v) = %+v, want %+v", test.name, test.counts, got, test.want)
		}
	}
}

func TestPIDsInWords(t *testing.T) {
	for want, p := range map[string]PIDs{
		"no fork refused":                                       {},
		"1 fork refused, limit of /job/1":                       {Refused: 1, Hit: Hit{Whose: LimitOwn, Path: "/job/1", Sure: true}},
		"2 forks refused, limit of /job, as far as can be told": {Refused: 2, Hit: Hit{Whose: LimitAncestor, Path: "/job"}},
		"2 forks refused, limit of a cgroup below /job":         {Refused: 2, Hit: Hit{Whose: LimitBelow, Path: "/job", Sure: true}},
		"1 fork refused, limit of a cgroup further up":          {Refused: 1, Hit: Hit{Whose: LimitAbove, Sure: true}},
	} {
		if got := p.String(); got != want {
			t.Errorf("String of %+v = %q, want %q", p, got, want)
		}
	}
}

func TestPIDsSourceWithoutTheController(t *testing.T) {
	d := child(t, testDir(t), "bare") // nothing is handed down to it
	_, err := PIDsSource(0, d)
	var missing *cgroup.ControllerError
	if !errors.As(err, &missing) || missing.Controller != "pids" || missing.Path != d.Path() {
		t.Errorf("PIDsSource = %v, want a *ControllerError", err)
	}
}

func TestPIDsSourceOfACgroupThatIsGone(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "web")
	wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
	_, err := PIDsSource(0, c, d)
	wantErr(t, "PIDsSource", err, cgroup.ErrGone)
}

// The limit of each level of a tree is told from those of the others, on kernels
// that count where the limit is and on those that count where the fork was.
func TestPIDsSource(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	for level, want := range []Whose{LimitOwn, LimitAncestor, LimitAncestor} {
		run := testDir(t)
		wantNil(t, "Enable", run.Enable("pids"))
		pool := child(t, run, "pool")
		wantNil(t, "Enable", pool.Enable("pids"))
		leaf := child(t, pool, "1.1")
		tree := []*cgroup.Dir{leaf, pool, run}
		wantNil(t, "Set", Set(tree[level], Limits{PIDsMax: 2}))
		before := PIDsHits(pool, run)
		forks(t, leaf)
		got, err := PIDsSource(before, leaf, pool, run)
		if err != nil || got.Whose != want || got.Level != level || got.Path != tree[level].Path() || got.Refused == 0 {
			t.Errorf("limit at level %d: PIDsSource = %+v, %v", level, got, err)
		}
		if got, err := PIDsSource(PIDsHits(pool, run), child(t, pool, "2.1"), pool, run); err != nil || got.Whose != LimitNone {
			t.Errorf("limit at level %d, a later neighbour: PIDsSource = %+v, %v", level, got, err)
		}
	}
}

// forks lets a shell in the cgroup fork more than two processes can.
func forks(t *testing.T, d *cgroup.Dir) {
	t.Helper()
	p := linuxtest.Command{Args: []string{"/bin/sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait"}, Cgroup: d.Path()}.Start(t)
	if status := p.Wait(t, waitTime); status.Exited() && status.ExitStatus() == 0 {
		t.Error("the shell could fork")
	}
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		members := linuxtest.Members(d.Path())
		return len(members) == 0, fmt.Sprint(members)
	})
}

func TestPIDsSourceBelow(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("pids"))
	inner := child(t, d, "inner")
	wantNil(t, "Set", Set(inner, Limits{PIDsMax: 2}))
	forks(t, inner)
	got, err := PIDsSource(0, d)
	_, old := d.ReadFile("pids.events.local")
	want := LimitBelow
	if old != nil {
		want = LimitAbove // such kernels do not tell
	}
	if err != nil || got.Whose != want || got.Refused == 0 {
		t.Errorf("PIDsSource = %+v, %v, want %v", got, err, want)
	}
}
