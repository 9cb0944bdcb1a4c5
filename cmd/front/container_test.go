package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/linuxtest/confine"
)

// box is a container with the installed programs in it.
type box struct {
	bin       string
	dir       string // seen in the container, too
	container confine.Container
}

// newBox makes one as docker run does: fourteen capabilities, /proc/sys read-only.
func newBox(t *testing.T, bin string, view confine.CgroupView, refuse []confine.Refusal) box {
	t.Helper()
	return box{bin: bin, dir: t.TempDir(), container: confine.Container{
		Cgroup: view, Capabilities: confine.DockerCapabilities(), Masked: true, Refuse: refuse,
	}}
}

// boxed builds the programs, or skips where no container can be made.
func boxed(t *testing.T) (bin string) {
	t.Helper()
	linuxtest.NeedRoot(t, "to make a container")
	linuxtest.NeedAdmin(t, "to make a container")
	linuxtest.NeedClone3(t)
	return installed(t)
}

// start starts a script in it, with pitvisor in PATH. What it writes goes to a file.
func (b box) start(t *testing.T, script string, env ...string) (*linuxtest.Process, *os.File) {
	t.Helper()
	out, err := os.CreateTemp(b.dir, "out")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() }) // read by name
	env = append([]string{"PATH=" + b.bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, env...)
	return linuxtest.InContainer(t, b.container, linuxtest.Command{
		Args: []string{"/bin/sh", "-c", script}, Env: env, Dir: b.dir, Stdout: out, Stderr: out,
	}), out
}

// run runs a script to its end and returns its exit code and what it wrote.
func (b box) run(t *testing.T, script string, env ...string) (int, string) {
	t.Helper()
	p, out := b.start(t, script, env...)
	status := p.Wait(t, time.Minute)
	return status.ExitStatus(), read(t, out)
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// says requires an exit code and words.
func says(t *testing.T, code int, out string, want int, words ...string) {
	t.Helper()
	if code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in the output", w)
		}
	}
	if t.Failed() {
		t.Logf("the output:\n%s", out)
	}
}

// leaveDaemon starts a daemon and waits for its exec.
const leaveDaemon = `setsid sleep 1000 & until tr "\0" " " </proc/$!/cmdline | grep -q ^sleep; do :; done`

// What docker run gives is refused with the options that cure it, and --allow-weak
// works as far as it says.
func TestContainerWithReadOnlyCgroups(t *testing.T) {
	b := newBox(t, boxed(t), confine.CgroupReadOnly, confine.DockerRefusals())
	code, out := b.run(t, "pitvisor run -- true")
	says(t, code, out, 125, "read-only file system", "docker run --security-opt writable-cgroups=true", "podman run --security-opt unmask=/sys/fs/cgroup", "cgroup_writable")
	code, out = b.run(t, "pitvisor run --allow-weak -- sh -c '"+leaveDaemon+"; exit 3'")
	says(t, code, out, 3, "left behind by the command and killed: 1 process", " sleep 1000 ", "weak: this ran without a cgroup")
	code, out = b.run(t, "pitvisor doctor")
	says(t, code, out, 1, "NO   cgroup root", "writable-cgroups=true", "tier E")
	code, out = b.run(t, "pitvisor up -f /dev/null")
	if code == 0 {
		t.Errorf("pitvisor up works without a cgroup:\n%s", out)
	}
}

// With the option everything works, by the helper where clone3 is refused.
func TestContainerWithWritableCgroups(t *testing.T) {
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	bin := boxed(t)
	for name, refuse := range map[string][]confine.Refusal{
		"clone3": nil, "ENOSYS": confine.DockerRefusals(), "EPERM": confine.DenyClone3(),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, bin, confine.CgroupPrivate, refuse)
			code, out := b.run(t, "pitvisor run --fail-on-leak -- sh -c '"+leaveDaemon+"; tail -n 1 /proc/self/cgroup'; echo $?; ls /sys/fs/cgroup/pitvisor | grep -c ^run-; pgrep -r D,R,S,T -c sleep")
			says(t, code, out, 1, "0::/pitvisor/run-", "left behind by the command and killed: 1 process", "123\n0\n0\n")
			code, out = b.run(t, `pitvisor run -- sh -c "echo seven >&7" 7>seven; cat seven`)
			says(t, code, out, 0, "seven\n")
			code, out = b.run(t, "pitvisor doctor")
			words := []string{"/sys/fs/cgroup/pitvisor (owned)", "clone3 into a leaf"}
			if refuse != nil {
				words[1] = "a helper that joins the leaf before exec"
			}
			says(t, code, out, 0, words...)
			if strings.Contains(out, "tier E") {
				t.Errorf("tier E on Linux %s:\n%s", host, out)
			}
		})
	}
}

// What docs/containers.md gives as an entry point hands controllers down.
func TestContainerWithLimits(t *testing.T) {
	linuxtest.NeedCgroup2(t, "memory", "pids")
	b := newBox(t, boxed(t), confine.CgroupPrivate, confine.DockerRefusals())
	code, out := b.run(t, "pitvisor run --limit memory.max=100M -- true")
	says(t, code, out, 125, "no memory controller", "move them to a leaf first, as the entry point in docs/containers.md does")
	page, err := os.ReadFile("../../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```sh\n#!/bin/sh\n")
	script, _, ok := strings.Cut(script, "```")
	if !ok {
		t.Fatal("docs/containers.md has no entry point")
	}
	entry := filepath.Join(b.dir, "entry")
	if err := os.WriteFile(entry, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.container.Entry = true
	code, out = b.run(t, "exec "+entry+" run --limit memory.max=100M --limit pids.max=50 -- sh -c 'cd /sys/fs/cgroup/pitvisor/run-*; cat memory.max pids.max'")
	says(t, code, out, 0, "104857600\n50\n")
}

// The host's tree, as of docker run --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw.
func TestContainerWithTheHostsCgroups(t *testing.T) {
	b := newBox(t, boxed(t), confine.CgroupHost, nil)
	group := linuxtest.Cgroup(t)
	inside := "/sys/fs/cgroup" + strings.TrimPrefix(group, mountOf(t, group))
	code, out := b.run(t, "pitvisor run -- tail -n 1 /proc/self/cgroup", "PITVISOR_CGROUP_ROOT="+inside)
	says(t, code, out, 0, filepath.Base(group)+"/run-")
}

// mountOf is the cgroup2 mount that a cgroup is below.
func mountOf(t *testing.T, group string) string {
	t.Helper()
	var top unix.Stat_t
	if err := unix.Stat(group, &top); err != nil {
		t.Fatal(err)
	}
	for {
		up := filepath.Dir(group)
		var st unix.Stat_t
		if err := unix.Stat(up, &st); err != nil || st.Dev != top.Dev {
			return group
		}
		group = up
	}
}

// As entry point pitvisor is PID 1: it reaps, forwards signals, and its end is that of
// the container.
func TestContainerWithPitvisorAsEntryPoint(t *testing.T) {
	bin := boxed(t)
	for name, view := range map[string]confine.CgroupView{"cgroup": confine.CgroupPrivate, "weak": confine.CgroupReadOnly} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, bin, view, confine.DockerRefusals())
			b.container.Entry = true
			script := `exec pitvisor run --allow-weak -- sh -c '
				setsid -f sh -c "exit 0"; (sleep 0.1 &)
				trap "echo got TERM; exit 7" TERM
				echo $(ps -o pid= -p $PPID) is the parent
				while ps -eo stat=,comm= | grep -q "^[SRD].* sleep 0.1"; do sleep 0.05; done
				sleep 0.3
				echo zombies $(ps -eo stat= | grep -c ^Z)
				echo ready
				while :; do sleep 0.05; done'`
			group := linuxtest.Cgroup(t)
			out, err := os.Create(filepath.Join(b.dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = out.Close() }) // read by name
			p := linuxtest.InContainer(t, b.container, linuxtest.Command{
				Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=" + b.bin + ":/usr/bin:/bin"}, Dir: b.dir,
				Stdout: out, Stderr: out, Cgroup: group,
			})
			linuxtest.Wait(t, 30*time.Second, func() (bool, string) {
				text := read(t, out)
				return strings.Contains(text, "ready"), text
			})
			if err := p.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			code := p.Wait(t, 30*time.Second).ExitStatus()
			says(t, code, read(t, out), 7, "1 is the parent", "zombies 0", "got TERM")
			if left := linuxtest.Members(group); len(left) > 0 {
				t.Errorf("left on the host: %v", left)
			}
		})
	}
}
