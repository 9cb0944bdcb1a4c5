package cgroup

import (
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// marked makes a child and labels it as package registry labels a run.
func marked(t testing.TB, d *Dir, name string) *Dir {
	t.Helper()
	run := child(t, d, name)
	wantNil(t, "SetXattr", run.SetXattr(runMark, []byte(name)))
	return run
}

func TestFindRootInsideARun(t *testing.T) {
	d := testDir(t)
	outer := marked(t, d, "run-a")
	leaf := child(t, child(t, outer, "job"), "0.1")
	inner := marked(t, leaf, "run-b")
	deep := child(t, child(t, inner, "job"), "0.1")
	other := child(t, d, "other")

	for _, test := range []struct {
		name, explicit, want string
		source               RootSource
	}{
		{"nothing said", "", deep.Path(), RootNested},
		{"the root that the runs were made in", d.Path(), deep.Path(), RootNested},
		{"the leaf that the inner run was made in", leaf.Path(), deep.Path(), RootNested},
		{"another place", other.Path(), other.Path(), RootFlag},
		{"the inner run itself", inner.Path(), inner.Path(), RootFlag},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantRoot(t, call(t, deep.Path(), "find-root", test.explicit), test.want, test.source)
		})
	}
	wantRoot(t, call(t, leaf.Path(), "find-root", ""), leaf.Path(), RootNested)
	wantRoot(t, call(t, deep.Path(), "find-top-root", ""), d.Path(), RootOuter)
	wantRoot(t, call(t, leaf.Path(), "find-top-root", ""), d.Path(), RootOuter)
	wantRoot(t, call(t, deep.Path(), "find-top-root", d.Path()), d.Path(), RootFlag)
}

// Another user than the one who owns the run can start nothing in it, and must not
// be sent to where it would escape.
func TestFindRootInsideARunOfAnotherUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	d := testDir(t)
	leaf := child(t, child(t, marked(t, d, "run-a"), "job"), "0.1")
	out := call(t, leaf.Path(), "as", "65534", "find-root", "")
	wantRefusal(t, out, "is: permission", "inside a run only the user who owns the run")
}
