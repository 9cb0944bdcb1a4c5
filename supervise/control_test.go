package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/resource"
)

// pids returns the processes of a pool's workers by slot.
func (r *rig) pids(pool string) map[int]int {
	all := map[int]int{}
	for _, w := range r.Status() {
		if w.Worker.Pool == pool {
			all[w.Worker.Slot] = w.PID
		}
	}
	return all
}

// ready waits until exactly these slots of the pool are there, all of them ready.
func (r *rig) ready(pool string, slots ...int) {
	r.Helper()
	linuxtest.Wait(r, patience, func() (bool, string) {
		var now []int
		for _, w := range r.Status() {
			if w.Worker.Pool != pool {
				continue
			}
			if now = append(now, w.Worker.Slot); !w.Ready || w.Leaving || w.Surge {
				return false, w.Worker.String() + " is " + w.State.String()
			}
		}
		return slices.Equal(now, slots), "not these workers"
	})
}

func only(args ...string) Selector {
	s, err := ParseSelector(args...)
	if err != nil {
		panic(err)
	}
	return s
}

func TestScaleUpAndDown(t *testing.T) {
	r := begin(t, sleeper("web", 2), sleeper("api", 1))
	r.ready("web", 0, 1)
	before := r.pids("web")
	if err := r.Scale(t.Context(), "web", 5); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2, 3, 4)
	_, leaf := r.members("web/4")
	if err := r.Scale(t.Context(), "web", 1); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0)
	linuxtest.CgroupGone(t, leaf, 0)
	if now := r.pids("web"); now[0] != before[0] {
		t.Errorf("web/0 is process %d after scaling, want %d as before", now[0], before[0])
	}
	for _, e := range r.await("stopped", 4, kind(EventStopped)) {
		if e.Reason != ReasonScale || e.Exit == nil || e.Exit.Signal != unix.SIGTERM {
			t.Errorf("%s for %v, want an end by TERM because of the scaling", eventText(e), e.Reason)
		}
	}
	if err := r.Scale(t.Context(), "web", 2); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1)
	for _, w := range r.Status() {
		if w.Worker.String() == "web/1" && w.Start != 2 {
			t.Errorf("web/1 is start %d, want 2: a leaf's name must not come again", w.Start)
		}
	}
	if err := r.Scale(t.Context(), "web", 0); err != nil {
		t.Fatal(err)
	}
	r.ready("web")
	r.ready("api", 0)
	for name, size := range map[string]int{"nobody": 1, "web": -1, "api": maxWorkers + 1} {
		if err := r.Scale(t.Context(), name, size); err == nil {
			t.Errorf("Scale(%s, %d) works, want an error", name, size)
		}
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if err := r.Scale(t.Context(), "web", 3); !errors.Is(err, ErrEnding) {
		t.Errorf("Scale() after the end = %v, want ErrEnding", err)
	}
}

// TestStopByCommandLasts: also when the worker was just being restarted. And the
// others do not care.
func TestStopByCommandLasts(t *testing.T) {
	r := begin(t, sleeper("web", 3))
	r.ready("web", 0, 1, 2)
	before := r.pids("web")
	r.kill(before[1], unix.SIGKILL)
	ids, err := r.Stop(t.Context(), only("web/1", "web/2"))
	if err != nil || !slices.Equal(ids, []WorkerID{{"web", 1}, {"web", 2}}) {
		t.Fatalf("Stop() = %v, %v; want web/1 and web/2", ids, err)
	}
	down := func() (bool, string) {
		for _, w := range r.Status()[1:] {
			if w.State != StateDown || !w.Stopped {
				return false, w.Worker.String() + " is " + w.State.String()
			}
		}
		return true, ""
	}
	linuxtest.Wait(t, patience, down)
	begun := len(r.all(kind(EventStarting)))
	if _, err := r.Stop(t.Context(), only("web/1")); err != nil {
		t.Error(err)
	}
	if ok, why := down(); !ok || len(r.all(kind(EventStarting))) != begun || r.pids("web")[0] != before[0] {
		t.Errorf("after a second stop %s, %d starts", why, len(r.all(kind(EventStarting)))-begun)
	}
	if _, err := r.Start(t.Context(), only("web/*")); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2)
	if now := r.pids("web"); now[0] != before[0] || now[2] == before[2] {
		t.Errorf("processes %v after the start, %v before; want web/0 untouched", now, before)
	}
	if _, err := r.Stop(t.Context(), only("api")); !errors.Is(err, ErrNoMatch) {
		t.Errorf("Stop(api) = %v, want ErrNoMatch", err)
	}
	// All stopped is not the end.
	if _, err := r.Kill(t.Context(), Everyone()); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { ok, why := down(); return ok && r.Status()[0].State == StateDown, why })
	if err := r.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Start(t.Context(), Everyone()); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2)
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestRestartIsSurgeFirst: at every moment as many workers are ready as the pool
// has, and there are never more than one too many.
func TestRestartIsSurgeFirst(t *testing.T) {
	const size = 3
	r := begin(t, sleeper("web", size))
	r.ready("web", 0, 1, 2)
	before := r.pids("web")
	begun, err := r.Restart(t.Context(), only("web"))
	if err != nil || len(begun) != 1 {
		t.Fatalf("Restart() = %v, %v; want one rollout", begun, err)
	}
	if err := begun[0].Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2)
	for n, pid := range r.pids("web") {
		if pid == before[n] {
			t.Errorf("web/%d is still process %d", n, pid)
		}
	}
	ready, most := 0, 0
	seen := false
	for _, e := range r.all(func(e Event) bool { return e.Worker.Slot >= 0 }) {
		switch {
		case e.Kind == EventReady:
			ready++
		case e.Kind == EventStopping:
			ready--
		}
		seen = seen || ready == size
		most = max(most, ready)
		if seen && ready < size {
			t.Errorf("only %d ready at %s", ready, eventText(e))
		}
	}
	if most != size+1 {
		t.Errorf("at most %d were ready, want %d", most, size+1)
	}
	if n := len(r.all(kind(EventStarting))); n != 2*size+1 {
		t.Errorf("%d starts, want each worker twice and one that stood in", n)
	}
	if _, leaf := r.members("web/0"); !strings.HasSuffix(leaf, "web/0.2") {
		t.Errorf("leaf of web/0 = %s, want that of its second start", leaf)
	}
}

// TestReloadThatFailsLeavesTheOldOnes: nobody who serves is touched.
func TestReloadThatFailsLeavesTheOldOnes(t *testing.T) {
	web, api := sleeper("web", 3), sleeper("api", 1)
	r := begin(t, web, api)
	r.ready("web", 0, 1, 2)
	r.ready("api", 0)
	before, other := r.pids("web"), r.pids("api")
	bad := sh("web", 3, "exit 7")
	bad.Readiness = rule(never)
	changes, err := r.Reload(t.Context(), []PoolSpec{bad, api})
	if err != nil || len(changes.Rolling) != 1 || len(changes.Scaled)+len(changes.Added)+len(changes.Removed)+len(changes.Updated) > 0 {
		t.Fatalf("Reload() = %+v, %v; want one rollout", changes, err)
	}
	var stopped *RolloutError
	if err := changes.Rolling[0].Wait(t.Context()); !errors.As(err, &stopped) || stopped.Worker != (WorkerID{"web", 3}) ||
		!strings.Contains(err.Error(), "web/3 did not become ready: readiness: exited (exit 7)") {
		t.Errorf("Wait() = %v, want a RolloutError about web/3", err)
	}
	r.ready("web", 0, 1, 2)
	r.ready("api", 0)
	if now := r.pids("web"); now[0] != before[0] || now[1] != before[1] || now[2] != before[2] || r.pids("api")[0] != other[0] {
		t.Errorf("processes %v after the failed reload, want %v", now, before)
	}
	// What failed is not in force: a crash brings the old one back, and so does more size.
	r.kill(before[1], unix.SIGKILL)
	if err := r.Scale(t.Context(), "web", 4); err != nil {
		t.Fatal(err)
	}
	r.ready("web", 0, 1, 2, 3)
	// The same again works as soon as it can.
	good := sh("web", 4, "exec sleep 601")
	changes, err = r.Reload(t.Context(), []PoolSpec{good, api})
	if err != nil || len(changes.Rolling) != 1 {
		t.Fatalf("Reload() = %+v, %v; want one rollout", changes, err)
	}
	if err := changes.Rolling[0].Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if changes, err = r.Reload(t.Context(), []PoolSpec{good, api}); err != nil || !changes.Empty() {
		t.Errorf("Reload() of the same = %+v, %v; want no change", changes, err)
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if got := r.Result(); got.NeverReady != 0 || got.GaveUp != 0 || got.FailedStarts != rolloutTries {
		t.Errorf("Result() = %+v: who stood in and failed is not there any more", got)
	}
}

func TestReloadAddsAndRemovesPools(t *testing.T) {
	web, api := sleeper("web", 2), sleeper("api", 2)
	r := begin(t, web, api)
	r.ready("web", 0, 1)
	r.ready("api", 0, 1)
	before := r.pids("web")
	web.Backoff.Min, web.Labels = time.Millisecond, map[string]string{"tier": "front"}
	db := sleeper("db", 1)
	changes, err := r.Reload(t.Context(), []PoolSpec{db, web})
	if err != nil || !slices.Equal(changes.Added, []string{"db"}) || !slices.Equal(changes.Removed, []string{"api"}) || !slices.Equal(changes.Updated, []string{"web"}) {
		t.Fatalf("Reload() = %+v, %v; want db added, api removed, web updated", changes, err)
	}
	r.await("removed", 1, kind(EventRemoved))
	r.ready("db", 0)
	if names, err := r.run.Dir().Children(); err != nil || !slices.Equal(names, []string{"db", "web"}) {
		t.Errorf("pools = %v, %v; want db and web", names, err)
	}
	if now := r.pids("web"); now[0] != before[0] || now[1] != before[1] {
		t.Errorf("processes of web %v, want %v: nothing of what they are was changed", now, before)
	}
	r.kill(before[0], unix.SIGKILL)
	if e := r.await("ready", 6, kind(EventReady)); e[5].Worker.String() != "web/0" {
		t.Errorf("%s, want web/0 again", eventText(e[5]))
	}
	if _, err := r.Stop(t.Context(), only("tier=fr*")); err != nil {
		t.Errorf("Stop by the new label: %v", err)
	}
	if changes, err = r.Reload(t.Context(), []PoolSpec{db, web, api}); err != nil || !slices.Equal(changes.Added, []string{"api"}) {
		t.Fatalf("Reload() = %+v, %v; want api added again", changes, err)
	}
	r.ready("api", 0, 1)
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestBadReloadTouchesNothing: what is refused, and what cannot be made.
func TestBadReloadTouchesNothing(t *testing.T) {
	web := sleeper("web", 2)
	r := begin(t, web)
	r.ready("web", 0, 1)
	before := r.pids("web")
	blocker, err := r.run.Dir().Create("zz")
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Close()
	other := sh("web", 5, "sleep 1")
	for what, specs := range map[string][]PoolSpec{
		"no command":             {other, {Name: "api", Size: 1}},
		"is there twice":         {other, web},
		"make pool zz":           {other, sleeper("new", 1), sleeper("zz", 1)},
		"which there is not":     {func() PoolSpec { p := web; p.After = []Dependency{{Pool: "db"}}; return p }()},
		"size 0 is not within 1": {func() PoolSpec { p := web; p.Size = 0; return p }()},
	} {
		if changes, err := r.Reload(t.Context(), specs); err == nil || !strings.Contains(err.Error(), what) || !changes.Empty() {
			t.Errorf("Reload() = %+v, %v; want an error with %q", changes, err, what)
		}
	}
	r.ready("web", 0, 1)
	if names, err := r.run.Dir().Children(); err != nil || !slices.Equal(names, []string{"web", "zz"}) {
		t.Errorf("pools = %v, %v; want web, and zz of the test", names, err)
	}
	if now := r.pids("web"); now[0] != before[0] || now[1] != before[1] || len(r.all(kind(EventRollout))) > 0 {
		t.Errorf("processes %v, want %v", now, before)
	}
	if err := r.run.Dir().RemoveChild("zz", 0); err != nil {
		t.Error(err)
	}
}

// TestPoolsComeAfterOthers, and go before them.
func TestPoolsComeAfterOthers(t *testing.T) {
	migrate := sh("migrate", 1, "exit 0")
	migrate.Restart = RestartOnFailure
	migrate.After = []Dependency{{Pool: "db", Until: UntilReady}}
	db := sleeper("db", 2)
	web := sleeper("web", 2)
	web.After = []Dependency{{Pool: "migrate", Until: UntilCompleted}, {Pool: "db", Until: UntilStarted}}
	r := begin(t, web, migrate, db)
	r.ready("web", 0, 1)
	var order []string
	for _, e := range r.all(kind(EventStarting)) {
		order = append(order, e.Worker.String())
	}
	slices.Sort(order[:2])
	slices.Sort(order[3:])
	if want := []string{"db/0", "db/1", "migrate/0", "web/0", "web/1"}; !slices.Equal(order, want) {
		t.Errorf("order of starts = %v, want %v", order, want)
	}
	completed := r.await("completed", 1, kind(EventCompleted))[0]
	if first := r.all(kind(EventStarting, "web/0"))[0]; first.Seq < completed.Seq {
		t.Errorf("%s before %s", eventText(first), eventText(completed))
	}
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	stopped := r.all(kind(EventStopped))
	if len(stopped) != 4 || stopped[0].Worker.Pool != "web" || stopped[1].Worker.Pool != "web" {
		t.Errorf("order of ends: %v, want web before db", stopped)
	}
	if stopping := r.all(kind(EventStopping, "db/0")); stopping[0].Seq < stopped[1].Seq {
		t.Errorf("%s before %s", eventText(stopping[0]), eventText(stopped[1]))
	}
}

// TestWaitingForWhatWillNotBe ends, and says why.
func TestWaitingForWhatWillNotBe(t *testing.T) {
	migrate := sh("migrate", 1, "exit 3")
	migrate.Restart = RestartNever
	web, last := sleeper("web", 1), sleeper("last", 1)
	web.After = []Dependency{{Pool: "migrate", Until: UntilCompleted}}
	last.After = []Dependency{{Pool: "web"}}
	r := begin(t, last, web, migrate)
	err := r.wait()
	var failed *PoolError
	if !errors.As(err, &failed) || len(failed.Workers) != 3 || !strings.Contains(err.Error(), "web/0 (waits for pool migrate to be completed, which will not be)") {
		t.Errorf("Run() = %v, want an error about migrate and who waits for it", err)
	}
	circle := web
	circle.After = []Dependency{{Pool: "last"}}
	if _, err := New(Options{Run: r.run, Pools: []PoolSpec{last, circle}}); err == nil || !strings.Contains(err.Error(), "last after web after last") {
		t.Errorf("New() = %v, want an error about the circle", err)
	}
}

func TestSelectors(t *testing.T) {
	labels := map[string]string{"env": "prod", "zone": "a-1"}
	id := WorkerID{"web", 3}
	for text, want := range map[string]bool{
		"web": true, "web/3": true, "web/4": false, "we*": true, "*/3": true, "*": true, "w?b/[0-3]": true, "api": false,
		"env=prod": true, "env=p*": true, "env=dev": false, "team=*": false, "web,zone=a-*": true, "web,zone=b-*": false, "api,env=prod": false,
	} {
		if got := only(text).Match(id, labels); got != want {
			t.Errorf("%q matches %v: %v, want %v", text, id, got, want)
		}
	}
	for text, want := range map[string]bool{"web": true, "web/*": true, "*": true, "*/*": true, "env=prod": true, "web/-1": false, "web/?1": false, "web/[!0]*1": false, "web/3": false} {
		if got := only(text).Match(WorkerID{"web", -1}, labels); got != want {
			t.Errorf("%q matches the whole pool: %v, want %v", text, got, want)
		}
	}
	if !only("api", "web/3").Match(id, labels) || only().Match(id, labels) || !Everyone().Match(id, nil) {
		t.Error("of several arguments one must do, and none means nobody")
	}
	for _, bad := range []string{"", "web,", "=x", "a/b/c", "web[", "env=["} {
		if _, err := ParseSelector(bad); err == nil {
			t.Errorf("ParseSelector(%q) works, want an error", bad)
		}
	}
}

// TestLimitsAreChangedLive: limits are changed while workers run, and who comes after
// has them, too.
func TestLimitsAreChangedLive(t *testing.T) {
	linuxtest.NeedCgroup2(t, "pids")
	p := sleeper("web", 2)
	p.Limits, p.PoolLimits = resource.Limits{PIDsMax: 20}, resource.Limits{PIDsMax: 100}
	r := begin(t, p)
	r.ready("web", 0, 1)
	before := r.pids("web")
	p.Limits, p.PoolLimits = resource.Limits{PIDsMax: 30}, resource.Limits{}
	changes, err := r.Reload(t.Context(), []PoolSpec{p})
	if err != nil || !slices.Equal(changes.Updated, []string{"web"}) || len(changes.Rolling) > 0 {
		t.Fatalf("Reload() = %+v, %v; want web updated", changes, err)
	}
	file := func(path, want string) {
		t.Helper()
		linuxtest.Wait(t, patience, func() (bool, string) {
			text, err := os.ReadFile(path + "/pids.max")
			return err == nil && strings.TrimSpace(string(text)) == want, path + " has not " + want
		})
	}
	_, leaf := r.members("web/1")
	file(leaf, "30")
	file(filepath.Dir(leaf), "max")
	r.kill(before[1], unix.SIGKILL)
	r.await("ready", 3, kind(EventReady))
	_, leaf = r.members("web/1")
	file(leaf, "30")
	if now := r.pids("web"); now[0] != before[0] {
		t.Errorf("web/0 is process %d, want %d as before", now[0], before[0])
	}
}

// gated is a rule that holds when the channel is closed.
type gated chan struct{}

func (g gated) Prepare(info StartInfo, out Output) (Attempt, error) {
	return rule(func(ctx context.Context, _ StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		select {
		case <-g:
			return ReadyInfo{}, nil
		case <-ctx.Done():
			return ReadyInfo{}, context.Cause(ctx)
		}
	}).Prepare(info, out)
}

// TestCommandsForWhoWaits: a pool that waits for others starts when they are there, with
// the size, and without those, that were asked for meanwhile.
func TestCommandsForWhoWaits(t *testing.T) {
	gate := make(gated)
	db, web := sleeper("db", 1), sleeper("web", 2)
	db.Readiness = gate
	web.After = []Dependency{{Pool: "db"}}
	r := begin(t, db, web)
	if e := r.await("waiting", 1, kind(EventWaiting))[0]; e.Worker != (WorkerID{"web", -1}) || e.Err.Error() != "waits for pool db to be ready" {
		t.Errorf("%s, want web to wait for db", eventText(e))
	}
	if _, err := r.Restart(t.Context(), only("web")); !errors.Is(err, ErrWaiting) {
		t.Errorf("Restart(web) = %v, want ErrWaiting", err)
	}
	if err := r.Scale(t.Context(), "web", 4); err != nil {
		t.Error(err)
	}
	if _, err := r.Stop(t.Context(), only("web/1", "web/3")); err != nil {
		t.Error(err)
	}
	if _, err := r.Start(t.Context(), only("web/3", "web/0")); err != nil {
		t.Error(err)
	}
	other := web
	other.Size, other.Command.Args = 4, []string{"sleep", "601"}
	if changes, err := r.Reload(t.Context(), []PoolSpec{db, other}); err != nil || len(changes.Rolling) != 1 {
		t.Errorf("Reload() = %+v, %v; want web changed", changes, err)
	}
	if got := r.all(kind(EventStarting)); len(got) != 1 {
		t.Errorf("started meanwhile: %v, want db alone", got)
	}
	close(gate)
	r.await("ready", 4, kind(EventReady))
	for _, w := range r.Status() {
		if down := w.Worker.String() == "web/1"; down != (w.State == StateDown) || w.Start > 1 {
			t.Errorf("%+v, want only web/1 down", w)
		}
	}
	// What an exec is given can be read a moment after the exec has succeeded.
	pid := r.pids("web")[3]
	linuxtest.Wait(t, patience, func() (bool, string) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && string(text) == "sleep\x00601\x00",
			fmt.Sprintf("web/3 runs %q, %v; want what the reload has brought", text, err)
	})
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
