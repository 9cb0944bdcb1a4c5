package registry

import (
	"errors"
	"slices"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// The root is delegated to us and hands nothing down by itself: what is enabled in
// the run alone has no effect, or is refused.
func TestEnableReachesTheCgroupsOfTheRun(t *testing.T) {
	linuxtest.NeedCgroup2(t, "hugetlb") // the one that hosts with cgroup v1 have, too
	r := newRoot(t)
	run, err := r.Create(Spec{Kind: "test", Name: "limits", Version: "0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Enable("hugetlb"); err != nil {
		t.Fatal(err)
	}
	pool, err := run.Dir().Create("web")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close() }() // only asked
	if have, err := pool.Controllers(); !slices.Equal(have, []string{"hugetlb"}) || err != nil {
		t.Errorf("controllers of the pool = %q, %v, want hugetlb", have, err)
	}
	var missing *cgroup.ControllerError
	if err := run.Enable("none"); !errors.As(err, &missing) || missing.Path != r.Root().Path() {
		t.Errorf("Enable(none) = %v, want a ControllerError that names the root", err)
	}
	if err := run.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
