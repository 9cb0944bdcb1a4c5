package cgroup

import (
	"slices"
	"testing"
)

// TestGuests: who is in a cgroup of a guest, or below one, is no resident.
func TestGuests(t *testing.T) {
	leaf := testDir(t)
	own := child(t, leaf, "own")
	guest := child(t, leaf, GuestPrefix+"1")
	below := child(t, guest, "below")
	nested := child(t, own, GuestPrefix+"x") // a name that the worker itself has chosen
	var want []int
	for dir, resident := range map[*Dir]bool{leaf: true, own: true, nested: true, guest: false, below: false} {
		pid := sleeper(t, dir).PID()
		if resident {
			want = append(want, pid)
		}
		if in, err := leaf.Houses(dir.ID()); in != resident || err != nil {
			t.Errorf("%s houses %s: %v, %v, want %v", leaf.Path(), dir.Path(), in, err, resident)
		}
	}
	got, err := leaf.Residents()
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("residents %v, %v, want %v", got, err, want)
	}
	if all, err := leaf.PIDsRecursive(); len(all) != 5 || err != nil {
		t.Errorf("all %v, %v", all, err)
	}
}
