package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// nasty are texts that have broken other programs.
func nasty() []string {
	return []string{
		"", "plain", "a b", "\n", "a\r\nb", "\x1b[31mred\x1b[0m", "\x9b31m", "\x00", "\xff\xfe", "a\xc3", "\u202egnp.exe",
		"]]>", "<!-- & \"quoted\" 'text' -->", "%0A::error::", "::error::x", "\\", "\\n", `"`, "\u2028", "\ufffe\uffff", "\ufffd",
		"\x7f\u0085", "😀", strings.Repeat("x", 100<<10), strings.Repeat("\x1b", 100<<10), "pitvisor: left behind\npitvisor: x",
	}
}

// hostile is a report with the text wherever a command can put one.
func hostile(s string) *Report {
	r := sample()
	r.Name, r.Labels, r.Command, r.Error = s, map[string]string{s: s}, []string{s, s}, s
	r.Left.Processes = []leftover.Process{
		{PID: 1, Comm: s, Args: []string{s}, State: "S", Cgroup: s, Run: s, Left: []leftover.Way{leftover.SubCgroup}},
		{PID: 2, Comm: s, Args: []string{s, s, s}, ArgsCut: true, Listening: []sockdiag.Socket{{Proto: sockdiag.Unix, Path: s}}},
	}
	r.Left.Total = 2
	r.Detached = []Run{{ID: "id", Name: s}}
	r.Blocked = &cgroup.BlockedError{Path: s, Total: 1, Blockers: []cgroup.Blocker{{PID: 3, Comm: s, State: "D", Wchan: s}}, Err: errors.New(s)}
	r.Receipt.Unavailable = map[string]string{"memory_peak": s}
	r.OOM.Words, r.OOM.Cgroup = s, s
	return r
}

// checkForms holds the rules of every form against a report.
func checkForms(t *testing.T, s string) {
	t.Helper()
	r := hostile(s)
	form := func(write func(io.Writer) error) string {
		t.Helper()
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	checkLines(t, "WriteText", form(plainText(r)), 20<<10)
	checkLines(t, "WriteStats", form(plainStats(r)), 20<<10)
	github := form(r.WriteGitHub)
	checkLines(t, "WriteGitHub", github, 20<<10)
	for line := range strings.Lines(github) {
		if !strings.HasPrefix(line, "::warning title=") && !strings.HasPrefix(line, "::error title=") {
			t.Errorf("WriteGitHub has the line %q", line)
		}
	}
	checkJSON(t, s, form(r.WriteJSON))
	checkXML(t, form(r.WriteJUnit))
}

// checkLines: printable lines, not too long, and as many as a tame report has.
func checkLines(t *testing.T, what, got string, most int) {
	t.Helper()
	if len(got) > most {
		t.Errorf("%s has %d bytes, want at most %d", what, len(got), most)
	}
	for _, r := range got {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r == 0x202e || r == 0x2028) {
			// U+FFFD itself may be in the text.
			if r == utf8.RuneError && utf8.ValidString(got) {
				continue
			}
			t.Errorf("%s has the character %U: %.200q", what, r, got)
			return
		}
	}
	var tame bytes.Buffer
	r := hostile("tame")
	write := map[string]func(io.Writer) error{"WriteText": plainText(r), "WriteStats": plainStats(r), "WriteGitHub": r.WriteGitHub}[what]
	if err := write(&tame); err != nil {
		t.Fatal(err)
	}
	if n, want := strings.Count(got, "\n"), strings.Count(tame.String(), "\n"); n > want {
		t.Errorf("%s has %d lines, want %d:\n%.2000s", what, n, want, got)
	}
}

// checkJSON: it parses, and has the text as encoding/json would have written it.
func checkJSON(t *testing.T, s, got string) {
	t.Helper()
	var file struct {
		Name    string
		Labels  map[string]string
		Command []string
		Error   *string
		Leaks   struct {
			Processes []struct {
				Comm, Cgroup string
				Args         []string
			}
		}
	}
	if err := json.Unmarshal([]byte(got), &file); err != nil {
		t.Errorf("WriteJSON: %v: %.500s", err, got)
		return
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var want string
	if err := json.Unmarshal(quoted, &want); err != nil {
		t.Fatal(err)
	}
	first := file.Leaks.Processes[0]
	texts := []string{file.Name, file.Labels[want], file.Command[0], file.Command[1], first.Comm, first.Args[0]}
	if file.Error != nil {
		texts = append(texts, *file.Error)
	} else if s != "" {
		t.Error("WriteJSON lost the error")
	}
	for i, text := range texts {
		if text != want {
			t.Errorf("WriteJSON: text %d is %.200q, want %.200q", i, text, want)
		}
	}
	if !utf8.ValidString(got) {
		t.Error("WriteJSON is not UTF-8")
	}
}

// checkXML: a strict parser reads it to the end, with no more elements than it should
// have.
func checkXML(t *testing.T, got string) {
	t.Helper()
	var names []string
	d := xml.NewDecoder(strings.NewReader(got))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("WriteJUnit: %v: %.500s", err, got)
			return
		}
		if start, ok := token.(xml.StartElement); ok {
			names = append(names, start.Name.Local)
		}
	}
	want := []string{
		"testsuites", "testsuite", "properties", "property", "property", "property", "property", "property",
		"testcase", "failure", "testcase", "failure", "testcase", "failure", "system-out",
	}
	if !slices.Equal(names, want) {
		t.Errorf("WriteJUnit has the elements %v, want %v", names, want)
	}
}

func TestNastyTexts(t *testing.T) {
	for _, s := range nasty() {
		t.Run("", func(t *testing.T) { checkForms(t, s) })
	}
}

func FuzzForms(f *testing.F) {
	for _, s := range nasty() {
		if len(s) < 1000 {
			f.Add(s)
		}
	}
	f.Fuzz(checkForms)
}

func TestVisible(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"redis-server *:6379", "redis-server *:6379"},
		{"a\nb", `a\nb`},
		{"\x1b[1m", `\x1b[1m`},
		{"\xff", `\xff`},
		{"\u202e", `\u202e`},
		{"grün 😀", "grün 😀"},
		{strings.Repeat("x", 21), strings.Repeat("x", 20) + "..."},
		{strings.Repeat("é", 11), strings.Repeat("é", 10) + "..."},
	} {
		if got := visible(c.in, 20); got != c.want {
			t.Errorf("visible(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// The escapes are those of GitHub's own toolkit.
func TestEscapesOfGitHub(t *testing.T) {
	const text = "50%: a, b\r\nc"
	if got, want := escapeData(text), "50%25: a, b%0D%0Ac"; got != want {
		t.Errorf("escapeData = %q, want %q", got, want)
	}
	if got, want := escapeProperty(text), "50%25%3A a%2C b%0D%0Ac"; got != want {
		t.Errorf("escapeProperty = %q, want %q", got, want)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"postgres: writer process   "}, "postgres: writer process   "},
		{[]string{"sh", "-c", "sleep 1; exit"}, `sh -c "sleep 1; exit"`},
		{[]string{"printf", `"%s"\n`, ""}, `printf "\"%s\"\n" ""`},
		{[]string{"x", "a\nb"}, `x a\nb`},
		{[]string{strings.Repeat("x", 30), "y"}, strings.Repeat("x", 30) + " y"},
		{[]string{strings.Repeat("x", 50), "y"}, strings.Repeat("x", 40) + "... ..."},
	} {
		if got := commandLine(c.args, 40); got != c.want {
			t.Errorf("commandLine(%q) = %q, want %q", c.args, got, c.want)
		}
	}
	if got := commandLine(make([]string, 1000), 40); len(got) > 50 {
		t.Errorf("commandLine of a thousand arguments has %d bytes, want about 40", len(got))
	}
}
