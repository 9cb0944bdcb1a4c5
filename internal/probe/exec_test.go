package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// shell is an exec rule that runs a script.
func shell(script string) Rules {
	return Rules{Exec: []string{"/bin/sh", "-c", script}}
}

// execRig is a start whose exec rule has a worker to look at.
func execRig(t *testing.T, rules Rules, deps Deps) *rig {
	t.Helper()
	r := place(t)
	r.prepare(rules, deps, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	return r
}

// mustBeAlone checks that the pool holds the worker's leaf and nothing else.
func (r *rig) mustBeAlone() {
	r.t.Helper()
	names, err := r.pool.Children()
	if err != nil || len(names) != 1 || names[0] != r.leaf.Name() {
		r.t.Errorf("the pool holds %v (%v), want only %s", names, err, r.leaf.Name())
	}
}

func TestExecExitZeroMeansReady(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := execRig(t, shell("exit 0"), Deps{})
	r.ready()
	r.mustBeAlone()
}

func TestExecIsTriedUntilItHolds(t *testing.T) {
	linuxtest.NoLeaks(t)
	file := filepath.Join(t.TempDir(), "tries")
	r := execRig(t, shell("echo x >> "+file+"; test $(wc -l < "+file+") -ge 3"), Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}})
	r.ready()
	tries, err := os.ReadFile(file)
	if err != nil || strings.Count(string(tries), "x") != 3 {
		t.Errorf("it was tried %q (%v), want 3 times", tries, err)
	}
	r.mustBeAlone()
}

func TestExecFailureQuotesItsLastLine(t *testing.T) {
	linuxtest.NoLeaks(t)
	r := execRig(t, shell("echo one; echo the database is starting >&2; exit 2"), Deps{})
	r.notReady(time.Second, `^exec /bin/sh -c .*: exit 2: the database is starting after \d+ tr`)
	r.mustBeAlone()
}

// What a try leaves behind is killed with its leaf, before the next one begins.
func TestExecLeftoversAreKilled(t *testing.T) {
	linuxtest.NoLeaks(t)
	file := filepath.Join(t.TempDir(), "pids")
	r := execRig(t, shell("setsid sleep 100 & echo $! >> "+file+"; exit 1"), Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}})
	r.notReady(time.Second, "exit 1")
	r.mustBeAlone()
	pids, err := os.ReadFile(file)
	if err != nil || len(pids) == 0 {
		t.Errorf("no try left a process behind (%v)", err)
	}
}

func TestExecThatHangsIsCutOff(t *testing.T) {
	linuxtest.NoLeaks(t)
	rules := shell("trap '' TERM; sleep 100 & wait; sleep 100")
	rules.TryTimeout = 100 * time.Millisecond
	r := execRig(t, rules, Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}})
	r.notReady(time.Second, "no answer within 100ms after [1-9] tr")
	r.mustBeAlone()
}

// A command that never stops talking neither blocks nor fills the memory.
func TestExecThatFloods(t *testing.T) {
	r := execRig(t, shell("head -c 10000000 /dev/zero | tr '\\0' x"), Deps{ExecEnv: []string{"PATH=/usr/bin:/bin"}})
	r.ready()
}

func TestExecMissingProgramFailsAtOnce(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, name := range []string{"/no/such/program", "no-such-program"} {
		r := execRig(t, Rules{Exec: []string{name}}, Deps{ExecEnv: []string{"PATH=/usr/bin"}})
		r.fails("no.such.program")
		r.mustBeAlone()
	}
}

func TestExecSeesTheStart(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	r := place(t)
	rules := shell(`echo "$0 $1 $2 $PITVISOR_WORKER $PITVISOR_START $PITVISOR_PORT $HELLO $(pwd) $(cut -d: -f3 /proc/self/cgroup | tail -1)" > ` + out)
	rules.Exec = append(rules.Exec, "{worker}", "{start}", "{port}")
	rules.Port = 7000
	r.prepare(rules, Deps{ExecEnv: []string{"PATH=/usr/bin:/bin", "HELLO=hello-{slot}"}, ExecDir: dir}, supervise.Output{})
	r.start(nil, linuxtest.Helper(t, "sit")...)
	r.ready()
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := "web/0 1 7000 web/0 1 7000 hello-0 " + dir + " "
	if !strings.HasPrefix(string(got), want) || !strings.HasSuffix(strings.TrimSpace(string(got)), "/"+r.pool.Name()+"/probe-0.1.1") {
		t.Errorf("the command saw %q, want %q and a leaf beside the worker's", got, want)
	}
}

func TestExecRunsAsTheGivenUser(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	r := execRig(t, shell("test $(id -u):$(id -g):$(id -G) = 65534:65534:65534"), Deps{
		ExecEnv:        []string{"PATH=/usr/bin:/bin"},
		ExecCredential: &spawn.Credential{UID: 65534, GID: 65534},
	})
	r.ready()
}

// spawned starts the main process as the supervisor does.
func (r *rig) spawned(netns bool, out *os.File, argv ...string) {
	r.t.Helper()
	p, err := spawn.Start(&spawn.Cmd{
		Path: argv[0], Args: argv, Env: append(os.Environ(), r.attempt.Env()...), Leaf: r.leaf,
		Stdout: out, ExtraFiles: r.attempt.Files(), NetNS: netns,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.main = p.Handle()
	r.t.Cleanup(func() {
		if err := r.leaf.Kill(); err != nil {
			r.t.Error(err)
		}
		linuxtest.Wait(r.t, 10*time.Second, func() (bool, string) {
			_, err := p.Reap()
			return err == nil, fmt.Sprint(err)
		})
		_ = p.Close()
	})
}

// The descriptor has the number that the worker was promised.
func TestFDOfASpawnedWorker(t *testing.T) {
	linuxtest.NoLeaks(t)
	for _, fd := range []int{3, 5} {
		r := place(t)
		r.prepare(Rules{FD: fd}, Deps{}, supervise.Output{})
		r.spawned(false, nil, "/bin/sh", "-c", "echo >&$PITVISOR_READY_FD; exec sleep 100")
		r.ready()
	}
}

// A worker with a network of its own is asked there; the same port on our own
// loopback is somebody else's.
func TestOwnNetworkNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	linuxtest.NoLeaks(t)
	for _, c := range []struct {
		mode  string
		rules Rules
	}{
		{"listen", Rules{TCP: ":{port}"}},
		{"answer", Rules{HTTP: "/200"}},
		{"health", Rules{GRPC: ":{port}"}},
		{"listen", Rules{TCP: ":{port}", Exec: []string{"/bin/sh", "-c", `test "$(readlink /proc/self/ns/net)" != "$0"`, hostNet(t)}}},
	} {
		r, out := place(t), newPrinted(t)
		c.rules.Stdout = listening
		r.prepare(c.rules, Deps{}, out.output())
		r.spawned(true, out.write, linuxtest.Helper(t, c.mode, "1")...)
		if info := r.ready(); info.Port != out.port(t) {
			t.Errorf("%s: port %d, want %d", c.mode, info.Port, out.port(t))
		}
	}
}

func hostNet(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// The stranger in our namespace and the worker in its own have the same port
// and do not disturb each other; nor does a port in ours stand for one there.
func TestPortInAnotherNetworkNamespace(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a network namespace")
	ours := newPrinted(t)
	first := place(t)
	first.startIn(first.leaf.Path(), ours.write, linuxtest.Helper(t, "port-thief")...)
	port := strconv.Itoa(ours.port(t))

	r, out := place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening, TCP: ":{port}"}, Deps{}, out.output())
	r.spawned(true, out.write, linuxtest.Helper(t, "port-thief", port)...)
	r.ready()

	r, out = place(t), newPrinted(t)
	r.prepare(Rules{Stdout: listening, TCP: ":{port}"}, Deps{}, out.output())
	r.spawned(true, out.write, linuxtest.Helper(t, "ready-not-listening", port)...)
	out.port(t)
	r.notReady(700*time.Millisecond, "connection refused")
}
