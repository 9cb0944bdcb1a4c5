// Command testreport reads the output of go test -json and prints what a person
// wants to know: each failure with its output, how many tests ran, how many were
// skipped and why, and one line for each package. It exits with 1 when anything
// failed. It is not for anything but this project's own test run.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that does not build
	Test       string
	Output     string
	Elapsed    float64
}

// report is what has been read so far.
type report struct {
	out      io.Writer
	output   map[string][]string // of a test or package that is not over
	passed   int
	failed   int
	skipped  int
	reasons  map[string]int
	packages []string
	broken   bool // a package failed, with or without a test
}

func main() {
	r := &report{out: os.Stdout, output: map[string][]string{}, reasons: map[string]int{}}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintf(os.Stderr, "testreport: %v\n", err)
		os.Exit(1)
	}
	r.summary()
	if r.broken {
		os.Exit(1)
	}
}

// read takes lines that are not JSON, such as an error of the go tool, as they are.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.add(e)
	}
	return lines.Err()
}

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.keep(key, e)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.broken = true
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnd(e)
		} else {
			r.testEnd(e)
		}
		delete(r.output, key)
	}
}

// keep remembers a line until it is known whether the test fails. Reasons for
// skips and the package's last line are for the summary.
func (r *report) keep(key string, e event) {
	if text, ok := strings.CutPrefix(e.Output, "linuxtest-skips: "); ok {
		var reasons map[string]int
		if json.Unmarshal([]byte(text), &reasons) == nil {
			for reason, n := range reasons {
				r.reasons[reason] += n
			}
		}
		return
	}
	if e.Test == "" && slices.ContainsFunc([]string{"ok  ", "FAIL\t", "?   "}, func(p string) bool { return strings.HasPrefix(e.Output, p) }) {
		r.packages = append(r.packages, strings.TrimSuffix(e.Output, "\n"))
		return
	}
	r.output[key] = append(r.output[key], e.Output)
}

func (r *report) testEnd(e event) {
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
	case "fail":
		r.failed++
		r.broken = true
		fmt.Fprint(r.out, strings.Join(r.output[e.Package+" "+e.Test], ""))
	}
}

// packageEnd prints what a failed package said outside its tests: a leak found by
// linuxtest.Main, a panic, a build error.
func (r *report) packageEnd(e event) {
	if e.Action != "fail" {
		return
	}
	r.broken = true
	fmt.Fprint(r.out, strings.Join(r.output[e.Package+" "], ""))
	// A test that was running when its process died has no end of its own.
	for _, key := range slices.Sorted(maps.Keys(r.output)) {
		if strings.HasPrefix(key, e.Package+" ") && key != e.Package+" " {
			fmt.Fprint(r.out, strings.Join(r.output[key], ""))
			delete(r.output, key)
		}
	}
}

func (r *report) summary() {
	fmt.Fprintf(r.out, "tests: %d run, %d passed, %d failed, %d skipped\n", r.passed+r.failed+r.skipped, r.passed, r.failed, r.skipped)
	explained := 0
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(r.out, "skipped: %3d %s\n", r.reasons[reason], reason)
		explained += r.reasons[reason]
	}
	if rest := r.skipped - explained; rest > 0 {
		fmt.Fprintf(r.out, "skipped: %3d without a reason that was counted\n", rest)
	}
	for _, line := range r.packages {
		fmt.Fprintln(r.out, line)
	}
}
