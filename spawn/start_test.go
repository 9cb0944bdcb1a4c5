package spawn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// report is what a process sees of itself.
type report struct {
	Args, Env     [][]byte // they may hold anything
	Dir           string
	Status        map[string]string // of /proc/self/status
	Limits        map[string]string // of /proc/self/limits
	Stat          []string          // of /proc/self/stat, behind the name
	Cgroup, NetNS string
	OOMScoreAdj   string
}

func reportMode([]string) int {
	r := report{Args: byteSlices(os.Args), Env: byteSlices(os.Environ())}
	r.Dir, _ = os.Getwd()
	r.Status = table("/proc/self/status", ":")
	r.Limits = table("/proc/self/limits", "  ")
	stat, _ := os.ReadFile("/proc/self/stat")
	r.Stat = strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	group, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(group)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			r.Cgroup = strings.TrimSpace(path)
		}
	}
	r.NetNS, _ = os.Readlink("/proc/self/ns/net")
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	r.OOMScoreAdj = strings.TrimSpace(string(score))
	return printResult(r)
}

func byteSlices(list []string) [][]byte {
	var all [][]byte
	for _, s := range list {
		all = append(all, []byte(s))
	}
	return all
}

// table reads lines of a key and the rest.
func table(path, sep string) map[string]string {
	data, _ := os.ReadFile(path)
	rows := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, sep); ok {
			rows[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return rows
}

// see runs c as a reporting process.
func see(t *testing.T, c Cmd) report {
	t.Helper()
	if c.Path == "" {
		c = command(t, c, "report")
	}
	var r report
	out := output(t, c)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("the process printed %q: %v", out, err)
	}
	return r
}

func number(n int) *int { return &n }

// The very first thing the program sees is its leaf.
func TestProcessIsBornInItsLeaf(t *testing.T) {
	linuxtest.NeedCommand(t, "cat")
	ways(t, func(t *testing.T, c Cmd) {
		c.Path, c.Args = "/bin/cat", []string{"cat", "/proc/self/cgroup"}
		got := output(t, c)
		if !strings.HasSuffix(got, "/"+filepath.Base(filepath.Dir(c.Leaf.Path()))+"/leaf") || !strings.Contains(got, "0::") {
			t.Errorf("the process sees %q, want %s", got, c.Leaf.Path())
		}
	})
}

func TestExactlyWhatWasAsked(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		c = command(t, c, "report")
		c.Args = append(c.Args, "with space", "", "\xff\xfe", "line\nline")
		c.Env = []string{"A=1", "EMPTY=", "BYTES=\xff"}
		c.Dir = publicDir(t)
		r := see(t, c)
		if want := byteSlices(c.Args); !reflect.DeepEqual(r.Args, want) {
			t.Errorf("arguments %q, want %q", r.Args, want)
		}
		want := byteSlices(c.Env)
		if c.OwnPID != "" {
			want = append(want, []byte(c.OwnPID+"="+r.Status["Pid"]))
		}
		if !reflect.DeepEqual(r.Env, want) {
			t.Errorf("environment %q, want %q", r.Env, want)
		}
		if r.Dir != c.Dir {
			t.Errorf("directory %s, want %s", r.Dir, c.Dir)
		}
	})
}

// files lists the descriptors of a process with c's settings. A Go program has
// some of its own, so ls does it.
func files(t *testing.T, c Cmd) map[int]string {
	t.Helper()
	linuxtest.NeedCommand(t, "ls")
	c.Path, c.Args = "/bin/ls", []string{"ls", "-l", "/proc/self/fd"}
	found := map[int]string{}
	for line := range strings.Lines(output(t, c)) {
		name, target, ok := strings.Cut(strings.TrimSpace(line), " -> ")
		fd, err := strconv.Atoi(name[strings.LastIndexByte(name, ' ')+1:])
		if listed, _ := filepath.Match("/proc/*/fd", target); ok && err == nil && !listed {
			found[fd] = target
		}
	}
	return found
}

func TestFilesAreExactlyThoseAskedFor(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		file, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		c.Stderr = file
		c.ExtraFiles = []*os.File{nil, file, nil, nil, file, nil}
		got := files(t, c)
		want := map[int]string{0: os.DevNull, 1: got[1], 2: file.Name(), 4: file.Name(), 7: file.Name()}
		if !reflect.DeepEqual(got, want) || !strings.HasPrefix(got[1], "pipe:") {
			t.Errorf("files %v, want %v", got, want)
		}
	})
}

func TestArgsDefaultToPathAndEnvToNothing(t *testing.T) {
	c := Cmd{Path: "/bin/x"}
	if got := c.args(); !slices.Equal(got, []string{"/bin/x"}) {
		t.Errorf("args() = %q", got)
	}
	linuxtest.NeedCommand(t, "env")
	ways(t, func(t *testing.T, c Cmd) {
		c.Path = "/usr/bin/env"
		got := output(t, c)
		if name, _, _ := strings.Cut(got, "="); name != c.OwnPID || strings.Contains(got, "\n") {
			t.Errorf("the environment is %q, want nothing but what was asked for: %q", got, c.OwnPID)
		}
	})
}

// A descriptor that this program inherited itself, without CLOEXEC, ends here.
func TestInheritedFilesGoNoFurther(t *testing.T) {
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = pipe.Close(), w.Close() }()
	leaky, err := unix.Dup(int(pipe.Fd())) // without CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(leaky) }()
	HelperMain()
	if got := files(t, Cmd{Leaf: newLeaf(t, testRoot(t), "leaf")}); len(got) != 3 {
		t.Errorf("files %v, want 3", got)
	}
}

func TestSessions(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		ourGroup, err := unix.Getpgid(0)
		if err != nil {
			t.Fatal(err)
		}
		ourSession, err := unix.Getsid(0)
		if err != nil {
			t.Fatal(err)
		}
		for session, want := range map[Session]func(pid, group, sid int) bool{
			SessionNew:   func(pid, group, sid int) bool { return group == pid && sid == pid },
			SessionGroup: func(pid, group, sid int) bool { return group == pid && sid == ourSession },
			SessionKeep:  func(_, group, sid int) bool { return group == ourGroup && sid == ourSession },
		} {
			c.Session = session
			r := see(t, c)
			pid, _ := strconv.Atoi(r.Status["Pid"])
			group, _ := strconv.Atoi(r.Stat[2])
			sid, _ := strconv.Atoi(r.Stat[3])
			if !want(pid, group, sid) {
				t.Errorf("session %d: process %d has group %d and session %d", session, pid, group, sid)
			}
		}
	})
}

func TestCredential(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	ways(t, func(t *testing.T, c Cmd) {
		for _, cr := range []*Credential{
			{UID: 65534, GID: 65534},
			{UID: 1234, GID: 2345, Groups: []uint32{3456, 4567}},
			{UID: 0, GID: 0, Groups: []uint32{0, 7}},
		} {
			c.Credential = cr
			r := see(t, c)
			four := func(n uint32) string { return strings.TrimSpace(strings.Repeat(fmt.Sprint(n, " "), 4)) }
			groups := strings.Trim(fmt.Sprint(cr.Groups), "[]")
			if r.Status["Uid"] != four(cr.UID) || r.Status["Gid"] != four(cr.GID) || r.Status["Groups"] != groups {
				t.Errorf("%+v: Uid %q Gid %q Groups %q", cr, r.Status["Uid"], r.Status["Gid"], r.Status["Groups"])
			}
			if none := "0000000000000000"; cr.UID != 0 && r.Status["CapEff"] != none {
				t.Errorf("%+v: capabilities %s", cr, r.Status["CapEff"])
			}
		}
	})
}

func TestSettingsAreSeenFromInside(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		before := see(t, c)
		c.Umask, c.Nice, c.NoNewPrivs = number(0o27), number(7), true
		r := see(t, c)
		if r.Status["Umask"] != "0027" || r.Stat[16] != "7" || r.Status["NoNewPrivs"] != "1" {
			t.Errorf("umask %s nice %s no_new_privs %s", r.Status["Umask"], r.Stat[16], r.Status["NoNewPrivs"])
		}
		own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		nice := strconv.Itoa(20 - own) // as the kernel gives it, it is never negative
		if before.Status["NoNewPrivs"] != "0" || before.Stat[16] != nice {
			t.Errorf("without being asked: nice %s no_new_privs %s", before.Stat[16], before.Status["NoNewPrivs"])
		}
		c.Umask, c.Nice, c.NoNewPrivs = nil, nil, false
		if after := see(t, c); after.Status["Umask"] != before.Status["Umask"] || after.Stat[16] != nice || after.Status["NoNewPrivs"] != "0" {
			t.Errorf("left behind in the starter: umask %s nice %s no_new_privs %s",
				after.Status["Umask"], after.Stat[16], after.Status["NoNewPrivs"])
		}
	})
}

func TestLimitsAreSeenFromInside(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		before := see(t, c)
		c.OOMScoreAdj = number(321)
		c.Rlimits = []Rlimit{
			{Resource: unix.RLIMIT_CORE},
			{Resource: unix.RLIMIT_NOFILE, Soft: 77, Hard: 88},
			{Resource: unix.RLIMIT_CPU, Soft: 50, Hard: unix.RLIM_INFINITY},
		}
		r := see(t, c)
		if r.OOMScoreAdj != "321" {
			t.Errorf("oom_score_adj %s, want 321", r.OOMScoreAdj)
		}
		for name, want := range map[string]string{
			"Max core file size": "0 0 bytes", "Max cpu time": "50 unlimited seconds",
		} {
			if r.Limits[name] != want {
				t.Errorf("%s is %q, want %q", name, r.Limits[name], want)
			}
		}
		for name, was := range before.Limits {
			if r.Limits[name] != was && name != "Max core file size" && name != "Max cpu time" && name != "Max open files" {
				t.Errorf("%s was %q and is %q", name, was, r.Limits[name])
			}
		}
		if after := see(t, Cmd{Leaf: c.Leaf}); after.OOMScoreAdj != before.OOMScoreAdj || !maps.Equal(after.Limits, before.Limits) {
			t.Errorf("left behind in the starter: oom_score_adj %s, limits %v", after.OOMScoreAdj, after.Limits)
		}
		// The reporting process is a Go program, which raises its soft limit to one
		// below the hard one; so the shell is asked.
		c.Path, c.Args = "/bin/sh", []string{"sh", "-c", "ulimit -n; ulimit -Hn"}
		if got, want := output(t, c), "77\n88"; got != want && got != want+"\n" {
			t.Errorf("open files %q, want 77 and 88", got)
		}
	})
}

// TestLimitsAreSetWithOurRights: before the process becomes a user to whom the file of its
// OOM score does not belong, and the limit of processes counts for that user.
func TestLimitsAreSetWithOurRights(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	ways(t, func(t *testing.T, c Cmd) {
		user := uint32(1<<20 + os.Getpid()) // has no other processes
		c.Credential = &Credential{UID: user, GID: somebody}
		c.OOMScoreAdj = number(907)
		c.Rlimits = []Rlimit{{Resource: unix.RLIMIT_NPROC, Soft: 1, Hard: 1}}
		c.Path, c.Args, c.Env = "/bin/sh", []string{"sh", "-c", "read x < /proc/self/oom_score_adj; echo $x; read x"}, nil
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		defer func() { _ = w.Close() }()
		c.Stdin, c.Stdout = blockingStdin(t), w
		if p := start(t, &c); p.byHelper != (c.ForceHelper || Clone3Refused()) {
			t.Errorf("with the helper: %v", p.byHelper)
		}
		said := make([]byte, 8)
		if n, err := r.Read(said); err != nil || string(said[:n]) != "907\n" {
			t.Errorf("oom_score_adj %q, %v, want 907", said[:n], err)
		}
		p, err := Start(&c)
		if err == nil { // from Linux 5.14 on the one that asks is not counted
			defer finish(t, p)
			if p, err = Start(&c); err == nil {
				defer finish(t, p)
			}
		}
		wantError{CauseForkLimit, unix.EAGAIN, fmt.Sprintf("user %d has too many processes", user)}.check(t, err)
	})
}

// softLimitMode starts something on all ways and prints its soft limits.
func softLimitMode(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return complain(err)
	}
	leaf, err := root.Create("leaf")
	if err != nil {
		return complain(err)
	}
	var now unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return complain(err)
	}
	own := []Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 300, Hard: now.Max}}
	for _, c := range append(allWays(), Cmd{Autokill: true}, Cmd{Rlimits: own}) {
		c.Path, c.Args, c.Leaf, c.Stdout = "/bin/sh", []string{"sh", "-c", "ulimit -n"}, leaf, os.Stdout
		p, err := Start(&c)
		if err != nil {
			return complain(err)
		}
		if _, err := p.Wait(context.Background()); err != nil {
			return complain(err)
		}
	}
	return 0
}

// The Go runtime raises its own soft limit of open files. The process must get the
// one that this program was started with, on every way.
func TestOpenFilesLimitIsTheOriginal(t *testing.T) {
	linuxtest.NeedCommand(t, "sh")
	argv := []string{"/bin/sh", "-c", `ulimit -Sn 512; exec "$@"`, "sh"}
	argv = append(argv, linuxtest.Helper(t, "soft-limit", linuxtest.Cgroup(t))...)
	if got := (linuxtest.Command{Args: argv}).Output(t, within); got != "512\n512\n512\n512\n512\n300" {
		t.Errorf("limits %q directly, with the helper, twice with our own steps and with autokill, want 512, and 300 when asked", got)
	}
}

// Limits that would end the Go runtime of the helper: it must be past needing memory. And
// files have their places before there is a limit.
func TestHelperSurvivesTheLimitsItSets(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		c.Path, c.ExtraFiles = tinyProgram(t), []*os.File{nil, nil, os.Stderr}
		c.Rlimits = []Rlimit{
			{Resource: unix.RLIMIT_AS, Soft: 1 << 20, Hard: 1 << 20},
			{Resource: unix.RLIMIT_DATA, Soft: 1 << 16, Hard: 1 << 16},
			{Resource: unix.RLIMIT_NOFILE, Soft: 3, Hard: 3},
			{Resource: unix.RLIMIT_NPROC, Soft: 1, Hard: 1},
		}
		for i := range 30 {
			c.Env = append(c.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 1000)))
		}
		for range linuxtest.Times(10, 4) {
			if exit := wait(t, start(t, &c)); !exit.Success() {
				t.Errorf("%v", exit)
			}
		}
	})
}

func TestSettingsThatAreRefused(t *testing.T) {
	ways(t, func(t *testing.T, way Cmd) {
		for name, c := range map[string]Cmd{
			"set resource limit 99 to 1:1": {Rlimits: []Rlimit{{Resource: unix.RLIMIT_CORE}, {Resource: 99, Soft: 1, Hard: 1}}},
			"set resource limit 7 to 2:1":  {Rlimits: []Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 2, Hard: 1}}},
			"set oom_score_adj 5000":       {OOMScoreAdj: number(5000)},
		} {
			c.Leaf, c.ForceHelper, c.OwnPID, c.Autokill = way.Leaf, way.ForceHelper, way.OwnPID, way.Autokill
			c.Path = tinyProgram(t)
			_, err := Start(&c)
			var e *Error
			if !errors.As(err, &e) || e.Cause != CauseSetting || e.Detail != name || !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestOneLeafIsForOneStartButCmdForMany(t *testing.T) {
	root := testRoot(t)
	c := Cmd{Path: tinyProgram(t)}
	for i := range 5 {
		c.Leaf, c.Thawed = newLeaf(t, root, strconv.Itoa(i)), i%2 == 0
		if exit := wait(t, start(t, &c)); !exit.Success() {
			t.Errorf("start %d: %v", i, exit)
		}
	}
}
