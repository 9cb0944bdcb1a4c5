package vm

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Tests is what one Go test binary said. Feed it the output of a binary that ran
// with -test.v=test2json.
type Tests struct {
	Passed  int      `json:"passed"`
	Failed  []Failed `json:"failed,omitempty"`
	Skipped []Skip   `json:"skipped,omitempty"`
	Slow    []Slow   `json:"slow,omitempty"` // those that took five seconds or more

	out     unfinished
	line    []byte
	current string
}

// Failed is a test that failed, with what it wrote. A subtest's output stands with
// the subtest.
type Failed struct {
	Test   string `json:"test"`
	Output string `json:"output"`
}

// Skip is a test that was skipped, and why.
type Skip struct {
	Test   string `json:"test"`
	Reason string `json:"reason"`
}

// Slow is a test that took long. The time of its subtests is in it.
type Slow struct {
	Test    string  `json:"test"`
	Seconds float64 `json:"seconds"`
}

// unfinished is what was written and may still be wanted.
type unfinished struct {
	byTest  map[string]*strings.Builder
	running []string // in the order of their start
}

// slow is how many seconds make a test one that took long.
const slow = 5

// marker stands before each line that package testing itself writes.
const marker = 0x16

// Write never fails.
func (t *Tests) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			t.line = append(t.line, rest...)
			break
		}
		t.take(string(append(t.line, rest[:end+1]...)))
		t.line = t.line[:0]
		rest = rest[end+1:]
	}
	return len(data), nil
}

// take reads one line. A marker may stand behind output that did not end with a
// new line.
func (t *Tests) take(line string) {
	before, event, marked := strings.Cut(line, string(rune(marker)))
	if !marked {
		t.keep(line)
		return
	}
	if before != "" {
		t.keep(before + "\n")
	}
	if !t.event(strings.TrimRight(event, "\n")) {
		t.keep(event)
	}
}

func (t *Tests) keep(line string) {
	if t.out.byTest == nil {
		t.out.byTest = map[string]*strings.Builder{}
	}
	b := t.out.byTest[t.current]
	if b == nil {
		b = &strings.Builder{}
		t.out.byTest[t.current] = b
	}
	if b.Len() < mostTail {
		b.WriteString(line)
	}
}

// event handles a line of package testing.
func (t *Tests) event(line string) bool {
	switch {
	case strings.HasPrefix(line, "=== RUN "):
		t.current = strings.TrimSpace(strings.TrimPrefix(line, "=== RUN "))
		t.out.running = append(t.out.running, t.current)
		return true
	case strings.HasPrefix(line, "=== NAME "), strings.HasPrefix(line, "=== CONT "):
		t.current = strings.TrimSpace(line[len("=== NAME "):])
		return true
	case strings.HasPrefix(line, "=== PAUSE "):
		t.current = ""
		return true
	}
	// A panic's first words stand behind it on the same line.
	m := regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)(.*)$`).FindStringSubmatch(line)
	if m == nil {
		return false
	}
	t.current = m[2]
	if m[4] != "" {
		t.keep(m[4] + "\n")
	}
	if took, err := strconv.ParseFloat(m[3], 64); err == nil && took >= slow && !strings.Contains(m[2], "/") {
		t.Slow = append(t.Slow, Slow{Test: m[2], Seconds: took})
	}
	t.end(m[1], m[2])
	return true
}

func (t *Tests) end(verdict, test string) {
	t.out.running = slices.DeleteFunc(t.out.running, func(name string) bool { return name == test })
	switch verdict {
	case "PASS":
		t.Passed++
		delete(t.out.byTest, test)
	case "FAIL":
		t.Failed = append(t.Failed, Failed{Test: test})
	case "SKIP":
		t.Skipped = append(t.Skipped, Skip{Test: test})
	}
}

// Close fills in what failed tests wrote and why others were skipped. Tests that
// had begun and not ended when the binary ended count as failed.
func (t *Tests) Close() error {
	if len(t.line) > 0 {
		t.take(string(t.line) + "\n")
	}
	for _, test := range t.out.running {
		t.Failed = append(t.Failed, Failed{Test: test})
	}
	for i, f := range t.Failed {
		t.Failed[i].Output = t.text(f.Test)
	}
	for i, s := range t.Skipped {
		t.Skipped[i].Reason = reason(t.text(s.Test))
	}
	return nil
}

// text is what was written while a test ran. "" stands for output outside tests.
func (t *Tests) text(test string) string {
	if b := t.out.byTest[test]; b != nil {
		return b.String()
	}
	return ""
}

// Rest is what the binary wrote outside its tests.
func (t *Tests) Rest() string { return t.text("") }

// reason is the last thing that a skipped test logged, without the place.
func reason(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if place, rest, ok := strings.Cut(last, ": "); ok {
		if _, number, ok := strings.Cut(place, ".go:"); ok {
			if _, err := strconv.Atoi(number); err == nil {
				return rest
			}
		}
	}
	return last
}
