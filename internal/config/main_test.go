package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{"load": loadMode})
}

// testEnviron is the supervisor's environment in most tests.
func testEnviron() []string {
	return []string{
		"PATH=/usr/bin:/bin", "LANG=C", "NOTIFY_SOCKET=/run/x", "WATCHDOG_USEC=1", "LISTEN_FDS=2",
		"JOURNAL_STREAM=8:1", "INVOCATION_ID=ab", "MAINPID=1", "PITVISOR_RUN_ID=z", "WATCH=kept",
	}
}

// parseText parses a text as that of one file.
func parseText(name, text string, environ []string) (*Config, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	c, _, err := parse(path, []input{{name: name, data: []byte(text)}}, environ, false)
	return c, err
}

// good parses a text that must be right.
func good(tb testing.TB, text string) *Config {
	tb.Helper()
	c, err := parseText("/etc/pitvisor/f.toml", text, testEnviron())
	if err != nil {
		tb.Fatalf("parse %s:\n%v", text, err)
	}
	return c
}

// pool parses the keys of one pool that must be right.
func pool(tb testing.TB, text string) Pool {
	tb.Helper()
	if !strings.Contains(text, "command =") {
		text = "command = [\"/bin/true\"]\n" + text
	}
	return good(tb, "[pool.web]\n"+text).Pools[0]
}

// errorsOf parses a text and returns its errors without the file's name.
func errorsOf(tb testing.TB, text string) []string {
	tb.Helper()
	_, err := parseText("f.toml", text, testEnviron())
	if err == nil {
		return nil
	}
	var errs Errors
	if !errors.As(err, &errs) || len(errs) == 0 {
		tb.Fatalf("parse(%q) = %T, want Errors", text, err)
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		var ok bool
		if lines[i], ok = strings.CutPrefix(line, "f.toml:"); !ok {
			tb.Errorf("error %q does not begin with the file", line)
		}
	}
	return lines
}

// wantErrors compares errors with what they begin with.
func wantErrors(t *testing.T, text string, want ...string) {
	t.Helper()
	got := errorsOf(t, text)
	if len(got) != len(want) {
		t.Errorf("%d errors, want %d:\n%s\nin:\n%.400s", len(got), len(want), strings.Join(got, "\n"), text)
		return
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d:\n got %s\nwant %s", i, got[i], want[i])
		}
	}
}
