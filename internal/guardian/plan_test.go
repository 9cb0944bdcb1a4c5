package guardian

import (
	"math"
	"testing"

	"github.com/pitvisor/pitvisor/internal/steps"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// Whatever descriptors the owner has free, the guardian keeps its three and no other.
func TestPlanClosesAllOthers(t *testing.T) {
	linuxtest.NoLeaks(t)
	type gap struct{ from, to uintptr }
	tests := []struct {
		place  place
		gaps   []gap
		lowest int
	}{
		{place{root: 3, kill: 7, owner: 5}, []gap{{0, 2}, {4, 4}, {6, 6}, {8, math.MaxUint32}}, 0},
		{place{root: 4, kill: 5, owner: 6}, []gap{{0, 3}, {7, math.MaxUint32}}, 0},
		{place{root: 0, kill: 1, owner: 2}, []gap{{3, math.MaxUint32}}, 3},
		{place{root: 9, kill: 0, owner: 2}, []gap{{1, 1}, {3, 8}, {10, math.MaxUint32}}, 1},
	}
	for _, test := range tests {
		p, err := newPlan(test.place)
		if err != nil {
			t.Fatal(err)
		}
		var gaps []gap
		opened := -1
		for _, s := range p.Steps() {
			switch s.Call {
			case unix.SYS_CLOSE_RANGE:
				gaps = append(gaps, gap{s.Args[0], s.Args[1]})
			case unix.SYS_PREAD64:
				opened = int(s.Args[0])
			}
		}
		linuxtest.Exactly(t, gaps, test.gaps...)
		if opened != test.lowest || int(p.mem.events.Fd) != test.lowest {
			t.Errorf("%+v: it reads %d and polls %d, want %d", test.place, opened, p.mem.events.Fd, test.lowest)
		}
		p.discard()
	}
}

// Names may be long and many: there is room for each.
func TestPlanHasRoom(t *testing.T) {
	linuxtest.NoLeaks(t)
	long := string(make([]byte, 255))
	at := place{root: 3, kill: 4, owner: 5, run: long}
	for range 50 {
		at.inner = append(at.inner, long)
		p, err := newPlan(at)
		if err != nil {
			t.Fatal(err)
		}
		last := &p.Steps()[len(p.Steps())-1]
		if last.Call != unix.SYS_EXIT_GROUP || last.Then != steps.Address(last) {
			t.Errorf("with %d names it ends with %+v", len(at.inner), *last)
		}
		p.discard()
	}
}
