package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func file(tb testing.TB, name, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := file(t, "shop.toml", valid)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "shop" || c.Path != path || c.Pools[0].Spec.Command.Dir != filepath.Dir(path) {
		t.Errorf("config = %+v", c)
	}
	_, err = Load(file(t, "bad.toml", "x = 1\n"))
	var e *Error
	if !errors.As(err, &e) || e.Line != 1 || e.Column != 1 || filepath.Base(e.File) != "bad.toml" {
		t.Errorf("Load = %v, want the place of an error", err)
	}
}

func TestLoadWhatIsNoReadableFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	f, err := os.Create(large)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v, want %v", err, fs.ErrNotExist)
	}
	for path, want := range map[string]string{
		dir + "/none":                        dir + "/none: open file: no such file or directory",
		dir:                                  dir + ": this is a directory, not a file: name the file in it, such as " + dir + "/pitvisor.toml",
		large:                                large + ": file has more than 16 MiB: this is hardly a configuration",
		"/dev/zero":                          "/dev/zero: file has more than 16 MiB: this is hardly a configuration",
		large + "/x":                         large + "/x: open file: not a directory",
		"/proc/self/mem":                     "/proc/self/mem: read file: input/output error",
		"a\x00b":                             "a\x00b: open file: invalid argument",
		dir + "/" + strings.Repeat("n", 300): dir + "/" + strings.Repeat("n", 300) + ": open file: file name too long",
	} {
		_, err := Load(path)
		var errs Errors
		if !errors.As(err, &errs) || err.Error() != want {
			t.Errorf("Load(%.40q) = %v, want %s", path, err, want)
		}
	}
}

// loadMode loads a file as another user.
func loadMode(args []string) int {
	_, err := Load(args[0])
	fmt.Println(err)
	return 0
}

func TestLoadWithoutPermission(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	path := file(t, "secret.toml", valid)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	argv := linuxtest.Helper(t, "load", path)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if want := path + ": open file: permission denied: the user with ID 65534 must be able to read it\n"; err != nil || string(out) != want {
		t.Errorf("Load = %s%v, want %s", out, err, want)
	}
}

// A file may come through a pipe, as with `-f <(generate)`.
func TestLoadFromAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, []byte(valid), 0) }()
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func TestEnvFile(t *testing.T) {
	path := file(t, "x.env", "\ufeff# comment\n\n  A=1\nB = 2\n"+
		"C='single $x \\n'\r\nD=\"double \\\"q\\\" \\n\\t\\\\ \\$\"\nE= spaced # kept \nF=\nG=''\n")
	c, err := parseText(filepath.Join(filepath.Dir(path), "f.toml"), valid+"inherit_env = false\nenv_file = \"x.env\"\nenv.A = \"wins\"\n", testEnviron())
	if err == nil {
		t.Fatalf("a space before = was accepted: %q", c.Pools[0].Spec.Command.Env)
	}
	if want := path + `:4:1: variable "B ": a name has letters`; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error = %v, want %s", err, want)
	}
	fixed, _ := os.ReadFile(path)
	if err := os.WriteFile(path, []byte(strings.Replace(string(fixed), "B = 2", "B=2", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = parseText(filepath.Join(filepath.Dir(path), "f.toml"), valid+"inherit_env = false\nenv_file = \"x.env\"\nenv.A = \"wins\"\n", testEnviron())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=wins", "B=2", "C=single $x \\n", "D=double \"q\" \n\t\\ $", "E=spaced # kept", "F=", "G=", "PATH=/usr/bin:/bin"}
	if got := c.Pools[0].Spec.Command.Env; !slices.Equal(got, want) {
		t.Errorf("env = %q, want %q", got, want)
	}
}

func TestEnvFileIsAFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, filepath.Dir(fifo), "/dev/zero"} {
		wantErrors(t, valid+"env_file = \""+path+"\"\n", "3:12: env_file "+quoted(path)+": not a regular file")
	}
}

func TestErrorsInAnEnvFileHaveTheirOwnPlace(t *testing.T) {
	path := file(t, "x.env", "export A=1\nB\nC=\"open\n  D='a' b\nE=\"\\q\"\nF=\x00\nPITVISOR_X=1\nG=1\nG=2\n=x\n")
	_, err := parseText("f.toml", valid+"size = 0\nenv_file = \""+path+"\"\nnice = 99\n", nil)
	got := strings.Split(fmt.Sprint(err), "\n")
	want := []string{
		"f.toml:3:8: size is 0",
		path + `:1:1: variable "export A": a name has letters`,
		path + `:2:1: "B" is not of the form KEY=value`,
		path + `:3:3: the closing quote is missing`,
		path + `:4:5: there is more behind the closing quote: " b"`,
		path + `:5:3: unknown escape \q`,
		path + `:6:1: the line is no text`,
		path + `:7:1: variable "PITVISOR_X": names that begin with PITVISOR_`,
		path + `:9:1: variable "G" is set a second time, first in line 8`,
		path + `:10:1: variable "": the name is empty`,
		"f.toml:5:8: nice is 99",
	}
	if len(got) != len(want) {
		t.Fatalf("errors:\n%s", strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d = %s, want %s", i, got[i], want[i])
		}
	}
}

// tenThousand are two files of 10,000 workers.
func manyPools(n int) string {
	var many strings.Builder
	for i := range n {
		fmt.Fprintf(&many, "[pool.web-%d]\ncommand = [\"sh\", \"-c\", \"exec sleep 1\", \"{worker}\"]\nsize = 10\nuser = \"nobody\"\nenv = { N = \"%d\" }\n"+
			"limits = { MemoryMax = \"64M\" }\nstop_grace = \"5s\"\nready = { tcp = \":{port}\", port = %d }\n", i, i, 1024+10*i)
	}
	return many.String()
}

func tenThousand() map[string]string {
	return map[string]string{"pools=1": valid + "size = 10000\n", "pools=1000": manyPools(1000)}
}

// A pool costs no more among a thousand than among a hundred, however fast the machine is:
// four times as much is allowed, where a look at all others with each would be ten. The CPU
// time, and the best of ten, because the machine may be busy with something else.
func TestLoadingGrowsWithTheNumberOfPools(t *testing.T) {
	cost := func(pools int) time.Duration {
		path := file(t, "f.toml", manyPools(pools))
		best := time.Hour
		for range 10 {
			begin := cpuTime(t)
			if _, err := Load(path); err != nil {
				t.Fatal(err)
			}
			best = min(best, cpuTime(t)-begin)
		}
		return best / time.Duration(pools)
	}
	few, many := cost(100), cost(1000)
	t.Logf("a pool of 100 takes %v, of 1000 %v", few, many)
	if many > 4*few {
		t.Errorf("a pool of 1000 takes %v, more than four times the %v of one of 100", many, few)
	}
}

// cpuTime is what this process has used so far.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkLoad(b *testing.B) {
	for name, text := range tenThousand() {
		path := file(b, "f.toml", text)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Load(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
