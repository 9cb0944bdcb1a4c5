package probe

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

// liveRig is a worker with a vigil over it.
type liveRig struct {
	*rig
	vigil supervise.Vigil
}

const beat = 30 * time.Millisecond

// watchOver makes the vigil and starts a worker that sits, or runs argv.
func watchOver(t *testing.T, l Live, d Deps, out supervise.Output, argv ...string) *liveRig {
	t.Helper()
	r := &liveRig{rig: place(t)}
	l.Period = beat
	lv, err := NewLive(l, d)
	if err != nil {
		t.Fatal(err)
	}
	if r.vigil, err = lv.Prepare(r.info, out); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.vigil.Close(); err != nil {
			t.Error(err)
		}
	})
	if argv == nil {
		argv = linuxtest.Helper(t, "sit")
	}
	r.start(nil, argv...)
	return r
}

// watch lets the vigil watch; the returned function waits for what it says.
func (r *liveRig) watch(ready supervise.ReadyInfo) (stop context.CancelFunc, end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.vigil.Watch(ctx, r.main, r.leaf, ready) }()
	r.t.Cleanup(cancel)
	return cancel, func() error {
		r.t.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			r.t.Fatal("Watch does not return")
			return nil
		}
	}
}

// unwell requires that the vigil ends because a rule failed so many times in a row.
func unwell(t *testing.T, err error, checks int, want string) {
	t.Helper()
	var e *UnwellError
	if !errors.As(err, &e) || e.Checks != checks || !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("Watch() = %v, want %d failures and a match of %q", err, checks, want)
	}
}

// TestExecLiveness: two failures of three are forgiven, and forgotten only after two
// checks that hold.
func TestExecLiveness(t *testing.T) {
	linuxtest.NoLeaks(t)
	log := filepath.Join(t.TempDir(), "checks")
	// The checks, one letter each: b fails, g holds.
	script := `n=$(cat ` + log + ` 2>/dev/null | wc -l); echo >> ` + log + `; set -- b b g b g g b b g b; shift $n; echo sick; test "$1" = g`
	r := watchOver(t, Live{Rules: shell(script), Failures: 4, Successes: 2}, Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}}, supervise.Output{})
	_, end := r.watch(supervise.ReadyInfo{})
	// b b g b: the third failure, as one that holds forgets nothing. g g forgets.
	// b b g b is three again; the eleventh check has nothing left and fails, the fourth.
	unwell(t, end(), 4, `^exec /bin/sh .*: exit 1: sick, 4 checks in a row$`)
	text, err := os.ReadFile(log)
	if err != nil || strings.Count(string(text), "\n") != 11 {
		t.Errorf("%d checks (%v), want 11", strings.Count(string(text), "\n"), err)
	}
	r.mustBeAlone()
}

// TestFrozenWorkersAreNotChecked: nobody can answer who is frozen, and nobody is asked.
func TestFrozenWorkersAreNotChecked(t *testing.T) {
	linuxtest.NoLeaks(t)
	asked := filepath.Join(t.TempDir(), "asked")
	for _, l := range []Live{{Rules: shell("echo >> " + asked + "; exit 1"), Failures: 1}, {Rules: Rules{File: asked}, Failures: 1}} {
		r := watchOver(t, l, Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}}, supervise.Output{})
		if err := r.leaf.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, end := r.watch(supervise.ReadyInfo{})
		frozen := time.NewTimer(10 * beat)
		<-frozen.C
		if text, err := os.ReadFile(asked); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a frozen worker was asked %d times, %v", strings.Count(string(text), "\n"), err)
		}
		if err := r.leaf.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		unwell(t, end(), 1, ".")
		_ = os.Remove(asked) // by the first rule
		r.mustBeAlone()
	}
}

// TestTCPLiveness: the answer of a stranger on the worker's port is none.
func TestTCPLiveness(t *testing.T) {
	linuxtest.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	r := watchOver(t, Live{Rules: Rules{TCP: "127.0.0.1:{port}"}, Failures: 2}, Deps{}, supervise.Output{})
	_, end := r.watch(supervise.ReadyInfo{Port: port})
	err = end()
	unwell(t, err, 2, `^tcp 127\.0\.0\.1:\{port\}: port is taken by a process outside the worker: .*`+strconv.Itoa(port))
	if !errors.Is(err, supervise.ErrPortTaken) {
		t.Errorf("Watch() = %v, want ErrPortTaken in it", err)
	}
}

// TestHTTPLiveness holds while the worker answers, and no longer.
func TestHTTPLiveness(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := &liveRig{rig: place(t)}
	lv, err := NewLive(Live{Rules: Rules{HTTP: "http://127.0.0.1:{port}/"}, Period: beat, Timeout: 200 * time.Millisecond, Failures: 1}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if r.vigil, err = lv.Prepare(r.info, supervise.Output{}); err != nil {
		t.Fatal(err)
	}
	out := newPrinted(t)
	r.start(out.write, linuxtest.Helper(t, "http")...)
	port := out.port(t)
	_, end := r.watch(supervise.ReadyInfo{Port: port})
	time.AfterFunc(5*beat, func() { _ = r.main.Signal(unix.SIGSTOP) })
	unwell(t, end(), 1, `^http http://127\.0\.0\.1:\{port\}/: `)
	// What has ended is not unwell: the supervisor sees that by itself.
	stop, end := r.watch(supervise.ReadyInfo{Port: port})
	if err := r.main.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, 20*time.Second, func() (bool, string) {
		gone, err := r.main.Exited()
		return gone || err != nil, "the worker is still there"
	})
	time.AfterFunc(5*beat, stop)
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch() = %v after the end of the worker, want to be stopped", err)
	}
}

func TestHeartbeatsBySdNotify(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := serveNotify(t)
	r := watchOver(t, Live{Rules: Rules{Notify: true}, Failures: 2}, Deps{Notify: s}, supervise.Output{})
	if env := strings.Join(r.vigil.Env(), " "); env != "NOTIFY_SOCKET="+s.Path()+" WATCHDOG_USEC=30000" {
		t.Errorf("environment = %q, want the socket and 30 ms", env)
	}
	n := s.expect(r.info.Leaf, r.info.LeafID)
	defer s.forget(r.info.LeafID)
	stop, end := r.watch(supervise.ReadyInfo{})
	ticker := time.NewTicker(beat / 6)
	for range 60 {
		<-ticker.C
		n.hear(parseNotify([]byte("WATCHDOG=1")), nil)
	}
	ticker.Stop()
	unwell(t, end(), 2, `^sd_notify WATCHDOG=1: no heartbeat since the check before, 2 checks in a row$`)
	stop()
	_, end = r.watch(supervise.ReadyInfo{})
	n.hear(parseNotify([]byte("STATUS=ill\nWATCHDOG=trigger")), nil)
	n.hear(parseNotify([]byte("WATCHDOG=trigger")), nil)
	unwell(t, end(), 1, `^sd_notify: the worker sent WATCHDOG=trigger$`)
}

// TestCountsAreHandedOn, of a pool that has no other rule, from a real process.
func TestCountsAreHandedOn(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := serveNotify(t)
	counts := make(chan uint64, 10)
	r := &liveRig{rig: place(t)}
	lv, err := NewLive(Live{Count: true}, Deps{Notify: s, Count: func(info supervise.StartInfo, n uint64) {
		if info.LeafID != r.info.LeafID {
			t.Errorf("a count of %+v", info)
		}
		counts <- n
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.vigil, err = lv.Prepare(r.info, supervise.Output{}); err != nil {
		t.Fatal(err)
	}
	n := s.expect(r.info.Leaf, r.info.LeafID)
	n.hear(parseNotify([]byte("X_PITVISOR_COUNT=11\nX_PITVISOR_COUNT=12\nX_PITVISOR_COUNT=-1")), nil)
	n.hear(parseNotify([]byte("X_PITVISOR_COUNT=many\nX_PITVISOR_COUNT=13")), nil)
	s.forget(r.info.LeafID)
	if a, b := <-counts, <-counts; a != 12 || b != 13 || len(counts) > 0 {
		t.Errorf("counts %d, %d and %d more; want 12 and 13", a, b, len(counts))
	}
	r.start(nil, linuxtest.Helper(t, "sit")...)
	stop, end := r.watch(supervise.ReadyInfo{})
	stop()
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch() = %v, want no end of its own", err)
	}
	if err := r.vigil.Close(); err != nil {
		t.Error(err)
	}
	if len(s.waiting) != 0 {
		t.Errorf("%d starts are still expected, want none", len(s.waiting))
	}
}

// TestHeartbeatsAtAnIntervalOfTheWorkersOwn: WATCHDOG_USEC= takes the place of the period.
func TestHeartbeatsAtAnIntervalOfTheWorkersOwn(t *testing.T) {
	linuxtest.NoLeaks(t)
	s := serveNotify(t)
	r := watchOver(t, Live{Rules: Rules{Notify: true}, Failures: 1, Delay: time.Hour}, Deps{Notify: s}, supervise.Output{})
	n := s.expect(r.info.Leaf, r.info.LeafID)
	defer s.forget(r.info.LeafID)
	_, end := r.watch(supervise.ReadyInfo{})
	n.hear(parseNotify([]byte("WATCHDOG_USEC=20000")), nil)
	unwell(t, end(), 1, `^sd_notify WATCHDOG=1: no heartbeat since the check before$`)

	// And with 0 none is expected any more.
	n.hear(parseNotify([]byte("WATCHDOG_USEC=0")), nil)
	l := r.vigil.(*vigil)
	l.lv.live.Delay = time.Millisecond
	stop, end := r.watch(supervise.ReadyInfo{})
	linuxtest.Wait(t, 10*time.Second, func() (bool, string) { return len(n.retimed) == 0, "the interval is not taken yet" })
	timer := time.NewTimer(10 * beat)
	<-timer.C
	stop()
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch() = %v, want no end of its own", err)
	}
}

func TestHeartbeatsByFileAndLine(t *testing.T) {
	linuxtest.NoLeaks(t)
	file := filepath.Join(t.TempDir(), "beat-0")
	pattern := strings.Replace(file, "beat-0", "beat-{slot}", 1)
	r := watchOver(t, Live{Rules: Rules{File: pattern}, Failures: 2}, Deps{}, supervise.Output{})
	_, end := r.watch(supervise.ReadyInfo{})
	unwell(t, end(), 2, `^file .*: no such file or directory, 2 checks in a row$`)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, end = r.watch(supervise.ReadyInfo{})
	unwell(t, end(), 2, `^file .*: not modified since the check before`)

	out := newPrinted(t)
	r = watchOver(t, Live{Rules: Rules{Stdout: regexp.MustCompile("^tick")}, Failures: 2}, Deps{}, out.output())
	_, end = r.watch(supervise.ReadyInfo{})
	for range 10 {
		if _, err := out.write.WriteString("tick\nother\n"); err != nil {
			t.Fatal(err)
		}
		<-time.After(beat / 3)
	}
	unwell(t, end(), 2, `^stdout: no line matching "\^tick" since the check before`)
}

func TestBadLiveRulesAreRefused(t *testing.T) {
	for want, l := range map[string]Live{
		"no liveness rule is set":        {},
		"rules of readiness only":        {Rules: Rules{FileAuto: true}},
		"descriptor are rules":           {Rules: Rules{FD: 3}},
		"no notification server":         {Rules: Rules{Notify: true}},
		"a gRPC service is named":        {Rules: Rules{TCP: ":1", GRPCService: "x"}},
		"the exec rule has no program":   {Rules: Rules{Exec: []string{""}}},
		"period -1s":                     {Rules: Rules{TCP: ":1"}, Period: -time.Second},
		"a number of checks is negative": {Rules: Rules{TCP: ":1"}, Failures: -1},
		`tcp "example.org:80"`:           {Rules: Rules{TCP: "example.org:80"}},
	} {
		if _, err := NewLive(l, Deps{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewLive(%+v) = %v, want an error with %q", l, err, want)
		}
	}
}

func TestRulesAreComparedByWhatTheyMean(t *testing.T) {
	make2 := func(l Live, d Deps) (any, any) {
		rd, err := New(l.Rules, d)
		if err != nil {
			t.Fatal(err)
		}
		lv, err := NewLive(l, d)
		if err != nil {
			t.Fatal(err)
		}
		return rd, lv
	}
	rules := func() Rules {
		return Rules{Stdout: regexp.MustCompile("a(b)"), HTTP: "/x", Port: 80, Exec: []string{"true"}}
	}
	other, others := make2(Live{Rules: rules(), Period: time.Second}, Deps{ExecDir: "/"})
	for what, test := range map[string]struct {
		change func(*Live, *Deps)
		ready  bool
		live   bool
	}{
		"nothing":     {func(*Live, *Deps) {}, true, true},
		"files":       {func(_ *Live, d *Deps) { d.Files = NewFileWatcher() }, true, true},
		"period":      {func(l *Live, _ *Deps) { l.Period = time.Minute }, true, false},
		"expression":  {func(l *Live, _ *Deps) { l.Rules.Stdout = regexp.MustCompile("a(b|c)") }, false, false},
		"address":     {func(l *Live, _ *Deps) { l.Rules.HTTP = "/y" }, false, false},
		"directory":   {func(_ *Live, d *Deps) { d.ExecDir = "/tmp" }, false, false},
		"environment": {func(_ *Live, d *Deps) { d.ExecEnv = []string{"A=1"} }, false, false},
	} {
		l, d := Live{Rules: rules(), Period: time.Second}, Deps{ExecDir: "/"}
		test.change(&l, &d)
		rd, lv := make2(l, d)
		if got := rd.(*readiness).Equal(other); got != test.ready {
			t.Errorf("%s: readiness is equal: %v, want %v", what, got, test.ready)
		}
		if got := lv.(*liveness).Equal(others); got != test.live {
			t.Errorf("%s: liveness is equal: %v, want %v", what, got, test.live)
		}
	}
}
