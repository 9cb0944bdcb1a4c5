package packaging

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestPackages builds what `make packages` does for this machine, and tries it. What
// lintian thinks of it takes longer: `make packages-check`.
func TestPackages(t *testing.T) {
	dir := build(t)
	deb := one(t, dir, "*.deb")
	t.Run("contents of the deb", func(t *testing.T) { testDebContents(t, deb) })
	t.Run("manual", func(t *testing.T) { testManual(t, deb) })
	t.Run("completions", func(t *testing.T) { testCompletions(t, deb) })
	t.Run("contents of the rpm", func(t *testing.T) { testRPMContents(t, one(t, dir, "*.rpm")) })
	t.Run("tarball", func(t *testing.T) { testTarball(t, one(t, dir, "*.tar.gz")) })
	t.Run("units", func(t *testing.T) { testUnits(t, deb) })
	t.Run("host with systemd", func(t *testing.T) { testHost(t, deb) })
	t.Run("host with the rpm", func(t *testing.T) { testRPMHost(t, one(t, dir, "*.rpm")) })
	t.Run("host with the tarball", func(t *testing.T) { testTarballHost(t, one(t, dir, "*.tar.gz")) })
	t.Run("host with an operator who errs", func(t *testing.T) { testMistakes(t, deb) })
}

// wanted are files of the packages and their modes.
func wanted() map[string]string {
	return map[string]string{
		"/usr/bin/pitvisor":                                  "-rwxr-xr-x",
		"/usr/libexec/pitvisor/pitvisor":                     "-rwxr-xr-x",
		"/usr/lib/systemd/system/pitvisor.service":           "-rw-r--r--",
		"/usr/lib/systemd/system/pitvisor@.service":          "-rw-r--r--",
		"/usr/lib/systemd/user/pitvisor.service":             "-rw-r--r--",
		"/usr/lib/sysusers.d/pitvisor.conf":                  "-rw-r--r--",
		"/usr/lib/tmpfiles.d/pitvisor.conf":                  "-rw-r--r--",
		"/etc/pitvisor":                                      "drwxr-xr-x",
		"/etc/pitvisor/pitvisor.toml":                        "-rw-r--r--",
		"/etc/pitvisor/conf.d":                               "drwxr-xr-x",
		"/usr/share/pitvisor/pitvisor.schema.json":           "-rw-r--r--",
		"/usr/share/man/man1/pitvisor.1.gz":                  "-rw-r--r--",
		"/usr/share/man/man1/pitvisor-run.1.gz":              "-rw-r--r--",
		"/usr/share/man/man5/pitvisor.toml.5.gz":             "-rw-r--r--",
		"/usr/share/man/man7/pitvisor.7.gz":                  "-rw-r--r--",
		"/usr/share/bash-completion/completions/pitvisor":    "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/pitvisor.fish": "-rw-r--r--",
		"/usr/share/doc/pitvisor/config.md":                  "-rw-r--r--",
		"/usr/share/pitvisor/ci/common.sh":                   "-rw-r--r--",
		"/usr/share/pitvisor/ci/github/job-started.sh":       "-rwxr-xr-x",
		"/usr/share/pitvisor/ci/gitlab/config.toml":          "-rw-r--r--",
	}
}

func testDebContents(t *testing.T, deb string) {
	linuxtest.NeedCommand(t, "dpkg-deb")
	modes := map[string]string{}
	for line := range strings.Lines(sh(t, "dpkg-deb", "-c", deb)) {
		f := strings.Fields(line)
		if f[1] != "root/root" {
			t.Errorf("not of root: %s", line)
		}
		modes[strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/")] = f[0]
	}
	want := wanted()
	want["/usr/share/zsh/vendor-completions/_pitvisor"] = "-rw-r--r--"
	want["/usr/share/doc/pitvisor/copyright"] = "-rw-r--r--"
	compareModes(t, modes, want)
	if got := sh(t, "dpkg-deb", "-f", deb, "Architecture"); got != runtime.GOARCH+"\n" {
		t.Errorf("Architecture = %q", got)
	}
	control := t.TempDir()
	sh(t, "dpkg-deb", "-e", deb, control)
	if got := read(t, control, "conffiles"); got != "/etc/pitvisor/pitvisor.toml\n" {
		t.Errorf("conffiles = %q", got)
	}
	tree := t.TempDir()
	sh(t, "dpkg-deb", "-x", deb, tree)
	for _, program := range []string{"usr/bin/pitvisor", "usr/libexec/pitvisor/pitvisor"} {
		static(t, filepath.Join(tree, program))
	}
}

// static checks that a program needs no library of its host.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read-only
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has %s", path, p.Type)
		}
	}
}

func compareModes(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, mode := range want {
		if got[path] != mode {
			t.Errorf("%s has mode %q, want %q", path, got[path], mode)
		}
	}
}

func testRPMContents(t *testing.T, rpm string) {
	linuxtest.NeedCommand(t, "rpm")
	modes := map[string]string{}
	for line := range strings.Lines(sh(t, "rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEFLAGS:fflags} %{FILENAMES}\n]", rpm)) {
		f := strings.Fields(line)
		path := f[len(f)-1]
		modes[path] = f[0]
		if f[1] != "root" {
			t.Errorf("not of root: %s", line)
		}
		if config := len(f) == 4 && f[2] == "cn"; config != (path == "/etc/pitvisor/pitvisor.toml") {
			t.Errorf("configuration that is kept? %s", line)
		}
	}
	want := wanted()
	want["/usr/share/zsh/site-functions/_pitvisor"] = "-rw-r--r--"
	want["/usr/share/licenses/pitvisor/LICENSE"] = "-rw-r--r--"
	compareModes(t, modes, want)
	if modes["/usr"] != "" || modes["/usr/bin"] != "" {
		t.Error("the package has directories of the system")
	}
}

// testTarball unpacks it and runs what is in it from there.
func testTarball(t *testing.T, file string) {
	dir := t.TempDir()
	sh(t, "tar", "-xzf", file, "-C", dir, "--strip-components=1")
	pitvisor := filepath.Join(dir, "bin", "pitvisor")
	run := func(args ...string) (out string, code int) {
		t.Helper()
		cmd := exec.Command(pitvisor, args...)
		cmd.Env = append(os.Environ(), "PITVISOR_CGROUP_ROOT="+linuxtest.Cgroup(t), "PITVISOR_STATE_DIR="+t.TempDir())
		data, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(data), cmd.ProcessState.ExitCode()
	}
	if out, code := run("run", "--", "/bin/sh", "-c", "exit 7"); code != 7 || out != "" {
		t.Errorf("run = %d: %q, want 7 and silence", code, out)
	}
	version := regexp.MustCompile(`^pitvisor-(.+)-linux-`).FindStringSubmatch(filepath.Base(file))[1]
	if out, code := run("version"); code != 0 || !strings.HasPrefix(out, "pitvisor "+version+" ") {
		t.Errorf("version = %d: %q, want %s", code, out, version)
	}
	shipped := filepath.Join(dir, "share/doc/pitvisor/pitvisor.toml")
	if out, code := run("up", "-f", shipped); code != 2 || !strings.Contains(out, "no [pool.NAME] table") {
		t.Errorf("up without a pool = %d: %q", code, out)
	}
	write(t, strings.ReplaceAll(uncommented(t), `"pitvisor"`, `"daemon"`), dir, "some.toml")
	if out, code := run("check", "-f", filepath.Join(dir, "some.toml")); code != 0 {
		t.Errorf("check of the example in the configuration = %d: %s", code, out)
	}
	for _, unit := range []string{"lib/systemd/system/pitvisor.service", "lib/systemd/user/pitvisor.service"} {
		if !strings.Contains(read(t, dir, unit), "\nExecStart=/usr/local/bin/pitvisor up ") {
			t.Errorf("%s does not start the program of /usr/local", unit)
		}
	}
	for _, name := range []string{"share/man/man1/pitvisor-up.1.gz", "share/man/man1/pitvisor-config-show.1.gz", "share/pitvisor/pitvisor.schema.json", "share/zsh/site-functions/_pitvisor", "share/doc/pitvisor/LICENSE"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// testUnits asks systemd what it thinks of the units.
func testUnits(t *testing.T, deb string) {
	linuxtest.NeedCommand(t, "systemd-analyze", "dpkg-deb")
	tree := t.TempDir()
	sh(t, "dpkg-deb", "-x", deb, tree)
	for unit, flags := range map[string][]string{
		"system/pitvisor.service": nil, "system/pitvisor@.service": nil, "user/pitvisor.service": {"--user"},
	} {
		// Where the programs are is here: it looks whether they can be executed.
		path := filepath.Join(tree, "usr/lib/systemd", unit)
		write(t, strings.ReplaceAll(read(t, path), "/usr/bin/", tree+"/usr/bin/"), path)
		cmd := exec.Command("systemd-analyze", append(flags, "verify", "--man=no", path)...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", unit, err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "Unknown key 'DelegateSubgroup'") && !strings.Contains(line, "Unknown key name 'DelegateSubgroup'") {
				t.Errorf("%s: %s", unit, line)
			}
		}
	}
}
