package main

import (
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// crashes is how often a supervisor is killed in tests that say nothing else: few times,
// because each start waits for its pools, or what -cycles says.
func crashes(few int) int {
	n := linuxtest.Times(few, min(few, 3))
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "cycles" {
			n = *cycles
		}
	})
	return n
}

// instants returns what waits for a random moment of a life, again and again.
func instants(t *testing.T, n int, life time.Duration) (await func()) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d cycles", seed, n)
	rnd := rand.New(rand.NewPCG(seed, 0))
	if linuxtest.Emulated() {
		life *= 10 // or each would be killed before it did anything
	}
	return func() {
		instant := time.NewTimer(time.Duration(rnd.Int64N(int64(life))))
		<-instant.C
	}
}

// wreck is what was there right after a supervisor was killed.
type wreck struct {
	w       *world
	groups  []string // directories of cgroups, at any depth
	frozen  int      // how many of them somebody had frozen
	members []linuxtest.Identity
}

// crash kills the supervisor and looks at what it leaves.
func (u *upProc) crash(w *world) *wreck {
	w.tb.Helper()
	u.kill()
	return w.wreck()
}

// wreck looks at what a supervisor has left that was just killed. Nobody starts or ends
// anything then, but the workers themselves.
func (w *world) wreck() *wreck {
	w.tb.Helper()
	left := &wreck{w: w, members: linuxtest.Identities(w.root)}
	err := filepath.WalkDir(w.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || path == w.root {
			return err
		}
		left.groups = append(left.groups, path)
		state, err := os.ReadFile(filepath.Join(path, "cgroup.freeze"))
		if strings.TrimSpace(string(state)) == "1" {
			left.frozen++
		}
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return left
}

// isGone requires that nothing of it is left: no cgroup, and of the processes none, by
// identity and not by number.
func (left *wreck) isGone() {
	tb := left.w.tb
	tb.Helper()
	linuxtest.Wait(tb, patience, func() (bool, string) {
		for _, dir := range left.groups {
			if _, err := os.Lstat(dir); err == nil {
				return false, "still there: cgroup " + dir
			}
		}
		return true, ""
	})
	// A process is out of its cgroup a moment before its pidfd tells.
	linuxtest.Wait(tb, patience, func() (bool, string) {
		for _, old := range left.members {
			if now, alive := linuxtest.Identify(old.PID); alive && now == old {
				return false, fmt.Sprintf("still alive: process %d, started at %d", old.PID, old.Start)
			}
		}
		return true, ""
	})
}

// underWay is what goes on when a supervisor is killed.
type underWay struct {
	config func(cycle int) string // of the supervisor that is killed in this cycle
	ready  []string               // its workers
	begin  func(u *upProc, cycle int) verdict
	life   time.Duration // the kill comes at a random moment of it, from ready on
}

// verdict is what is to be seen of something that a crash came into; each may be nil.
type verdict struct {
	crashed func(left *wreck)  // right after it, while nobody has swept or started anything
	gone    func(next *upProc) // when all is swept, and the next one's workers are ready
}

// crash kills a supervisor while something goes on, and starts another one, again and
// again. Nothing of any is left, what is none of its own lives, and the next one's pools
// are complete.
func (s *underWay) crash(t *testing.T, w *world, few int) {
	t.Helper()
	n := crashes(few)
	await := instants(t, n, s.life)
	linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}})
	linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}, Cgroup: linuxtest.Cgroup(t)})
	u := w.up(w.config(s.config(0)))
	u.ready(s.ready...)
	for cycle := range n {
		v := s.begin(u, cycle)
		await()
		left := u.crash(w)
		if len(left.members) < len(s.ready)/2 {
			t.Errorf("cycle %d: %d processes outlived the supervisor, want most of %d workers", cycle, len(left.members), len(s.ready))
		}
		if v.crashed != nil {
			v.crashed(left)
		}
		config := w.config(s.config(cycle + 1))
		u = w.recover(cycle, config)
		u.ready(s.ready...)
		left.isGone()
		w.hasOneRun(left)
		if v.gone != nil {
			v.gone(u)
		}
		if t.Failed() {
			t.Fatalf("in cycle %d", cycle)
		}
	}
	u.ends(w)
}

// recover starts the next supervisor, which has to sweep alone, nothing, or beside another
// one that sweeps, in turn: whatever the number of cycles, one is alone with it.
func (w *world) recover(cycle int, config string) *upProc {
	w.tb.Helper()
	if cycle%3 == 1 {
		w.sweepsAll()
	}
	u := w.up(config)
	if cycle%3 == 2 {
		if out, stderr, code := w.tool("sweep"); code != exitOK {
			w.tb.Errorf("sweep beside a start = %d\n%s%s", code, out, stderr)
		}
	}
	return u
}

// sweepsAll sweeps by hand, and requires that this was all.
func (w *world) sweepsAll() {
	w.tb.Helper()
	if out, stderr, code := w.tool("sweep"); code != exitOK {
		w.tb.Errorf("sweep = %d\n%s%s", code, out, stderr)
	}
	w.assertEmpty()
}

// hasOneRun requires that there is one run and no other, and that it is not one of those
// that were left. All its workers are as they should be, and were left alone.
func (w *world) hasOneRun(left *wreck) {
	w.tb.Helper()
	groups := w.groups()
	if len(groups) != 1 || slices.Contains(left.groups, filepath.Join(w.root, groups[0])) {
		w.tb.Errorf("below the root are %v, want one run that is new", groups)
	}
	if out, stderr, code := w.tool("status"); code != exitOK {
		w.tb.Errorf("status of the next one = %d\n%s%s", code, out, stderr)
	}
	s, err := w.client().Status(bounded(w.tb))
	if err != nil {
		w.tb.Fatal(err)
	}
	for i := range s.Workers {
		if x := &s.Workers[i]; x.Start != 1 || x.Frozen {
			w.tb.Errorf("somebody touched a worker of the next one: %+v", x)
		}
	}
}
