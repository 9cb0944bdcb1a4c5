package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// visit runs the command and returns its output, exit code and reports.
func visit(t *testing.T, args ...string) (string, int, []vm.Report) {
	t.Helper()
	linuxtest.NeedRoot(t, "to make a container")
	linuxtest.NeedAdmin(t, "to make a container")
	linuxtest.NeedCommand(t, "go")
	linuxtest.NeedCgroup2(t)
	file := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.Command(build(t, "."), slices.Insert(slices.Clone(args), 1, "-json", file)...)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	var reports []vm.Report
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &reports)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out), cmd.ProcessState.ExitCode(), reports
}

func TestPackagesAreTestedInConfinement(t *testing.T) {
	skips := t.TempDir()
	for _, name := range []string{"docker", "writable"} {
		if err := os.WriteFile(filepath.Join(skips, name), []byte("all needs something\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"container": {"container", "-kind", "docker,writable", "-skips", skips},
		"delegated": {"delegated", "-skips", filepath.Join(skips, "docker")},
	} {
		t.Run(name, func(t *testing.T) {
			out, code, reports := visit(t, append(args, "-env", "A=b c", "./testdata/confined")...)
			if code != 1 || len(reports) == 0 {
				t.Fatalf("exit code %d, %d reports\n%s", code, len(reports), out)
			}
			for _, r := range reports {
				if r.Lane != name || r.Release == "" || r.Tier == "" || r.OK() || len(r.Programs) != 1 {
					t.Fatalf("report %+v\n%s", r, out)
				}
				p := r.Programs[0]
				if p.Tests == nil || p.Tests.Passed != 3 || len(p.Tests.Failed) != 1 || p.Tests.Failed[0].Test != "TestFails" {
					t.Fatalf("outcome %+v, tests %+v\n%s", p, p.Tests, out)
				}
				if want := []vm.Skip{{Test: "TestSkips/forbidden", Reason: "is lazy"}}; len(p.Tests.Skipped) != 2 || !slices.Equal(p.Unexplained, want) {
					t.Errorf("skipped %v, unexplained %v, want %v", p.Tests.Skipped, p.Unexplained, want)
				}
				if len(p.Left) != 1 {
					t.Errorf("left behind %q, want the daemon", p.Left)
				}
			}
			for _, want := range []string{"as it should", "must not be skipped: TestSkips/forbidden: is lazy", "FAIL"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in the output:\n%s", want, out)
				}
			}
		})
	}
}

func TestProgramInConfinement(t *testing.T) {
	out, code, reports := visit(t, "container", "-kind", "docker", "-entry", "--", "/bin/sh", "-c", "echo I am $$")
	if code != 0 || len(reports) != 1 || reports[0].System != "docker" || !strings.Contains(out, "I am 1\n") {
		t.Errorf("exit code %d, reports %+v\n%s", code, reports, out)
	}
	out, code, _ = visit(t, "delegated", "-uid", "61234", "--", "/bin/sh", "-c", "id -u; id -G; exit 3")
	if code != 1 || !strings.Contains(out, "61234\n61234\n") || !strings.Contains(out, "exit code 3") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestWrongCallsOfConfinement(t *testing.T) {
	linuxtest.NeedRoot(t, "to make a container")
	for _, args := range [][]string{{"container"}, {"delegated"}, {"container", "-nonsense", "./x"}} {
		if code := run(t.Context(), args); code != 2 {
			t.Errorf("run(%q) = %d, want 2", args, code)
		}
	}
	for _, args := range [][]string{
		{"container", "-kind", "some", "--", "/bin/true"},
		{"container", "--", "/no/such/program"},
		{"delegated", "-uid", "-3", "--", "/bin/true"},
		{"delegated", "-skips", "/no/such/file", "--", "/bin/true"},
	} {
		if code := run(t.Context(), args); code != 1 {
			t.Errorf("run(%q) = %d, want 1", args, code)
		}
	}
}
