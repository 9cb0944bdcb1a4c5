package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

const (
	defaultPeriod   = 10 * time.Second
	defaultFailures = 3
	minBeat         = time.Millisecond // the shortest interval that a worker may choose
	notifyRule      = "sd_notify WATCHDOG=1"
)

// Live says when a ready worker is unwell and must be restarted. The rules are
// checked once every Period; all that are set must hold.
//
// TCP, HTTP, GRPC and Exec ask, as they do for readiness, and an answer counts only
// if it is the worker's own. The others are heartbeats, which must have come since
// the check before: a line of Stdout or Stderr that matches, a change of File's
// modification time, or with Notify WATCHDOG=1 from a process of the leaf; by
// WATCHDOG=trigger a worker says at once that it is unwell, and by WATCHDOG_USEC= that its
// heartbeats come at another interval than Period, or with 0 that none come. {port} is the port with
// which the worker became ready, else Port plus the slot.
//
// FileAuto and FD are readiness rules only.
type Live struct {
	Rules Rules // Interval and TryTimeout are not used

	Delay     time.Duration // from ready to the first check; 0 means Period
	Period    time.Duration // from one check to the next; 0 means 10 s
	Timeout   time.Duration // bounds one question; 0 means 5 s
	Failures  int           // checks in a row that must fail; 0 means 3
	Successes int           // checks in a row that must hold for failures to be forgotten; 0 means 1

	// Count lets the worker report how much it has done, with X_PITVISOR_COUNT=n to
	// $NOTIFY_SOCKET. It may be the only thing that is set.
	Count bool
}

// UnwellError says which rule did not hold any more.
type UnwellError struct {
	Rule   string
	Checks int // that have failed in a row
	Last   error
}

// Error says it in one line.
func (e *UnwellError) Error() string {
	if e.Checks < 2 {
		return fmt.Sprintf("%s: %v", e.Rule, e.Last)
	}
	return fmt.Sprintf("%s: %v, %d checks in a row", e.Rule, e.Last, e.Checks)
}

// Unwrap returns Last.
func (e *UnwellError) Unwrap() error { return e.Last }

// liveness is the rules of one pool.
type liveness struct {
	readiness // with the same parsing
	live      Live
}

// NewLive checks the rules and returns the liveness of one pool.
func NewLive(l Live, d Deps) (supervise.Liveness, error) {
	lv := &liveness{live: l}
	if err := lv.parse(); err != nil {
		return nil, err
	}
	if (l.Rules.Notify || l.Count) && d.Notify == nil {
		return nil, errors.New("wait for sd_notify: no notification server")
	}
	lv.deps = d
	for field, value := range map[*time.Duration]time.Duration{&lv.live.Period: defaultPeriod, &lv.live.Timeout: defaultTryTimeout} {
		if *field == 0 {
			*field = value
		}
	}
	if lv.live.Delay == 0 {
		lv.live.Delay = lv.live.Period
	}
	if lv.live.Failures == 0 {
		lv.live.Failures = defaultFailures
	}
	lv.live.Successes = max(1, lv.live.Successes)
	lv.rules.TryTimeout = lv.live.Timeout
	return lv, nil
}

// Validate reports what NewLive would refuse whatever the Deps.
func (l Live) Validate() error { return (&liveness{live: l}).parse() }

func (lv *liveness) parse() error {
	l := &lv.live
	lv.rules = l.Rules
	r := &lv.rules
	errs := []error{lv.parseTargets(), r.checkFile(), r.checkNumbers()}
	if !r.any() && !l.Count {
		errs = append(errs, errors.New("no liveness rule is set"))
	}
	if r.FileAuto || r.FD != 0 {
		errs = append(errs, errors.New("a ready file of our choice and a descriptor are rules of readiness only"))
	}
	if r.GRPCService != "" && r.GRPC == "" {
		errs = append(errs, errors.New("a gRPC service is named but no gRPC address"))
	}
	if len(r.Exec) > 0 && r.Exec[0] == "" {
		errs = append(errs, errors.New("the exec rule has no program"))
	}
	for what, d := range map[string]time.Duration{"delay": l.Delay, "period": l.Period, "timeout": l.Timeout} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s %v: must not be negative", what, d))
		}
	}
	if l.Failures < 0 || l.Successes < 0 {
		errs = append(errs, errors.New("a number of checks is negative"))
	}
	return errors.Join(errs...)
}

// Equal says whether other are the same rules with the same surroundings.
func (lv *liveness) Equal(other any) bool {
	o, ok := other.(*liveness)
	if !ok {
		return false
	}
	a, b := lv.live, o.live
	same := sameRules(&a.Rules, &b.Rules) && sameDeps(&lv.deps, &o.deps)
	a.Rules, b.Rules = Rules{}, Rules{}
	return same && fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

// vigil is the rules applied to one start.
type vigil struct {
	attempt
	lv     *liveness
	checks int

	lines    map[string]*lineBeat // by stream
	seen     map[string]uint64    // beats at the last check, by rule
	modified time.Time            // of the file at the last check
	frozen   bool                 // the worker was, when that was looked at last
	own      bool                 // the worker has chosen the interval of its heartbeats
	readers  sync.WaitGroup
}

// lineBeat counts the lines that match.
type lineBeat struct {
	re    *regexp.Regexp
	beats atomic.Uint64
}

// Prepare makes what must exist before the worker does.
func (lv *liveness) Prepare(info supervise.StartInfo, out supervise.Output) (supervise.Vigil, error) {
	v := &vigil{lv: lv, seen: map[string]uint64{}, lines: map[string]*lineBeat{}}
	v.attempt = attempt{readiness: &lv.readiness, info: info, out: out, kind: "live"}
	for stream, re := range map[string]*regexp.Regexp{"stdout": lv.rules.Stdout, "stderr": lv.rules.Stderr} {
		if re == nil {
			continue
		}
		if out.Lines == nil {
			return nil, errors.New("wait for a line of output: the pool's output is not kept")
		}
		v.lines[stream] = &lineBeat{re: re}
	}
	if lv.rules.Notify || lv.live.Count {
		v.notify = lv.deps.Notify.expect(info.Leaf, info.LeafID)
		v.notify.care(lv.rules.Notify, lv.counter(info))
	}
	return v, nil
}

// counter returns what is told of a worker's count.
func (lv *liveness) counter(info supervise.StartInfo) func(uint64) {
	if !lv.live.Count || lv.deps.Count == nil {
		return nil
	}
	return func(n uint64) { lv.deps.Count(info, n) }
}

// Env returns the variables by which the worker learns where, and how often, to report.
func (v *vigil) Env() []string {
	var env []string
	if v.notify != nil {
		env = append(env, "NOTIFY_SOCKET="+v.deps.Notify.path)
	}
	if v.rules.Notify {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(v.lv.live.Period.Microseconds(), 10))
	}
	return env
}

// Close releases what Prepare made.
func (v *vigil) Close() error {
	if v.notify != nil {
		v.deps.Notify.forget(v.info.LeafID)
	}
	return nil
}

// follow counts lines that match until ctx is done.
func (v *vigil) follow(ctx context.Context) {
	for stream, b := range v.lines {
		v.readers.Go(func() {
			for line := range v.out.Lines(ctx, stream) {
				if b.re.MatchString(line) {
					b.beats.Add(1)
				}
			}
		})
	}
}

// look remembers how the heartbeats stand before the first check.
func (v *vigil) look() {
	v.seen["notify"] = v.notify.beatsSoFar()
	v.modified, _ = v.modTime() // a file that is not there yet has to come
}

// check asks and listens once. It returns the first rule that does not hold.
func (v *vigil) check(ctx context.Context) (rule string, err error) {
	r := &v.rules
	v.checks++
	for _, c := range []struct {
		on   bool
		rule string
		do   func(context.Context) error
	}{
		{r.Notify && !v.own, notifyRule, v.checkNotify},
		{r.File != "", "file " + r.File, v.checkFile},
		{r.Stdout != nil, "stdout", func(context.Context) error { return v.checkLines("stdout") }},
		{r.Stderr != nil, "stderr", func(context.Context) error { return v.checkLines("stderr") }},
		{r.TCP != "", "tcp " + r.TCP, func(ctx context.Context) error { return v.checkPort(ctx, v.tcp, nil) }},
		{r.HTTP != "", "http " + r.HTTP, v.checkHTTP},
		{r.GRPC != "", "grpc " + r.GRPC, v.checkGRPC},
		{len(r.Exec) > 0, "exec " + strings.Join(r.Exec, " "), v.checkExec},
	} {
		if !c.on {
			continue
		}
		if err := v.tryOnce(ctx, v.checks, func(ctx context.Context, _ int) error { return c.do(ctx) }); err != nil {
			return c.rule, err
		}
	}
	return "", nil
}

func (v *vigil) checkNotify(context.Context) error {
	now := v.notify.beatsSoFar()
	if now == v.seen["notify"] {
		return errors.New("no heartbeat since the check before")
	}
	v.seen["notify"] = now
	return nil
}

func (v *vigil) checkLines(stream string) error {
	b := v.lines[stream]
	now := b.beats.Load()
	if now == v.seen[stream] {
		return fmt.Errorf("no line matching %q since the check before", b.re)
	}
	v.seen[stream] = now
	return nil
}

func (v *vigil) modTime() (time.Time, error) {
	if v.rules.File == "" {
		return time.Time{}, nil
	}
	info, err := os.Stat(expand(v.rules.File, v.info))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (v *vigil) checkFile(context.Context) error {
	now, err := v.modTime()
	if err != nil {
		return err
	}
	if now.Equal(v.modified) {
		return fmt.Errorf("not modified since the check before, last at %s", now.Format(time.TimeOnly))
	}
	v.modified = now
	return nil
}

// checkPort asks once, in the worker's network namespace.
func (v *vigil) checkPort(ctx context.Context, t *target, ask asker) error {
	port := t.portOr(v.port())
	if port == 0 {
		return errors.New("the worker has told no port")
	}
	ns, err := v.netNS()
	if err != nil {
		return err
	}
	defer ns.Close()
	return v.tryPort(ctx, ns, t.at(port), ask)
}

func (v *vigil) checkHTTP(ctx context.Context) error {
	return v.checkPort(ctx, &v.http.target, v.http.ask)
}

func (v *vigil) checkGRPC(ctx context.Context) error {
	return v.checkPort(ctx, v.grpc, func(ctx context.Context, conn net.Conn) error {
		return askHealth(ctx, conn, v.rules.GRPCService)
	})
}

func (v *vigil) checkExec(ctx context.Context) error {
	pool, err := v.poolDir()
	if err != nil {
		return err
	}
	defer pool.Close()
	return v.execOnce(ctx, pool, v.checks)
}
