package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagsOfSystemd(t *testing.T) {
	o, err := parseSystemd([]string{"-suite", "trixie", "-cold", "Reboot", "-file", "a.deb", "-file", "b", "./x", "--", "-test.run=X"})
	if err != nil {
		t.Fatal(err)
	}
	if o.suites != "trixie" || o.cold != "Reboot" || strings.Join(o.files, " ") != "a.deb b" || o.packages[0] != "./x" || o.args[0] != "-test.run=X" || o.verbose {
		t.Errorf("options %+v", o)
	}
	if o, err = parseSystemd([]string{"--", "./program"}); err != nil || o.suites != "bookworm,trixie" || !o.verbose {
		t.Errorf("options %+v, %v", o, err)
	}
	for _, args := range [][]string{nil, {"-suite", "", "./x"}, {"-nonsense", "./x"}} {
		if _, err := parseSystemd(args); !errors.Is(err, errUsage) {
			t.Errorf("parseSystemd(%q) = %v, want that it is a wrong call", args, err)
		}
	}
}

// What is wrong with the call is said before anything is built or booted.
func TestSystemdRefusesEarly(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "skips"), []byte("one two\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"-cold: error parsing regexp": {"-cold", "(", "--", program},
		"-file is for packages":       {"-file", program, "--", program},
		"no such file":                {"--", program + "x"},
		`kernels "one"`:               {"-skips", filepath.Join(dir, "skips"), "--", program},
	} {
		ok, err := runSystemd(context.Background(), append([]string{"-cache", dir}, args...))
		if ok || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("systemd %q = %v, %v, want %s", args, ok, err, want)
		}
	}
}
