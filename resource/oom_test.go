package resource

import (
	"errors"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestWhoseLimitItWas(t *testing.T) {
	for _, test := range []struct {
		name   string
		counts []oomCounts // hits, own hits, kills; the leaf first
		want   OOM
	}{
		{"nothing happened", []oomCounts{{0, 0, 0, 0}, {1, 0, 0, 0}}, OOM{0, Hit{LimitNone, -1, "", true}}},
		{"others were killed", []oomCounts{{0, 0, 0, 0}, {1, 1, 1, 3}}, OOM{0, Hit{LimitNone, -1, "", true}}},
		{"a hit without a kill", []oomCounts{{0, 1, 1, 0}}, OOM{0, Hit{LimitNone, -1, "", true}}},
		{"the leaf's own", []oomCounts{{0, 1, 1, 1}, {1, 1, 0, 1}}, OOM{1, Hit{LimitOwn, 0, "", true}}},
		{"the leaf's own, and the pool's before", []oomCounts{{0, 1, 1, 2}, {1, 4, 3, 9}}, OOM{2, Hit{LimitOwn, 0, "", true}}},
		{"below the leaf", []oomCounts{{0, 1, 0, 1}, {1, 1, 0, 1}}, OOM{1, Hit{LimitBelow, 0, "", true}}},
		{"the pool's", []oomCounts{{0, 0, 0, 3}, {1, 1, 1, 3}, {2, 1, 0, 3}}, OOM{3, Hit{LimitAncestor, 1, "", true}}},
		{"the run's", []oomCounts{{0, 0, 0, 1}, {1, 0, 0, 1}, {2, 1, 1, 1}}, OOM{1, Hit{LimitAncestor, 2, "", true}}},
		{"the pool's, or only others'", []oomCounts{{0, 0, 0, 1}, {1, 2, 2, 2}}, OOM{1, Hit{LimitAncestor, 1, "", false}}},
		{"the host's", []oomCounts{{0, 0, 0, 1}, {1, 0, 0, 1}, {2, 0, 0, 7}}, OOM{1, Hit{LimitAbove, -1, "", true}}},
		{"the pool stands for a leaf without memory", []oomCounts{{1, 1, 1, 1}, {2, 1, 0, 1}}, OOM{1, Hit{LimitAncestor, 1, "", true}}},
		{"no ancestors", []oomCounts{{0, 0, 0, 1}}, OOM{1, Hit{LimitAbove, -1, "", true}}},
	} {
		if got := whose(test.counts); got != test.want {
			t.Errorf("%s: whose(%+v) = %+v, want %+v", test.name, test.counts, got, test.want)
		}
	}
}

func TestOOMInWords(t *testing.T) {
	for want, o := range map[string]OOM{
		"no kill for want of memory":                 {},
		"1 kill for want of memory, limit of /job/1": {Kills: 1, Hit: Hit{Whose: LimitOwn, Path: "/job/1", Sure: true}},
		"2 kills for want of memory, limit of /job":  {Kills: 2, Hit: Hit{Whose: LimitAncestor, Path: "/job", Sure: true}},
		"2 kills for want of memory, limit of /job, as far as can be told: others were killed there too": {Kills: 2, Hit: Hit{Whose: LimitAncestor, Path: "/job"}},
		"1 kill for want of memory, limit of a cgroup below /job":                                        {Kills: 1, Hit: Hit{Whose: LimitBelow, Path: "/job", Sure: true}},
		"1 kill for want of memory, which the host had not, or for a limit further up":                   {Kills: 1, Hit: Hit{Whose: LimitAbove, Sure: true}},
	} {
		if got := o.String(); got != want {
			t.Errorf("String of %+v = %q, want %q", o, got, want)
		}
	}
}

func TestOOMSourceWithoutTheController(t *testing.T) {
	d := child(t, testDir(t), "bare") // nothing is handed down to it
	_, err := OOMSource(d)
	var missing *cgroup.ControllerError
	if !errors.As(err, &missing) || missing.Controller != "memory" || missing.Path != d.Path() {
		t.Errorf("OOMSource = %v, want a *ControllerError", err)
	}
}

func TestOOMSourceOfACgroupThatIsGone(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "web")
	wantNil(t, "RemoveChild", d.RemoveChild("web", c.ID()))
	_, err := OOMSource(c, d)
	wantErr(t, "OOMSource", err, cgroup.ErrGone)
}

// The limit of each level of a tree is told from those of the others.
func TestOOMSource(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	for level, want := range []Whose{LimitOwn, LimitAncestor, LimitAncestor} {
		run := testDir(t)
		wantNil(t, "Enable", run.Enable("memory"))
		pool := child(t, run, "pool")
		wantNil(t, "Enable", pool.Enable("memory"))
		leaf := child(t, pool, "1.1")
		tree := []*cgroup.Dir{leaf, pool, run}
		wantNil(t, "Set", Set(tree[level], Limits{MemoryMax: 32 << 20}))
		linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "256"), Cgroup: leaf.Path()}.Start(t).Wait(t, waitTime)

		got, err := OOMSource(leaf, pool, run)
		if err != nil || got.Whose != want || got.Level != level || got.Path != tree[level].Path() || got.Kills != 1 || !got.Sure {
			t.Errorf("limit at level %d: OOMSource = %+v, %v", level, got, err)
		}
		if level == 0 {
			continue
		}
		// Seen from the pool, the kill was below; from a worker without a kill, there was none.
		if got, err := OOMSource(child(t, pool, "2.1"), pool, run); err != nil || got.Whose != LimitNone {
			t.Errorf("limit at level %d, the neighbour: OOMSource = %+v, %v", level, got, err)
		}
	}
}

func TestOOMSourceBelow(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory")
	d := testDir(t)
	wantNil(t, "Enable", d.Enable("memory"))
	inner := child(t, d, "inner")
	wantNil(t, "Set", Set(inner, Limits{MemoryMax: 32 << 20, OOMGroup: true}))
	linuxtest.Command{Args: linuxtest.Helper(t, "alloc", "256"), Cgroup: inner.Path()}.Start(t).Wait(t, waitTime)
	if got, err := OOMSource(d); err != nil || got.Whose != LimitBelow || got.Kills == 0 {
		t.Errorf("OOMSource = %+v, %v, want one below", got, err)
	}
	r := receipt(t, d)
	if r.OOMHits == nil || *r.OOMHits == 0 || *r.OOMHitsOwn != 0 || *r.OOMKills == 0 || *r.OOMKillsOwn != 0 {
		t.Errorf("receipt = %+v, want hits and kills below and none here", r)
	}
	if r.OOMGroupKills != nil && *r.OOMGroupKills != 1 {
		t.Errorf("OOMGroupKills = %d, want 1", *r.OOMGroupKills)
	}
}
