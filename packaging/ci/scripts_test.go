package ci_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestShellcheck holds all shell scripts of the project against shellcheck.
func TestShellcheck(t *testing.T) {
	linuxtest.NeedCommand(t, "shellcheck")
	var files []string
	for _, pattern := range []string{
		"packaging/build", "packaging/scripts/*", "packaging/ci/*.sh", "packaging/ci/*/*", "scripts/*", "examples/*/*", ".ci/*",
	} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			if isShell(t, file) {
				rel, err := filepath.Rel("../..", file)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, rel)
			}
		}
	}
	for _, must := range []string{"packaging/build", "packaging/scripts/postinst", "packaging/ci/common.sh", "scripts/need"} {
		if !slices.Contains(files, must) {
			t.Errorf("found the scripts %q and not %s: does this test still look?", files, must)
		}
	}
	check := exec.Command("shellcheck", append([]string{"--external-sources", "--format=gcc"}, files...)...)
	check.Dir = "../.."
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// isShell goes by the first line: that of a script, or what tells shellcheck.
func isShell(t *testing.T, file string) bool {
	t.Helper()
	if matched, err := filepath.Glob(file + "/*"); err != nil || len(matched) > 0 {
		return false // a directory
	}
	first, _, _ := strings.Cut(readFile(t, file), "\n")
	return strings.HasPrefix(first, "#!") && strings.HasSuffix(first, "sh") || strings.HasPrefix(first, "# shellcheck shell=")
}

// TestLeaksOfReport: what the scripts read out of a JUnit report is what it says.
func TestLeaksOfReport(t *testing.T) {
	leaks := func(file string) string {
		t.Helper()
		out, err := exec.Command("sh", "-c", `. ./common.sh; ci_leaks "$1"`, "sh", file).CombinedOutput()
		if err != nil {
			t.Fatalf("ci_leaks %s: %v\n%s", file, err, out)
		}
		return string(out)
	}
	want := `left behind by the command and not all of it killed: 4 processes
  4711:84423 redis-server *:6379 uid 0 age 3s (setsid, reparented) listening 127.0.0.1:6379, [::]:6379, udp 0.0.0.0:53, unix /run/redis.sock, 2 more
  4712:84424 sh -c "sleep 100" ""... uid 1000 age 1m5s (double-fork, other-user, nested run 01jthc4aaaaaaaaaaaaaaaaaaa)
  4713 [unknown] unknown: state, uid, args, environment, listening
  and 1 more process
end cgroup /sys/fs/cgroup/pitvisor/run-01jthc3p4vx0t7v9k2n8m5q6rs: 1 process left (4712 sh D nfs_wait_bit_killable): connection timed out
`
	if got := leaks("../../internal/report/testdata/junit.xml"); got != want {
		t.Errorf("ci_leaks = %q, want %q", got, want)
	}
	if got := leaks("../../internal/report/testdata/clean.xml"); got != "" {
		t.Errorf("ci_leaks of a clean run = %q, want nothing", got)
	}
}

// TestPage: docs/ci.md tells of every input and output of the action, and of every
// variable that is for the scripts.
func TestPage(t *testing.T) {
	page := readFile(t, "../../docs/ci.md")
	names := regexp.MustCompile(`(?m)^  ([a-z-]+):$`).FindAllStringSubmatch(readFile(t, "github/action.yml"), -1)
	names = append(names, regexp.MustCompile(`(?m)^#\t(PITVISOR_CI_[A-Z]+) `).FindAllStringSubmatch(readFile(t, "common.sh"), -1)...)
	if len(names) < 10 {
		t.Fatalf("found the names %q: does this test still look?", names)
	}
	for _, name := range names {
		if name[1] != "steps" && !strings.Contains(page, "`"+name[1]+"`") {
			t.Errorf("docs/ci.md does not tell of %s", name[1])
		}
	}
}

// testBuildkiteCommands: what the agent would execute and what it would refuse.
func testBuildkiteCommands(t *testing.T, bin string) {
	tests := []struct {
		name, command, eval, want string
		code                      int
	}{
		{"lines", "echo one\necho \"two   words\"", "true", "one\ntwo   words\n", 0},
		{"lines stop at a failure", "echo one\nfalse\necho two", "true", "one\n", 1},
		{"file", "ci/test.sh", "true", "file ./ci/test.sh\n", 0},
		{"file of the checkout without eval", "ci/ready.sh", "false", "file ./ci/ready.sh\n", 0},
		{"file that is not executable without eval", "ci/test.sh", "false", "", 126},
		{"command without eval", "echo one", "false", "", 1},
		{"file from outside without eval", "../outside.sh", "false", "", 1},
		{"link to outside without eval", "ci/link.sh", "false", "", 1},
		{"nothing", " \n", "true", "", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, bin)
			script := "#!/bin/sh\necho file \"$0\"\n"
			m.write(t, "outside.sh", script)
			m.dir = filepath.Dir(m.write(t, "checkout/README", ""))
			m.write(t, "checkout/ci/ready.sh", script)
			for _, argv := range [][]string{{"cp", "ci/ready.sh", "ci/test.sh"}, {"chmod", "-x", "ci/test.sh"}, {"ln", "-s", "../../outside.sh", "ci/link.sh"}} {
				if code, _, said := m.run(t, argv...); code != 0 {
					t.Fatal(said)
				}
			}
			s := buildkite()
			s.before(t, m)
			m.env["BUILDKITE_COMMAND_EVAL"] = test.eval
			code, out, said := m.runJob(t, s, []string{test.command})
			if code != test.code || out != test.want {
				t.Errorf("exit code %d, printed %q, said %q, want %d, %q", code, out, said, test.code, test.want)
			}
		})
	}
}
