package cgroup

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// holds prints whether the caller or an ancestor is in d, and whether the short way
// to the answer was good for it.
func holds(d *Dir) error {
	held, err := d.HoldsSelf()
	if err != nil {
		return err
	}
	_, known := d.holdsAny(ownLine())
	fmt.Printf("held: %v\nknown: %v\n", held, known)
	return nil
}

func TestHoldsSelfAboveOtherCgroups(t *testing.T) {
	d := testDir(t)
	mine, elsewhere := child(t, d, "mine"), child(t, d, "elsewhere")
	pool := child(t, mine, "pool")
	leaf := child(t, pool, "leaf")
	sleeper(t, child(t, pool, "other"))
	wantHolds(t, map[string]holding{
		"inside":             {call(t, leaf.Path(), "holds", mine.Path()), "true", "true"},
		"in it, not below":   {call(t, mine.Path(), "holds", mine.Path()), "true", "true"},
		"outside":            {call(t, elsewhere.Path(), "holds", mine.Path()), "false", "true"},
		"parent's parent in": {call(t, leaf.Path(), "child", elsewhere.Path(), "child", elsewhere.Path(), "holds", mine.Path()), "true", "true"},
	})
}

// Nothing above the bind mount is to be seen there, so what /proc says leads nowhere.
func TestHoldsSelfInABindMount(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	d := testDir(t)
	mine, elsewhere := child(t, d, "mine"), child(t, d, "elsewhere")
	leaf := child(t, mine, "leaf")
	m, err := FindMount()
	if err != nil {
		t.Fatal(err)
	}
	wantHolds(t, map[string]holding{
		"bind mount, inside":  {call(t, leaf.Path(), "mounts", "bind", mine.Path(), "holds", m.Path), "true", "false"},
		"bind mount, outside": {call(t, elsewhere.Path(), "mounts", "bind", mine.Path(), "holds", m.Path), "false", "false"},
	})
}

// holding is what a process said of a cgroup, and what it should have said.
type holding struct{ got, held, known string }

func wantHolds(t *testing.T, table map[string]holding) {
	t.Helper()
	for name, c := range table {
		if held, known := field(c.got, "held"), field(c.got, "known"); held != c.held || known != c.known {
			t.Errorf("%s: held %q, known %q, want %s, %s (%s)", name, held, known, c.held, c.known, c.got)
		}
	}
}

// What is not where /proc says it is, is not taken for known.
func TestOnTheWayLooksForTheProcess(t *testing.T) {
	d := testDir(t)
	web, other := child(t, d, "web"), child(t, d, "other")
	p := sleeper(t, web)
	top, err := d.top()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(top)
	name, ok := cgroupOf(p.PID())
	if !ok {
		t.Fatalf("cgroupOf(%d): not known", p.PID())
	}
	if held, known := web.onTheWay(top, name, p.PID()); !held || !known {
		t.Errorf("onTheWay = %v, %v, want true, true", held, known)
	}
	if held, known := other.onTheWay(top, name, p.PID()); held || !known {
		t.Errorf("onTheWay of another cgroup = %v, %v, want false, true", held, known)
	}
	if _, known := web.onTheWay(top, name, unix.Getpid()); known {
		t.Errorf("onTheWay of a process that is elsewhere is known, want unknown")
	}
	if _, known := web.onTheWay(top, name+"/gone", p.PID()); known {
		t.Errorf("onTheWay to a cgroup that is not there is known, want unknown")
	}
}
