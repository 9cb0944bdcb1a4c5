package spawn

import (
	"context"
	"errors"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// poisonResult is what poisonMode has seen.
type poisonResult struct {
	Healthy, InKilled, AfterMove bool // what Poisoned said
	KilledLeaf, FromKilled, Last Exit // of starts into a killed leaf, from a killed cgroup, and at the end
	Children                     []string
	Zombie                       bool
}

// poisonMode plays the supervisor in a once-killed cgroup.
func poisonMode(args []string) int {
	var got poisonResult
	p := poisoner{program: args[1]}
	p.root, p.err = cgroup.Open(args[0])
	killed, sick := p.leaf("killed"), p.leaf("sick")
	p.kill(killed)
	p.kill(sick)
	got.Healthy = p.poisoned()
	got.KilledLeaf = p.run(killed)
	p.move(sick)
	got.InKilled = p.poisoned()
	got.FromKilled = p.run(p.leaf("from-killed"))
	p.move(p.leaf("cure"))
	got.AfterMove = p.poisoned()
	got.Last = p.run(p.leaf("last"))
	if p.err == nil {
		got.Children, p.err = p.root.Children()
	}
	if p.err != nil {
		return complain(p.err)
	}
	_, err := waitAny(unix.WNOWAIT)
	got.Zombie = err != unix.ECHILD
	return printResult(got)
}

// poisoner does nothing more after its first error.
type poisoner struct {
	root    *cgroup.Dir
	program string
	err     error
}

func (p *poisoner) leaf(name string) *cgroup.Dir {
	if p.err != nil {
		return nil
	}
	var leaf *cgroup.Dir
	leaf, p.err = p.root.Create(name)
	return leaf
}

func (p *poisoner) kill(d *cgroup.Dir) {
	if p.err == nil {
		p.err = d.Kill()
	}
}

func (p *poisoner) move(d *cgroup.Dir) {
	if p.err == nil {
		p.err = d.MoveSelf()
	}
}

func (p *poisoner) poisoned() (poisoned bool) {
	if p.err == nil {
		poisoned, p.err = Poisoned(p.root)
	}
	return poisoned
}

func (p *poisoner) run(leaf *cgroup.Dir) (exit Exit) {
	if p.err != nil {
		return exit
	}
	var process *Process
	process, p.err = Start(&Cmd{Path: p.program, Leaf: leaf})
	if p.err == nil {
		exit, p.err = process.Wait(context.Background())
		p.err = errors.Join(p.err, process.Close())
	}
	return exit
}

// Row 17 of the targets: a kernel that kills whatever is started in a cgroup that
// was once killed, or from one.
func TestPoisonedCgroup(t *testing.T) {
	var got poisonResult
	inProcess(t, linuxtest.Command{}, &got, "poison", linuxtest.Cgroup(t), tinyProgram(t))
	if got.Healthy {
		t.Error("poisoned in a fresh cgroup")
	}
	if got.AfterMove || !got.Last.Success() {
		t.Errorf("in the fresh cgroup again: poisoned %v, %v", got.AfterMove, got.Last)
	}
	if got.Zombie {
		t.Error("a zombie is left")
	}
	if want := 5; len(got.Children) != want { // those of poisonMode itself
		t.Errorf("cgroups left: %q", got.Children)
	}
	if got.KilledLeaf.Success() && got.FromKilled.Success() && !got.InKilled {
		linuxtest.Skip(t, "needs a kernel with the cgroup.kill bug (6.14 to 7.2)")
	}
	if !got.InKilled {
		t.Error("not poisoned in a once-killed cgroup")
	}
	for name, exit := range map[string]Exit{"into a killed leaf": got.KilledLeaf, "from a killed cgroup": got.FromKilled} {
		if exit.Signal != unix.SIGKILL || !exit.BeforeExec {
			t.Errorf("started %s: %v, want killed before exec", name, exit)
		}
	}
}

func TestPoisonedRefusesAFrozenCgroup(t *testing.T) {
	linuxtest.NoLeaks(t)
	root := testRoot(t)
	if err := root.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if poisoned, err := Poisoned(root); err == nil || poisoned {
		t.Errorf("Poisoned = %v, %v, want an error", poisoned, err)
	}
	if err := root.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if poisoned, err := Poisoned(root); err != nil || poisoned {
		t.Errorf("Poisoned = %v, %v, want false", poisoned, err)
	}
	if children, err := root.Children(); err != nil || len(children) != 0 {
		t.Errorf("left: %q, %v", children, err)
	}
}

// H-01 for a held worker: its number goes to a stranger after it was reaped.
func TestH01SignalOfAReapedProcessTouchesNobody(t *testing.T) {
	c := command(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf")}, "run")
	p := start(t, &c)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	stranger := linuxtest.ReusePID(t, p.PID(), linuxtest.Helper(t, "run")...)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := p.Signal(sig); err == nil {
			t.Errorf("Signal(%v) found somebody", sig)
		}
	}
	if exit, err := p.Reap(); err != nil || exit.Signal != unix.SIGKILL {
		t.Errorf("Reap = %v, %v", exit, err)
	}
	if !stranger.Alive() {
		t.Error("the stranger died")
	}
}

// TestPoisonedBesideSweeps: whoever tidies up, as a sweep does, takes the empty cgroup away now
// and then before it is opened and locked.
func TestPoisonedBesideSweeps(t *testing.T) {
	root, err := cgroup.Open(linuxtest.Cgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		removed := 0
		for ctx.Err() == nil {
			removed += tidy(root)
		}
		ended <- removed
	}()
	for range linuxtest.Times(1000, 100) {
		if poisoned, err := Poisoned(root); err != nil || poisoned {
			t.Errorf("Poisoned() = %v, %v, want that starts work", poisoned, err)
			break
		}
	}
	cancel()
	t.Logf("%d were taken away", <-ended)
}

// tidy removes the cgroups in root that nobody has locked.
func tidy(root *cgroup.Dir) (removed int) {
	names, _ := root.Children()
	for _, name := range names {
		dir, err := root.OpenChild(name)
		if err != nil {
			continue // gone already
		}
		if there, err := dir.Exists(); dir.Lock() == nil && err == nil && there && root.RemoveChild(name, dir.ID()) == nil {
			removed++
		}
		_ = dir.Close()
	}
	return removed
}
