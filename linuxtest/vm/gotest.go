package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// goEvent is one line of go test -json; see go doc test2json.
type goEvent struct {
	Action     string
	Package    string
	ImportPath string // of a package that does not build
	Test       string
	Output     string
	Elapsed    float64
}

// ReadGoTest reads what go test -json prints and returns the outcome of each
// package, in their order, for a [Report]. With rules, a skip that they do not
// allow on this kernel is a failure. echo, unless nil, gets every byte.
func ReadGoTest(in io.Reader, echo io.Writer, rules *Rules, release string) ([]Outcome, error) {
	if echo != nil {
		in = io.TeeReader(in, echo)
	}
	all := map[string]*goPackageRun{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e goEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" {
			continue // a message of the go command
		}
		if e.Package == "" {
			e.Package, _, _ = strings.Cut(e.ImportPath, " ")
		}
		if all[e.Package] == nil {
			all[e.Package] = &goPackageRun{outcome: Outcome{Name: e.Package, Why: "did not end"}, text: map[string]string{}}
		}
		all[e.Package].take(e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the events of go test: %w", err)
	}
	var outcomes []Outcome
	for _, p := range all {
		if p.outcome.Exit != nil && p.outcome.Tests == nil {
			continue // a package without tests
		}
		outcomes = append(outcomes, p.judged(rules, release))
	}
	slices.SortFunc(outcomes, func(a, b Outcome) int { return strings.Compare(a.Name, b.Name) })
	return outcomes, nil
}

// goPackageRun is one package so far.
type goPackageRun struct {
	outcome Outcome
	text    map[string]string // what was written, by test; "" is outside of tests
}

func (p *goPackageRun) take(e goEvent) {
	switch e.Action {
	case "output", "build-output":
		if old := p.text[e.Test]; len(old) < mostTail && !framing(e.Output) {
			p.text[e.Test] = old + e.Output
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			p.end(e)
			return
		}
		p.count(e)
	case "build-fail":
		p.outcome.Why, p.outcome.Output = "does not build", lastLines(p.text[""], 60)
	}
}

// framing is a line that package testing writes around what tests write.
func framing(line string) bool {
	line = strings.TrimLeft(line, " ")
	return strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ")
}

func (p *goPackageRun) count(e goEvent) {
	if p.outcome.Tests == nil {
		p.outcome.Tests = &Tests{}
	}
	t := p.outcome.Tests
	switch e.Action {
	case "pass":
		t.Passed++
	case "fail":
		t.Failed = append(t.Failed, Failed{Test: e.Test, Output: p.text[e.Test]})
	case "skip":
		t.Skipped = append(t.Skipped, Skip{Test: e.Test, Reason: reason(p.text[e.Test])})
	}
	if e.Elapsed >= slow && !strings.Contains(e.Test, "/") {
		t.Slow = append(t.Slow, Slow{Test: e.Test, Seconds: e.Elapsed})
	}
	delete(p.text, e.Test)
}

// end is the end of the package's test binary.
func (p *goPackageRun) end(e goEvent) {
	o := &p.outcome
	o.Exit, o.Why = &Exit{Seconds: e.Elapsed}, ""
	if e.Action == "fail" {
		o.Exit.Code, o.Why, o.Output = 1, "failed", lastLines(p.text[""], 60)
	}
	o.OK = o.Why == ""
}

func (p *goPackageRun) judged(rules *Rules, release string) Outcome {
	o := p.outcome
	if rules != nil && o.Tests != nil {
		o.Unexplained = rules.unexplained(o.Tests.Skipped, release)
		if len(o.Unexplained) > 0 && o.OK {
			o.OK, o.Why = false, fmt.Sprintf("%d skips that must not be", len(o.Unexplained))
		}
	}
	return o
}
