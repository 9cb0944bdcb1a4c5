package spawn

import (
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// TestExecuted tells a child that runs its program, or has run it, from one that
// was killed before: its leaf had been killed once.
func TestExecuted(t *testing.T) {
	linuxtest.NoLeaks(t)
	root := testRoot(t)
	leaf := newLeaf(t, root, "fresh")
	for range 50 {
		ran := start(t, &Cmd{Path: "/bin/true", Leaf: leaf})
		if !ran.Executed() {
			t.Error("Executed() of /bin/true = false, want true")
		}
		exit := wait(t, ran)
		if exit.BeforeExec || !ran.Executed() {
			t.Errorf("exit %+v of /bin/true, Executed() = %v afterwards", exit, ran.Executed())
		}
	}
	leaf = newLeaf(t, root, "killed")
	if err := leaf.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		p := start(t, &Cmd{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Leaf: leaf})
		executed := p.Executed()
		if executed {
			_ = p.Signal(unix.SIGTERM) // for a kernel without that fault; others have killed it
		}
		exit := wait(t, p)
		if killed := exit.Signal == unix.SIGKILL; killed == executed || killed != exit.BeforeExec {
			t.Errorf("Executed() = %v, but the exit is %+v", executed, exit)
		}
	}
}
