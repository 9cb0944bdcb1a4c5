package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestTwoHundredAtOnce, or twenty in a short run: runs beside each other do not see each other.
func TestTwoHundredAtOnce(t *testing.T) {
	y := newYard(t)
	var all []*linuxtest.Process
	for i := range linuxtest.Times(200, 20) {
		all = append(all, y.start(t, nil, "/bin/sh", "-c", fmt.Sprintf("setsid sleep 1000 & exit %d", i%100)))
	}
	for i, p := range all {
		linuxtest.ExitCause(t, p.Wait(t, patience), i%100)
	}
	y.nothingLeft(t)
}

func (y yard) nothingLeft(t testing.TB) {
	t.Helper()
	linuxtest.NoProcessesLeft(t, y.root)
	if left := y.runs(t); len(left) > 0 {
		t.Errorf("runs left: %v", left)
	}
}

// TestTwoUsersAtOnce: root, and a user in a subtree that was given to that user, run
// commands at the same time; what each leaves behind is ended by its own pitvisor.
func TestTwoUsersAtOnce(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	linuxtest.NeedCommand(t, "setpriv")
	y := newYard(t)
	theirs := give(t, filepath.Join(y.root, "theirs"))
	var all []*linuxtest.Process
	for range linuxtest.Times(10, 4) {
		all = append(all, y.start(t, nil, "/bin/sh", "-c", "setsid sleep 1000 & sleep 0.05; exit 3"), linuxtest.Command{
			Args: []string{
				"/usr/bin/env", "-u", "PITVISOR_CGROUP_ROOT", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
				filepath.Join(y.bin, "pitvisor"), "run", "--quiet", "--",
				"/bin/sh", "-c", "[ $(id -u) = 65534 ] || exit 9; setsid sleep 1000 & sleep 0.05; exit 3",
			},
			Env: y.env, Cgroup: theirs,
		}.Start(t))
	}
	for _, p := range all {
		linuxtest.ExitCause(t, p.Wait(t, patience), 3)
	}
	y.nothingLeft(t)
	if left := linuxtest.Subgroups(t, theirs); len(left) > 0 {
		t.Errorf("cgroups left in the user's subtree: %v", left)
	}
}

// give makes a cgroup and hands it to nobody, as systemd hands one to a user.
func give(t testing.TB, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		if err := os.Chown(filepath.Join(dir, name), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove the user's subtree: %v", err)
		}
	})
	return dir
}

// TestInsideUp: a worker that is a `pitvisor run` has its run inside its own leaf, and
// that ends with the pool, also when the supervisor is killed and another one sweeps.
func TestInsideUp(t *testing.T) {
	y := newYard(t)
	config := filepath.Join(t.TempDir(), "pitvisor.toml")
	text := fmt.Sprintf("[pool.nested]\ncommand = [%q, \"run\", \"--quiet\", \"--\", \"/bin/sh\", \"-c\", \"setsid sleep 1000 & sleep 1000\"]\n",
		filepath.Join(y.bin, "pitvisor"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	env := append(y.env, "PITVISOR_STATE_DIR="+t.TempDir(), "PITVISOR_RUNTIME_DIR="+t.TempDir())
	up := func() *linuxtest.Process {
		p := linuxtest.Command{Args: []string{filepath.Join(y.bin, "pitvisor"), "up", "-f", config}, Env: env}.Start(t)
		linuxtest.Wait(t, patience, func() (bool, string) {
			members := y.nested(t)
			return len(members) == 1 && len(linuxtest.Members(members[0])) >= 3, fmt.Sprint(members)
		})
		return p
	}
	first := up()
	first.Kill(t)
	stale := y.nested(t)
	second := linuxtest.Command{Args: []string{filepath.Join(y.bin, "pitvisor"), "up", "-f", config}, Env: env}.Start(t)
	linuxtest.CgroupGone(t, stale[0], patience)
	linuxtest.Wait(t, patience, func() (bool, string) { return len(y.nested(t)) == 1, "the nested run of the second supervisor" })
	if err := second.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	linuxtest.ExitCause(t, second.Wait(t, patience), 0)
	y.nothingLeft(t)
}

// nested are the runs inside the leaves of pools.
func (y yard) nested(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(y.root, "run-*", "nested", "*", "run-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWithoutAWritableCgroup: a container without a cgroup is refused with the cure,
// or gets less and is told so.
func TestWithoutAWritableCgroup(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	linuxtest.NeedCommand(t, "unshare", "mount")
	y := newYard(t)
	up := filepath.Join(t.TempDir(), "up") // written to by what stays, when it is what it is to be
	if err := unix.Mkfifo(up, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(flags string) string {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		script := `mount -o remount,ro,bind "$(awk '/ - cgroup2 /{print $5; exit}' /proc/self/mountinfo)" && ` +
			filepath.Join(y.bin, "pitvisor") + " run " + flags + ` -- sh -c 'setsid sh -c "echo >` + up + `; sleep 1000; :" & read _ <` + up + `; exit 4' 2>&1; echo code $?`
		p := linuxtest.Command{
			Args: []string{"/usr/bin/env", "-u", "PITVISOR_CGROUP_ROOT", "unshare", "--mount", "/bin/sh", "-c", script},
			Env:  y.env, Stdout: write, Stderr: write,
		}.Start(t)
		_ = write.Close() // a copy that was only passed on
		out := readAll(t, read)
		p.Wait(t, patience)
		return out
	}
	refused := run("")
	for _, want := range []string{"read-only", "hint: ", "--allow-weak", "code 125"} {
		if !strings.Contains(refused, want) {
			t.Errorf("pitvisor run = %q, want %q in it", refused, want)
		}
	}
	weak := run("--allow-weak")
	for _, want := range []string{"sleep 1000", "weak: this ran without a cgroup", "code 4"} {
		if !strings.Contains(weak, want) {
			t.Errorf("pitvisor run --allow-weak = %q, want %q in it", weak, want)
		}
	}
}

func readAll(t testing.TB, f *os.File) string {
	t.Helper()
	defer f.Close()
	var text []byte
	for buf := make([]byte, 4096); ; {
		n, err := f.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			return string(text)
		}
	}
}
