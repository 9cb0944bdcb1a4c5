package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestGroupsNamesPopulatedCgroups(t *testing.T) {
	d := testDir(t)
	a := child(t, d, "a")
	child(t, d, "empty")
	b := child(t, a, "b")
	c := child(t, b, "c")
	top, inA, inC := sleeper(t, d), sleeper(t, a), sleeper(t, c)
	var got, want []string
	if err := d.Groups(func(g Group) { got = append(got, fmt.Sprint(g.Path, " ", g.ID, " ", g.PIDs)) }); err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		path string
		dir  *Dir
		pid  int
	}{{"", d, top.PID()}, {"a", a, inA.PID()}, {"a/b/c", c, inC.PID()}} {
		want = append(want, fmt.Sprintf("%s %d [%d]", w.path, w.dir.ID(), w.pid))
	}
	if !slices.Equal(got, want) {
		t.Errorf("Groups = %q, want %q", got, want)
	}
}

func TestGroupsOfAnEmptyTreeIsTheTop(t *testing.T) {
	d := testDir(t)
	child(t, d, "a")
	var got []Group
	if err := d.Groups(func(g Group) { got = append(got, g) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Path != "" || got[0].ID != d.ID() || len(got[0].PIDs) != 0 {
		t.Errorf("Groups = %+v, want the top alone", got)
	}
}

func TestGroupsOfARemovedCgroup(t *testing.T) {
	d := testDir(t)
	gone := child(t, d, "gone")
	if err := d.RemoveChild("gone", 0); err != nil {
		t.Fatal(err)
	}
	if err := gone.Groups(func(Group) {}); !errors.Is(err, ErrGone) {
		t.Errorf("Groups of a removed cgroup = %v, want ErrGone", err)
	}
}

// A path is for people; one of a megabyte is for nobody.
func TestPathOfIsBounded(t *testing.T) {
	way := make([]level, 10_000)
	for i := range way {
		way[i].name = strings.Repeat("x", 100)
	}
	if got := pathOf(way); len(got) > maxGroupPath+len("/...") || !strings.HasSuffix(got, "x/...") {
		t.Errorf("pathOf a deep tree has %d bytes and ends in %q", len(got), got[max(0, len(got)-10):])
	}
	if got := pathOf(way[:3]); got != way[1].name+"/"+way[2].name {
		t.Errorf("pathOf = %q", got)
	}
}
