package spawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

// besideRoom is a leaf with a process, and a cgroup in it for what is started beside.
func besideRoom(t *testing.T, cmd ...string) (leaf, guest *cgroup.Dir, other *Process) {
	t.Helper()
	linuxtest.NeedClone3(t)
	linuxtest.NeedCommand(t, cmd[0])
	linuxtest.NoLeaks(t)
	leaf = newLeaf(t, testRoot(t), "leaf")
	path, err := LookPath(cmd[0], os.Environ(), "")
	if err != nil {
		t.Fatal(err)
	}
	other = start(t, &Cmd{Path: path, Args: cmd, Leaf: leaf})
	guest = newLeaf(t, leaf, "guest-1")
	return leaf, guest, other
}

// sleeper waits until a process of the leaf runs sleep, and holds it.
func sleeper(t *testing.T, leaf *cgroup.Dir) *pidfd.Process {
	t.Helper()
	var found *pidfd.Process
	linuxtest.Wait(t, within, func() (bool, string) {
		pids, err := leaf.PIDsRecursive()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if string(comm) == "sleep\n" {
				if found, err = pidfd.Open(pid); err == nil {
					return true, ""
				}
			}
		}
		return false, "no sleep yet"
	})
	t.Cleanup(func() { _ = found.Close() })
	return found
}

// sayBeside runs a script beside a process and returns what it printed.
func sayBeside(t *testing.T, b Beside, script string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	b.Path, b.Args, b.Stdout, b.Stderr = "/bin/sh", []string{"sh", "-c", script}, w, os.Stderr
	if b.Env == nil {
		b.Env = []string{"PATH=" + os.Getenv("PATH")}
	}
	p, err := StartBeside(&b)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); !exit.Success() {
		t.Errorf("%s: %v", script, exit)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	return string(out)
}

const listNamespaces = `for n in user mnt net ipc uts cgroup pid; do readlink /proc/self/ns/$n; done`

// namespacesOf lists them as listNamespaces does.
func namespacesOf(t *testing.T, p *pidfd.Process, pid string) string {
	t.Helper()
	var b strings.Builder
	for _, n := range []string{"user", "mnt", "net", "ipc", "uts", "cgroup", pid} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID(), n))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, link)
	}
	return b.String()
}

// TestBesidePlain: without a namespace of its own, what is asked for is what it gets.
func TestBesidePlain(t *testing.T) {
	_, guest, other := besideRoom(t, "sleep", "600")
	umask := 0o027
	b := Beside{Cmd: Cmd{Leaf: guest, Dir: "/usr", Umask: &umask, Env: []string{"A=1"}}, Process: other.Handle()}
	out := sayBeside(t, b, `echo $A; pwd; umask; cat /proc/self/cgroup; ulimit -n`)
	lines := strings.Split(out, "\n")
	if lines[0] != "1" || lines[1] != "/usr" || lines[2] != "0027" || !strings.Contains(out, "/leaf/guest-1\n") {
		t.Errorf("said %q", out)
	}
	if got := sayBeside(t, Beside{Cmd: Cmd{Leaf: guest}, Process: other.Handle()}, listNamespaces); got != namespacesOf(t, other.Handle(), "pid") {
		t.Errorf("namespaces %s", got)
	}
}

// TestBesideSettings: what only root may give, and a helper gives elsewhere.
func TestBesideSettings(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	_, guest, other := besideRoom(t, "sleep", "600")
	score, nice := 7, 19 // lower ones need more than every root has
	b := Beside{Process: other.Handle(), Cmd: Cmd{
		Leaf: guest, OOMScoreAdj: &score, Nice: &nice, NoNewPrivs: true,
		Credential: &Credential{UID: 65533, GID: 65532, Groups: []uint32{65531}},
		Rlimits:    []Rlimit{{unix.RLIMIT_NOFILE, 77, 88}, {unix.RLIMIT_CORE, 0, 0}},
	}}
	out := sayBeside(t, b, `id -u; id -G; cat /proc/self/oom_score_adj; nice; ulimit -n; ulimit -Hn; grep -E 'CapEff|NoNewPrivs' /proc/self/status`)
	want := "65533\n65532 65531\n7\n19\n77\n88\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
	if out != want {
		t.Errorf("said %q, want %q", out, want)
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil || strings.TrimSpace(string(own)) == "7" {
		t.Errorf("our own OOM score is %s, %v", own, err)
	}
}

// TestBesideNamespaces: each kind, alone and together.
func TestBesideNamespaces(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	for _, flags := range []string{"-n", "-m", "-u", "-i", "-C", "-nmuiC"} {
		t.Run(flags, func(t *testing.T) {
			leaf, guest, _ := besideRoom(t, "unshare", flags, "sleep", "600")
			other := sleeper(t, leaf)
			want := namespacesOf(t, other, "pid")
			if got := sayBeside(t, Beside{Cmd: Cmd{Leaf: guest}, Process: other}, listNamespaces); got != want || want == namespacesOf(t, mustSelf(t), "pid") {
				t.Errorf("namespaces %s, want %s", got, want)
			}
		})
	}
}

// end kills who outlives unshare, and waits.
func end(t *testing.T, p *pidfd.Process) {
	t.Helper()
	if err := errors.Join(p.Signal(unix.SIGKILL), p.Wait(context.Background())); err != nil {
		t.Error(err)
	}
}

func mustSelf(t *testing.T) *pidfd.Process {
	t.Helper()
	self, err := pidfd.Self()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = self.Close() })
	return self
}

// TestBesidePIDNamespace: the command is where the children of the other are, it is our
// child, and it ends with that namespace.
func TestBesidePIDNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	leaf, guest, main := besideRoom(t, "unshare", "-p", "-f", "--mount-proc", "sleep", "600")
	inner := sleeper(t, leaf)
	b := Beside{Cmd: Cmd{Leaf: guest}, Process: main.Handle()}
	if got, want := sayBeside(t, b, listNamespaces+`; ps -o pid= -p 1 >/dev/null && cat /proc/1/comm`), namespacesOf(t, inner, "pid")+"sleep\n"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	b.Path, b.Args = "/bin/sleep", []string{"sleep", "600"}
	p, err := StartBeside(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Executed() {
		t.Error("it is said not to have executed")
	}
	if err := inner.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != unix.SIGKILL {
		t.Errorf("after the end of its namespace: %v", exit)
	}
	_ = p.Close()
	if _, err := StartBeside(&b); err == nil {
		t.Error("started in a PID namespace that has ended")
	}
}

// TestBesideFilesKeepTheWayIn: the ways into the namespaces are descriptors, which those
// of the command must not overwrite on their way, nor where they end.
func TestBesideFilesKeepTheWayIn(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	leaf, guest, main := besideRoom(t, "unshare", "-p", "-f", "--mount-proc", "sleep", "600")
	inner := sleeper(t, leaf)
	defer end(t, inner)
	want := namespacesOf(t, inner, "pid")
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// Descriptor 1 is below its place as stderr, so it is moved away first.
	b := Beside{Cmd: Cmd{Leaf: guest, Path: "/bin/sh", Args: []string{"sh", "-c", listNamespaces}, Stdout: out, Stderr: os.Stdout}, Process: main.Handle()}
	p, err := StartBeside(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if exit := wait(t, p); !exit.Success() {
		t.Error(exit)
	}
	if got, err := os.ReadFile(out.Name()); err != nil || string(got) != want {
		t.Errorf("said %q, %v, want %q", got, err, want)
	}
}

// TestBesideUserNamespace: the user is who the other is in there, and keeps no group.
func TestBesideUserNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	for _, flags := range []string{"-Ur", "-Urmn", "-Urpf"} {
		t.Run(flags, func(t *testing.T) {
			linuxtest.NeedCommand(t, "unshare")
			linuxtest.NeedClone3(t)
			linuxtest.NoLeaks(t)
			leaf := newLeaf(t, testRoot(t), "leaf")
			path, err := LookPath("unshare", os.Environ(), "")
			if err != nil {
				t.Fatal(err)
			}
			user := &Credential{UID: 65533, GID: 65532, Groups: []uint32{65531}}
			main := start(t, &Cmd{Path: path, Args: []string{"unshare", flags, "sleep", "600"}, Leaf: leaf, Credential: user})
			inner := sleeper(t, leaf)
			defer end(t, inner)
			b := Beside{Cmd: Cmd{Leaf: newLeaf(t, leaf, "guest-1"), Credential: user}, Process: main.Handle()}
			out := sayBeside(t, b, listNamespaces+`; id -u; id -g; grep ^Groups: /proc/self/status`)
			want := namespacesOf(t, inner, "pid") + "0\n0\nGroups:\t65534 \n"
			if flags == "-Urpf" { // /proc is that of the host, where it has no number
				if !strings.HasSuffix(out, "0\n0\n") && !strings.Contains(out, "0\n0\n") {
					t.Errorf("said %q", out)
				}
				return
			}
			if out != want {
				t.Errorf("said %q, want %q", out, want)
			}
			b.Path, b.Credential = "/bin/true", &Credential{UID: 12345, GID: 12345}
			if _, err := StartBeside(&b); causeIs(err) != CauseNamespace {
				t.Errorf("a user that is not mapped: %v", err)
			}
		})
	}
}

// TestBesideOwnUserNamespace: what an ordinary user has made an ordinary user can enter.
func TestBesideOwnUserNamespace(t *testing.T) {
	for _, flags := range []string{"-Ur", "-Urmnui", "-Urmpf"} {
		t.Run(flags, func(t *testing.T) {
			leaf, guest, main := besideRoom(t, "unshare", flags, "sleep", "600")
			needStarted(t, main)
			inner := sleeper(t, leaf)
			defer endInner(t, inner)
			b := Beside{Cmd: Cmd{Leaf: guest}, Process: main.Handle()}
			out := sayBeside(t, b, `id -u; echo $$; kill -0 1 2>/dev/null && echo first; true`)
			lines := strings.Split(out, "\n")
			if lines[0] != "0" {
				t.Errorf("said %q", out)
			}
			if strings.Contains(flags, "p") && (len(lines[1]) > 3 || lines[2] != "first") {
				t.Errorf("in the PID namespace: said %q", out)
			}
		})
	}
}

// endInner ends what outlives unshare -f.
func endInner(t *testing.T, p *pidfd.Process) {
	t.Helper()
	_ = p.Signal(unix.SIGKILL) // it may have ended
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// needStarted skips the test where an ordinary user gets no user namespace: unshare has
// ended then.
func needStarted(t *testing.T, unshare *Process) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		if _, err := unshare.Reap(); err == nil {
			linuxtest.Skip(t, "needs user namespaces of ordinary users")
		}
		user, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", unshare.PID()))
		own, ownErr := os.Readlink("/proc/self/ns/user")
		return err == nil && ownErr == nil && user != own, "unshare has not made its namespaces yet"
	})
}

// TestBesideOtherRoot: whose root is another gets no command into it, but who may can go
// there by /proc.
func TestBesideOtherRoot(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make namespaces")
	linuxtest.NeedCommand(t, "chroot", "mount")
	dir := t.TempDir()
	leaf, guest, main := besideRoom(t, "unshare", "-m", "/bin/sh", "-c", `mount --rbind / "$0" && exec chroot "$0" sleep 600`, dir)
	inner := sleeper(t, leaf)
	script := fmt.Sprintf(`test -d %[1]s/proc && echo outside; chroot /proc/%[2]d/root test -d %[1]s/proc || echo inside`, dir, inner.PID())
	if got := sayBeside(t, Beside{Cmd: Cmd{Leaf: guest}, Process: main.Handle()}, script); got != "outside\ninside\n" {
		t.Errorf("said %q, want to be outside of the root, and then inside", got)
	}
}

func causeIs(err error) Cause {
	var e *Error
	if errors.As(err, &e) {
		return e.Cause
	}
	return CauseUnknown
}

// TestBesideFails: each failure has its cause, and nothing is left of it.
func TestBesideFails(t *testing.T) {
	_, guest, other := besideRoom(t, "sleep", "600")
	dir := t.TempDir()
	plain, empty := filepath.Join(dir, "plain"), filepath.Join(dir, "empty")
	for path, mode := range map[string]os.FileMode{plain: 0o644, empty: 0o755} {
		if err := os.WriteFile(path, []byte("\x00\x01"), mode); err != nil {
			t.Fatal(err)
		}
	}
	b := Beside{Cmd: Cmd{Path: "x", Leaf: guest}, Process: other.Handle()}
	for want, search := range map[Cause][]string{
		CauseNotFound: {"/nowhere/x", "/etc/passwd/x"}, CauseNotExecutable: {"/nowhere/x", plain, "/nowhere/y"}, CauseBadFormat: {empty},
	} {
		b.Search = search
		if _, err := StartBeside(&b); causeIs(err) != want {
			t.Errorf("%v: %v is %v, want %v", search, err, causeIs(err), want)
		}
	}
	b.Search, b.Path, b.Dir = nil, "/bin/true", "/nowhere"
	if _, err := StartBeside(&b); causeIs(err) != CauseBadDir {
		t.Errorf("directory: %v", err)
	}
	b.Dir, b.Stdin, b.Terminal = "", os.Stdin, true
	if f, err := os.Open(os.DevNull); err == nil {
		b.Stdin = f
		defer f.Close()
	}
	if _, err := StartBeside(&b); causeIs(err) != CauseSetting {
		t.Errorf("no terminal: %v", err)
	}
	b.Stdin, b.Terminal, b.Args, b.Search = nil, false, nil, []string{"/nowhere/true", "/bin/true"}
	p, err := StartBeside(&b)
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); !exit.Success() {
		t.Error(exit)
	}
	_ = p.Close()
	_ = other.Signal(unix.SIGKILL) // it lives
	wait(t, other)
	if _, err := StartBeside(&b); causeIs(err) != CauseNamespace {
		t.Errorf("beside who has ended: %v", err)
	}
	if children, err := ChildLeft(); children || err != nil {
		t.Errorf("children are left: %v, %v", children, err)
	}
}

func TestCandidates(t *testing.T) {
	env := []string{"PATH=/a:b::/c", "X=1"}
	if got := strings.Join(Candidates("sh", env), " "); got != "/a/sh /c/sh" {
		t.Error(got)
	}
	if got := strings.Join(Candidates("./sh", env), " "); got != "./sh" {
		t.Error(got)
	}
	if got := strings.Join(Candidates("sh", nil), " "); got != "/usr/local/bin/sh /usr/bin/sh /bin/sh" {
		t.Error(got)
	}
}

func TestMapID(t *testing.T) {
	for text, want := range map[string]string{
		"         0          0 4294967295\n": "1000 true",
		"0 1000 1\n":                         "0 true",
		"0 100000 65536\n65536 1000 10\n":    "65536 true",
		"0 100000 65536\n":                   "0 false", "": "0 false", "x y z\n": "0 false",
	} {
		id, ok := mapID(text, 1000)
		if got := strconv.Itoa(int(id)) + " " + strconv.FormatBool(ok); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
