package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Report is the outcome of programs on one kernel, in the form of the JSON file: a
// list of reports. Other lanes than this package's write the same.
type Report struct {
	Lane        string          `json:"lane"`              // "vm", "host", "container": how the kernel was met
	System      string          `json:"system,omitempty"`  // what else was there: "systemd 257"
	Kernel      string          `json:"kernel,omitempty"`  // as asked for
	Release     string          `json:"release"`           // what uname says
	Package     string          `json:"package,omitempty"` // of Debian
	Version     string          `json:"version,omitempty"` // of the package
	Suite       string          `json:"suite,omitempty"`
	Accel       string          `json:"accel,omitempty"`
	AccelWhy    string          `json:"accel_why,omitempty"`
	Tier        string          `json:"tier,omitempty"`
	Controllers []string        `json:"controllers,omitempty"`
	Features    map[string]bool `json:"features,omitempty"`
	Lacking     []string        `json:"lacking,omitempty"` // features which this kernel must have
	Prepare     float64         `json:"prepare_seconds"`   // kernel, root file system
	Boot        float64         `json:"boot_seconds"`      // 0: a saved machine went on
	Save        float64         `json:"save_seconds,omitempty"`
	Restore     float64         `json:"restore_seconds,omitempty"` // until a saved machine went on, the median
	Total       float64         `json:"total_seconds"`             // from the start of QEMU to its end
	CPU         float64         `json:"cpu_seconds,omitempty"`     // that QEMU has used: what Total is on an idle machine, less what the guest waits
	Programs    []Outcome       `json:"programs"`
	Dropped     []string        `json:"dropped,omitempty"`    // programs that are for other kernels by choice
	Complaints  []string        `json:"complaints,omitempty"` // of the kernel, on its console
	Error       string          `json:"error,omitempty"`      // the guest did not do its job
}

// Outcome is how one program ended.
type Outcome struct {
	Name        string   `json:"name"`
	OK          bool     `json:"ok"`
	Why         string   `json:"why,omitempty"` // it is not
	Exit        *Exit    `json:"exit,omitempty"`
	Tests       *Tests   `json:"tests,omitempty"`
	Unexplained []Skip   `json:"unexplained,omitempty"` // skips that the rules do not allow
	Left        []string `json:"left,omitempty"`        // processes that outlived it
	Output      string   `json:"output,omitempty"`      // the end of it, when it is not ok
}

// OK says whether everything is as it should be.
func (r *Report) OK() bool {
	return r.Error == "" && len(r.Lacking) == 0 && !slices.ContainsFunc(r.Programs, func(o Outcome) bool { return !o.OK })
}

// Examine runs a machine and reports. With rules, a skip that they do not allow is
// a failure. observe, unless nil, sees every event, too, and the outcome of a
// program that has ended.
func Examine(ctx context.Context, m Machine, rules *Rules, observe func(Event, *Outcome)) *Report {
	k := m.Kernel
	r := &Report{Lane: "vm", Kernel: k.Name, Release: k.Release, Package: k.Package, Version: k.Version, Suite: k.Suite}
	for _, p := range m.Programs {
		r.Programs = append(r.Programs, Outcome{Name: p.Name, Why: "was not run"})
	}
	if m.System != nil {
		r.Lane, r.System = "systemd", "systemd "+m.System.version()
	}
	var tests *Tests
	var end *tail
	m.Observe = func(e Event) {
		var o *Outcome
		switch e.Kind {
		case EventReady:
		case EventStart:
			tests, end = &Tests{}, &tail{}
			r.Programs[e.Program].Why = "did not end"
		case EventOutput:
			_, _ = tests.Write(e.Output) // never fails
			_, _ = end.Write(e.Output)   // never fails
		case EventEnd:
			o = &r.Programs[e.Program]
			o.finish(e, tests, end, rules, k.Release)
		}
		if observe != nil {
			observe(e, o)
		}
	}
	run, err := m.Run(ctx)
	r.Accel, r.AccelWhy, r.Complaints = run.Accel, run.AccelWhy, run.Complaints
	r.Save, r.Restore = seconds(run.Save), seconds(median(run.Restores))
	r.Boot, r.Total, r.CPU = seconds(run.Boot), seconds(run.Total), seconds(run.CPU)
	if run.Guest != nil {
		r.Release, r.Tier, r.Controllers, r.Features = run.Guest.Release, run.Guest.Tier, run.Guest.Controllers, run.Guest.Features
		r.Lacking, err = lacking(run.Guest, err)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// finish fills in the outcome of a program that has ended.
func (o *Outcome) finish(e Event, tests *Tests, end *tail, rules *Rules, release string) {
	_ = tests.Close() // never fails
	o.Exit, o.Left, o.Why = e.Exit, e.Left, ""
	if tests.Passed+len(tests.Failed)+len(tests.Skipped) > 0 {
		o.Tests = tests
	}
	if rules != nil {
		o.Unexplained = rules.unexplained(tests.Skipped, release)
	}
	switch {
	case e.Err != "":
		o.Why = e.Err
	case e.Exit.Late:
		o.Why = "took too long"
	case e.Exit.Signal != "":
		o.Why = "ended by " + e.Exit.Signal
	case e.Exit.Code != 0:
		o.Why = fmt.Sprintf("exit code %d", e.Exit.Code)
	case len(o.Unexplained) > 0:
		o.Why = fmt.Sprintf("%d skips that must not be", len(o.Unexplained))
	}
	o.OK = o.Why == ""
	if o.OK {
		return
	}
	o.Output = tests.Rest()
	if o.Tests == nil {
		o.Output = end.String()
	}
	o.Output = lastLines(o.Output, 60)
}

// lacking compares what the kernel can do with what a kernel of its age must.
func lacking(g *Guest, before error) ([]string, error) {
	v, err := parseVersion(g.Release)
	if err != nil {
		return nil, errors.Join(before, err)
	}
	var names []string
	for name, from := range since() {
		if !v.before(from) && !g.Features[name] {
			names = append(names, fmt.Sprintf("%s (there since %v)", name, from))
		}
	}
	slices.Sort(names)
	return names, before
}

func seconds(d time.Duration) float64 { return d.Round(10 * time.Millisecond).Seconds() }

// Rules say why tests may be skipped.
type Rules struct{ rules []rule }

type rule struct {
	from, to version // to is excluded; 0.0 is no bound
	reason   *regexp.Regexp
}

// ReadRules reads a file with one rule a line: the kernels, which are "all",
// "<6.9" or ">=6.9", white space, and a regular expression that must match the
// whole reason of a skip. Empty lines and those that start with # are comments.
func ReadRules(name string) (*Rules, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	var all Rules
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		all.rules = append(all.rules, r)
	}
	return &all, lines.Err()
}

func parseRule(line string) (rule, error) {
	var r rule
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		return r, fmt.Errorf("%q is not kernels and a reason", line)
	}
	var err error
	switch kernels := line[:i]; {
	case kernels == "all":
	case strings.HasPrefix(kernels, "<"):
		r.to, err = parseVersion(kernels[1:])
	case strings.HasPrefix(kernels, ">="):
		r.from, err = parseVersion(kernels[2:])
	default:
		err = fmt.Errorf("kernels %q: want all, <6.9 or >=6.9", kernels)
	}
	if err != nil {
		return r, err
	}
	r.reason, err = regexp.Compile("^(?:" + strings.TrimSpace(line[i:]) + ")$")
	return r, err
}

// unexplained are the skips that no rule allows on this kernel.
func (rs *Rules) unexplained(skips []Skip, release string) []Skip {
	v, err := parseVersion(release)
	if err != nil {
		return skips
	}
	var found []Skip
	for _, s := range skips {
		allowed := slices.ContainsFunc(rs.rules, func(r rule) bool {
			return !v.before(r.from) && (r.to == version{} || v.before(r.to)) && r.reason.MatchString(s.Reason)
		})
		if !allowed {
			found = append(found, s)
		}
	}
	return found
}
