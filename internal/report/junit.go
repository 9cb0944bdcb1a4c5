package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/internal/leftover"
)

// WriteJUnit writes the report in the XML that CI machines read: one suite with the
// cases "exit", "leaks" and "removed".
func (r *Report) WriteJUnit(w io.Writer) error {
	x := &markup{}
	cases := r.cases()
	kinds := map[string]int{}
	for _, c := range cases {
		kinds[c.kind]++
	}
	wall, _ := r.Wall()
	suite := []string{
		"name", "pitvisor", "tests", strconv.Itoa(len(cases)),
		"failures", strconv.Itoa(kinds["failure"]), "errors", strconv.Itoa(kinds["error"]),
		"skipped", strconv.Itoa(kinds["skipped"]), "time", xmlSeconds(wall),
	}
	if !r.Started.IsZero() {
		suite = append(suite, "timestamp", r.Started.UTC().Format(time.RFC3339))
	}
	x.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	x.open("testsuites")
	x.open("testsuite", suite...)
	x.open("properties")
	for _, p := range r.properties() {
		x.empty("property", "name", p[0], "value", p[1])
	}
	x.close("properties")
	for _, c := range cases {
		x.testCase(c, "pitvisor."+r.label())
	}
	if r.Receipt != nil {
		x.element("system-out", r.out())
	}
	x.close("testsuite")
	x.close("testsuites")
	_, err := w.Write(x.Bytes())
	return err
}

// label is what people call the run.
func (r *Report) label() string {
	if r.Name != "" {
		return r.Name
	}
	return "run"
}

func (r *Report) properties() [][2]string {
	properties := [][2]string{
		{"run_id", r.RunID},
		{"command", commandLine(r.Command, leftover.MaxArgs)},
		{"outcome", string(r.Outcome)},
		{"pitvisor_exit_code", strconv.Itoa(r.Code)},
		{"clean", strconv.FormatBool(r.Clean())},
	}
	if r.Weak {
		properties = append(properties, [2]string{"weak", "true"})
	}
	return properties
}

// out is the receipt for a person.
func (r *Report) out() string {
	var b bytes.Buffer
	_ = r.WriteStats(&b, false) // a buffer takes everything
	return b.String()
}

// testCase is one case of the suite; kind is "failure", "error", "skipped" or "".
type testCase struct {
	name, kind, message, text string
	took                      time.Duration
}

func (r *Report) cases() []testCase {
	wall, _ := r.Wall()
	exit := testCase{name: "exit", took: wall}
	leaks := testCase{name: "leaks"}
	removed := testCase{name: "removed"}
	switch {
	case r.Outcome == NotStarted || r.Outcome == Failed:
		exit.kind, exit.message = "error", string(r.Outcome)+": "+r.Error
	case r.Outcome != Exited || r.ExitCode == nil || *r.ExitCode != 0:
		exit.kind, exit.message = "failure", r.ending()
	}
	switch {
	case r.LeftErr != nil:
		leaks.kind, leaks.message = "error", r.unlisted()
	case r.Left.Total > 0:
		leaks.kind, leaks.message = "failure", r.leftTitle()
		leaks.text = r.leftLines()
	}
	switch {
	case r.Weak:
		removed.kind, removed.message = "skipped", "weak: this ran without a cgroup"
	case r.RunID == "":
		removed.kind, removed.message = "skipped", "no run was made"
	case r.Blocked != nil:
		removed.kind, removed.message = "failure", r.Blocked.Error()
	case !r.Removed:
		removed.kind, removed.message = "failure", "the cgroup of the run is still there"
	}
	return []testCase{exit, leaks, removed}
}

// ending says how the command ended.
func (r *Report) ending() string {
	words := string(r.Outcome)
	switch {
	case r.Signal != "":
		words += ": " + r.Signal
		if r.Core {
			words += ", core dumped"
		}
	case r.ExitCode != nil:
		words += ": exit code " + strconv.Itoa(*r.ExitCode)
	}
	if len(r.Extra) > 0 {
		words += " (" + strings.Join(r.Extra, ", ") + ")"
	}
	return words
}

// leftLines names each process that is listed, one a line.
func (r *Report) leftLines() string {
	var b strings.Builder
	for _, p := range r.Left.Processes {
		b.WriteString(processLine(p, func(_, s string) string { return s }) + "\n")
	}
	if more := r.Left.Total - len(r.Left.Processes); more > 0 {
		b.WriteString("and " + count(more, "more process", "more processes") + "\n")
	}
	return b.String()
}

func xmlSeconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// markup collects indented elements.
type markup struct {
	bytes.Buffer
	depth int
}

// tag writes the beginning of a tag; attributes are names and values in turn.
func (x *markup) tag(name string, attributes []string) {
	for range x.depth {
		x.WriteString("  ")
	}
	x.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		x.WriteString(" " + attributes[i] + `="` + attribute(attributes[i+1]) + `"`)
	}
}

func (x *markup) open(name string, attributes ...string) {
	x.tag(name, attributes)
	x.WriteString(">\n")
	x.depth++
}

func (x *markup) close(name string) {
	x.depth--
	x.tag("/"+name, nil)
	x.WriteString(">\n")
}

func (x *markup) empty(name string, attributes ...string) {
	x.tag(name, attributes)
	x.WriteString("/>\n")
}

// element writes an element that holds text, which keeps its spaces.
func (x *markup) element(name, text string, attributes ...string) {
	x.tag(name, attributes)
	x.WriteString(">" + escapeXML(text) + "</" + name + ">\n")
}

func (x *markup) testCase(c testCase, class string) {
	attributes := []string{"name", c.name, "classname", class, "time", xmlSeconds(c.took)}
	if c.kind == "" {
		x.empty("testcase", attributes...)
		return
	}
	x.open("testcase", attributes...)
	if c.text == "" {
		x.empty(c.kind, "message", c.message)
	} else {
		x.element(c.kind, c.text, "message", c.message)
	}
	x.close("testcase")
}

// attribute is escapeXML that keeps line feeds and tabs, of which a reader of an
// attribute would make spaces.
func attribute(s string) string {
	return strings.NewReplacer("\n", "&#10;", "\t", "&#9;").Replace(escapeXML(s))
}

// escapeXML makes any bytes text of XML 1.0. What may not be in there at all, such as
// control characters, is shown as an escape; line feeds and tabs are kept.
func escapeXML(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1 || r < ' ' && r != '\n' && r != '\t' || r == 0x7f:
			b.WriteString(`\x`)
			b.WriteByte(hex[s[0]>>4])
			b.WriteByte(hex[s[0]&15])
		case r >= 0x80 && r < 0xa0 || r == 0xfffe || r == 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"':
			b.WriteString("&quot;")
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}
