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
	"github.com/pitvisor/pitvisor/spawn"
)

// TestH02PoolThatDidNotFullyStartIsAnError: nobody can overlook it.
func TestH02PoolThatDidNotFullyStartIsAnError(t *testing.T) {
	p := sh("web", 6, `test "$PITVISOR_SLOT" -lt 4 || { echo "slot $PITVISOR_SLOT is broken" >&2; exit 3; }; exec sleep 600`)
	p.Readiness = rule(becomesSleep)
	r := begin(t, p)
	r.await("ready", 4, kind(EventReady))
	r.await("failed", 4, kind(EventStartFailed))
	err := r.halt()
	var failed *PoolError
	if !errors.As(err, &failed) || len(failed.Workers) != 2 || !strings.Contains(err.Error(), "web/4") {
		t.Errorf("Run() = %v, want a PoolError that names web/4 and web/5", err)
	}
	if got := r.Result(); got.NeverReady != 2 || got.FailedStarts < 4 || got.Ready != 4 {
		t.Errorf("Result() = %+v, want 2 workers never ready", got)
	}
}

// TestH09FailureIsToldOncePerStartAndBacksOff: with cause, code and stderr.
func TestH09FailureIsToldOncePerStartAndBacksOff(t *testing.T) {
	tails := newTails(t)
	p := sh("web", 1, `echo "no module named grpc, start $PITVISOR_START" >&2; exit 3`)
	p.Readiness = rule(never)
	p.Backoff = Backoff{Min: 50 * time.Millisecond, Max: 800 * time.Millisecond, Free: 5}
	r := newRig(t, Options{Pools: []PoolSpec{p}, Output: tails.output})
	r.begin()
	failures := r.await("failures", 4, kind(EventStartFailed))
	// 50, 100, 200, 400 ms: whatever the machine does, more starts do not fit in.
	linuxtest.NoRestartStorm(t, time.Second, 4, func() int { return r.Result().Started })
	for i, e := range failures[:4] {
		f := e.Failure
		linuxtest.StartFails(t, linuxtest.Failure{Cause: f.Cause.String(), Code: f.Exit.Code, Stderr: f.Stderr},
			"exited", 3, fmt.Sprintf("^no module named grpc, start %d$", i+1))
		if f.Phase != PhaseReadiness || f.Elapsed <= 0 || e.Start != uint64(i+1) {
			t.Errorf("failure %d = %s", i, eventText(e))
		}
	}
	if err := r.halt(); err == nil {
		t.Error("Run() = nil, want an error")
	}
	tails.check(t)
}

// TestH15LateReadinessOfAnOldStartIsIgnored: a rule that does not obey its
// context, and says yes when the next start is under way.
func TestH15LateReadinessOfAnOldStartIsIgnored(t *testing.T) {
	for _, track := range []Track{TrackMain, TrackLeaf} {
		t.Run(track.String(), func(t *testing.T) { testLateReadiness(t, track) })
	}
}

func testLateReadiness(t *testing.T, track Track) {
	p := sh("web", 1, `test "$PITVISOR_START" = 1 && exit 5; exec sleep 600`)
	second, answered := make(chan struct{}), make(chan struct{})
	p.Readiness = rule(func(ctx context.Context, info StartInfo, _ *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		if info.Start == 1 {
			<-second
			defer close(answered)
			return ReadyInfo{Port: 1}, nil
		}
		close(second)
		<-answered
		<-ctx.Done()
		return ReadyInfo{}, context.Cause(ctx)
	})
	p.StartTimeout, p.Track = 500*time.Millisecond, track
	r := begin(t, p)
	failures := r.await("failures", 2, kind(EventStartFailed))
	if failures[0].Failure.Cause != CauseExited || failures[1].Failure.Cause != CauseTimeout || failures[1].Start != 2 {
		t.Errorf("failures = %v and %v; want exited, then timeout", failures[0].Failure, failures[1].Failure)
	}
	if ready := r.all(kind(EventReady)); len(ready) > 0 {
		t.Errorf("%s: the answer of start 1 was taken for another", eventText(ready[0]))
	}
	r.KillNow()
	_ = r.wait() // an error, since it never became ready
}

// TestH43CausesOfExecAreToldApart: missing, not executable, wrong format, missing
// interpreter, missing directory.
func TestH43CausesOfExecAreToldApart(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string]struct {
		path, dir string
		want      spawn.Cause
	}{
		"missing":     {filepath.Join(dir, "nothing"), "", spawn.CauseNotFound},
		"plain":       {file("plain", "#!/bin/sh\n", 0o644), "", spawn.CauseNotExecutable},
		"format":      {file("format", "\x00\x01\x02", 0o755), "", spawn.CauseBadFormat},
		"interpreter": {file("interpreter", "#!/no/such/interpreter\n", 0o755), "", spawn.CauseNoInterpreter},
		"dir":         {"/bin/true", filepath.Join(dir, "nowhere"), spawn.CauseBadDir},
	}
	var pools []PoolSpec
	for name, test := range tests {
		p := sh(name, 1, "")
		p.Command.Path, p.Command.Args, p.Command.Dir = test.path, nil, test.dir
		p.Restart = RestartNever
		pools = append(pools, p)
	}
	r := begin(t, pools...)
	if err := r.wait(); err == nil {
		t.Error("Run() = nil, want an error")
	}
	failures := r.all(kind(EventStartFailed))
	if len(failures) != len(tests) {
		t.Errorf("%d failures, want %d:\n%s", len(failures), len(tests), r.log())
	}
	for _, e := range failures {
		var err *spawn.Error
		want := tests[e.Worker.Pool].want
		if f := e.Failure; f.Phase != PhaseExec || f.Cause != CauseExec || !errors.As(f, &err) || err.Cause != want {
			t.Errorf("%v failed by %v, want %v", e.Worker, f, want)
		}
	}
}

func TestCausesOfReadinessAreToldApart(t *testing.T) {
	tails := newTails(t)
	pool := func(name, script string, ready rule) PoolSpec {
		p := sh(name, 1, "echo hello >&2;"+script)
		p.Readiness, p.Restart, p.StartTimeout = ready, RestartNever, patience
		return p
	}
	fails := func(err error) rule { // once the shell has said hello
		return func(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
			said := func() bool {
				exited, err := p.Exited()
				return exited || err != nil || statusField(p.PID(), "Name") == "sleep"
			}
			return ReadyInfo{}, errors.Join(poll(ctx, said), err)
		}
	}
	slow := pool("slow", "exec sleep 600", never)
	slow.StartTimeout = 3 * time.Second // until then it has said hello
	mute := pool("mute", "exec sleep 600", func(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
		err := p.Wait(context.WithoutCancel(ctx)) // it does not obey its own end
		return ReadyInfo{}, err
	})
	mute.StartTimeout = 100 * time.Millisecond
	// The rule sees the broken pipe before the supervisor sees the exit.
	first := pool("first", "exit 6", fails(errors.New("connection reset")))
	r := newRig(t, Options{Output: tails.output, Pools: []PoolSpec{
		pool("zero", "exit 0", never), pool("seven", "exit 7", never), pool("signal", "kill -KILL $$", never),
		slow, mute, first,
		pool("probe", "exec sleep 600", fails(errors.New("answered 503"))),
		pool("port", "exec sleep 600", fails(fmt.Errorf("look at port 80: %w", ErrPortTaken))),
	}})
	r.begin()
	if err := r.wait(); err == nil {
		t.Error("Run() = nil, want an error")
	}
	want := map[string]FailureCause{
		"zero": CauseExited, "seven": CauseExited, "signal": CauseSignaled, "slow": CauseTimeout,
		"mute": CauseTimeout, "first": CauseExited, "probe": CauseProbe, "port": CausePortTaken,
	}
	for _, e := range r.all(kind(EventStartFailed)) {
		f := e.Failure
		if f.Cause != want[e.Worker.Pool] || f.Phase != PhaseReadiness {
			t.Errorf("%v failed by %v, want %v", e.Worker, f, want[e.Worker.Pool])
		}
		if e.Worker.Pool != "mute" && !slices.Equal(f.Stderr, []string{"hello"}) {
			t.Errorf("stderr of %v = %q, want hello", e.Worker, f.Stderr)
		}
		delete(want, e.Worker.Pool)
	}
	if len(want) > 0 {
		t.Errorf("no failure of %v:\n%s", want, r.log())
	}
	tails.check(t)
}

// TestKillDuringReadiness: the exit is the truth, not what the rule saw of it.
func TestKillDuringReadiness(t *testing.T) {
	p := sleeper("web", 3)
	p.Readiness, p.Backoff = rule(never), Backoff{Min: time.Hour}
	r := begin(t, p)
	r.await("up", 3, kind(EventUp))
	for _, w := range r.Status() {
		r.kill(w.PID, unix.SIGKILL)
	}
	for _, e := range r.await("failed", 3, kind(EventStartFailed)) {
		if f := e.Failure; f.Cause != CauseSignaled || f.Exit == nil || f.Exit.Signal != unix.SIGKILL {
			t.Errorf("%v failed by %v, want the signal", e.Worker, f)
		}
	}
}

// TestKilledBeforeExecIsNeverReady: the clone succeeds, and yet the program has
// not run. The leaf is killed between its making and the spawn, which is deadly
// on kernels with that fault.
func TestKilledBeforeExecIsNeverReady(t *testing.T) {
	probed := sleeper("probed", 1)
	probed.Readiness = rule(never)
	plain := sleeper("plain", 1)
	plain.Restart, probed.Restart = RestartNever, RestartNever
	r := newRig(t, Options{Pools: []PoolSpec{probed, plain}, Output: func(info StartInfo) (Output, error) {
		leaf, err := cgroup.Open(info.Leaf)
		if err != nil {
			return Output{}, err
		}
		return Output{}, errors.Join(leaf.Kill(), leaf.Close())
	}})
	if !killedLeafKills(t) {
		linuxtest.Skip(t, "needs a kernel that kills what is cloned into a once-killed cgroup (6.14 to 7.2)")
	}
	r.begin()
	for _, e := range r.await("failed", 2, kind(EventStartFailed)) {
		f := e.Failure
		if f.Phase != PhaseExec || f.Cause != CauseExec || f.Exit == nil || !f.Exit.BeforeExec || f.Exit.Signal != unix.SIGKILL {
			t.Errorf("%v failed by %v, want a kill before the exec", e.Worker, f)
		}
	}
	if err := r.wait(); err == nil {
		t.Error("Run() = nil, want an error")
	}
	if got := r.Result(); got.Ready != 0 || got.FailedStarts != 2 {
		t.Errorf("Result() = %+v, want two failed starts", got)
	}
}

// killedLeafKills says whether this kernel has the fault.
func killedLeafKills(t *testing.T) bool {
	path := linuxtest.Cgroup(t)
	dir, err := cgroup.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := dir.Kill(); err != nil {
		t.Fatal(err)
	}
	p := linuxtest.Command{Args: []string{"/bin/true"}, Cgroup: path}.Start(t)
	return p.Wait(t, patience).Signaled()
}

// badRule cannot be prepared.
type badRule struct{}

func (badRule) Prepare(StartInfo, Output) (Attempt, error) { return nil, errors.New("no socket") }

func TestFailuresOfPreparation(t *testing.T) {
	bad := sleeper("bad", 1)
	bad.Readiness = badRule{}
	mute := sleeper("mute", 1)
	r := newRig(t, Options{Pools: []PoolSpec{bad, mute}, Output: func(info StartInfo) (Output, error) {
		if info.Worker.Pool == "mute" {
			return Output{}, unix.ENOSPC
		}
		return Output{}, nil
	}})
	r.begin()
	for _, e := range r.await("failed", 4, kind(EventStartFailed)) {
		want := CauseProbe
		if e.Worker.Pool == "mute" {
			want = CauseOutput
		}
		if f := e.Failure; f.Phase != PhasePrepare || f.Cause != want || f.Err == nil {
			t.Errorf("%v failed by %v, want %v", e.Worker, f, want)
		}
	}
	r.KillNow()
	_ = r.wait() // an error, of course
}

// TestH18NoRoomIsReportedAndRetried: a start for which the kernel has no room
// (here for its cgroup, EAGAIN) works as soon as it has.
func TestH18NoRoomIsReportedAndRetried(t *testing.T) {
	r := newRig(t, Options{Pools: []PoolSpec{sleeper("web", 5)}})
	limit := filepath.Join(r.run.Dir().Path(), "cgroup.max.descendants")
	set := func(n string) {
		if err := os.WriteFile(limit, []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set("4") // the pool and 3 workers
	r.begin()
	r.await("ready", 3, kind(EventReady))
	for _, e := range r.await("failed", 6, kind(EventStartFailed)) {
		if f := e.Failure; f.Cause != CauseLeaf || !errors.Is(f, unix.EAGAIN) {
			t.Errorf("%v failed by %v, want EAGAIN", e.Worker, f)
		}
	}
	set("max")
	r.await("ready", 5, kind(EventReady))
	if err := r.halt(); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

// TestH27StopDuringStartUpIsClean, at whatever moment.
func TestH27StopDuringStartUpIsClean(t *testing.T) {
	for _, after := range []int{0, 1, 3, 10, 25} {
		p := sleeper("web", 60)
		p.Readiness = rule(never)
		r := begin(t, p, sleeper("api", 20))
		r.await("up", after, kind(EventUp))
		if err := r.halt(); err != nil {
			t.Errorf("Run() = %v when stopped after %d were up, want nil", err, after)
		}
		for _, e := range r.all(kind(EventStartFailed)) {
			if e.Failure.Cause != CauseCanceled {
				t.Errorf("after %d: %s, want canceled", after, eventText(e))
			}
		}
		if got := r.Result(); got.FailedStarts != 0 || got.NeverReady != 0 {
			t.Errorf("Result() = %+v, want no failure", got)
		}
		linuxtest.NoProcessesLeft(t, r.registry.Root().Path())
	}
}

// becomesSleep is ready when the worker has become sleep.
func becomesSleep(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
	return ReadyInfo{}, poll(ctx, func() bool { return statusField(p.PID(), "Name") == "sleep" })
}
