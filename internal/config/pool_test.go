package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

const everyKey = `
name = "shop"
state_dir = "state"

[log]
level = "warn"
format = "json"
max_size = "1MiB"
keep = 3
show = "json"
rotate_keep = 5
rotate_age = "1h"
rotate_max_age = "2days"
rotate_max_size = "1M"
compress = false

[pool.web]
command = ["sh", "-c", "echo $${HOME} {print $1}", "{worker}"]
size = 4
directory = "sub/dir"
env = { A = "{slot}", LANG = "de" }
inherit_env = false
user = "root"
group = 12
groups = [1, "2"]
umask = "027"
nice = -5
oom_score_adj = 100
no_new_privs = true
netns = true
limits_mode = "best-effort"
after = { db = "started", migrate = "completed" }
labels = { tier = "front", "a/b" = "" }
rollout = { max_surge = 2, max_unavailable = 1, min_ready = "5s", progress_deadline = "10min" }
pressure = { where = "run", cpu = 90, memory = 20.5, memory_full = 5, io = 60, io_full = 30, for = "20s", calm = 0.8, calm_for = "1min", action = "shrink", min_size = 2, max_for = "1h" }
recycle = { age = "1d", jitter = 0.3, memory = "2G", memory_every = "1min", count = 10_000 }
restart = "on-failure"
failure_limit = 7
start_timeout = "1min 30s"
track = "leaf"
output = "file"
journal = true
stop_signal = "SIGINT"
stop_grace = "1m30s"
stop_scope = "all"
drain = "5s"

[pool.web.backoff]
min = "200ms"
max = "1h"
factor = 3
jitter = 0.5
reset = "1d"
free = 0

[pool.web.limits]
memory.max = "512M"
MemoryHigh = 1024
memory_low = "1K"
"memory.min" = "max"
memory.swap.max = 0
memory.oom.group = true
TasksMax = "infinity"
CPUQuota = "150%"
cpu.weight = 200
io.weight = 50
io.max = ["8:0 rbps=1048576 wiops=120", "8:16 wbps=max"]
IOReadIOPSMax = "8:16 1K"
AllowedCPUs = "0-3,6"
cpuset_mems = "0"

[pool.web.pool_limits]
pids.max = 100
cpu.max = "50000 200000"

[pool.web.rlimits]
nofile = "1024:4096"
LimitCORE = "1G"
cpu = "infinity"

[pool.web.ready]
stdout = 'port (\d+)'
stderr = "ready"
file = "/run/{pool}.ready"
tcp = "127.0.0.1:{port}"
http = "/health"
grpc = ":{port}"
grpc_service = "shop"
notify = true
exec = ["true", "{port}"]
fd = 4
port = 8000
interval = "1s"
timeout = "2s"

[pool.db]
command = ["true"]

[pool.migrate]
command = ["true"]
restart = "never"
`

// Every key at once: each must arrive in the spec.
func TestEveryKeyArrives(t *testing.T) {
	c := good(t, everyKey)
	if c.Name != "shop" || c.Path != "/etc/pitvisor/f.toml" || c.StateDir != "/etc/pitvisor/state" ||
		c.Log != (Log{Level: "warn", Format: "json", MaxSize: 1 << 20, Keep: 3, Show: ShowJSON, Rotate: Rotate{5, time.Hour, 48 * time.Hour, 1 << 20, true}}) {
		t.Errorf("config = %+v", c)
	}
	p := c.Pools[0]
	zeroFields(t, "PoolSpec", p.Spec, "Readiness", "Liveness", "Variant", "Inherit") // made of rules and outputs
	zeroFields(t, "Command", p.Spec.Command)
	zeroFields(t, "Limits", p.Spec.Limits, "CPUIdle") // excludes CPUWeight
	zeroFields(t, "Rules", *p.Ready, "FileAuto")
	i := func(n int) *int { return &n }
	want := supervise.PoolSpec{
		Name: "web", Size: 4,
		Command: supervise.Command{
			Path: "/usr/bin/sh", Args: []string{"sh", "-c", "echo ${HOME} {print $1}", "{worker}"},
			Env: []string{"A={slot}", "HOME=/root", "LANG=de", "LOGNAME=root", "PATH=/usr/bin:/bin", "USER=root"},
			Dir: "/etc/pitvisor/sub/dir", Credential: &spawn.Credential{UID: 0, GID: 12, Groups: []uint32{1, 2}},
			Umask: i(0o27), Nice: i(-5), OOMScoreAdj: i(100), NoNewPrivs: true, NetNS: true,
			Rlimits: []spawn.Rlimit{
				{Resource: unix.RLIMIT_CPU, Soft: unix.RLIM_INFINITY, Hard: unix.RLIM_INFINITY},
				{Resource: unix.RLIMIT_CORE, Soft: 1 << 30, Hard: 1 << 30},
				{Resource: unix.RLIMIT_NOFILE, Soft: 1024, Hard: 4096},
			},
		},
		Limits: resource.Limits{
			MemoryMax: 512 << 20, MemoryHigh: 1024, MemoryLow: 1024, MemoryMin: resource.Unlimited, MemorySwapMax: 1,
			PIDsMax: resource.Unlimited, CPUWeight: 200, CPUQuota: 150 * time.Millisecond, CPUPeriod: 100 * time.Millisecond,
			IOWeight: 50, IOMax: []resource.DiskLimit{
				{Disk: "8:0", ReadBytes: 1 << 20, WriteOps: 120}, {Disk: "8:16", WriteBytes: resource.Unlimited, ReadOps: 1000},
			},
			CPUs: "0-3,6", Mems: "0", OOMGroup: true,
		},
		PoolLimits:       resource.Limits{PIDsMax: 100, CPUQuota: 50 * time.Millisecond, CPUPeriod: 200 * time.Millisecond},
		BestEffortLimits: true,
		Restart:          supervise.RestartOnFailure,
		Backoff:          supervise.Backoff{Min: 200 * time.Millisecond, Max: time.Hour, Factor: 3, Jitter: 0.5, Reset: 24 * time.Hour},
		FailureLimit:     7,
		Stop:             supervise.Stop{Signal: unix.SIGINT, Grace: 90 * time.Second, Drain: 5 * time.Second, All: true},
		StartTimeout:     90 * time.Second,
		Track:            supervise.TrackLeaf,
		Rollout:          supervise.Rollout{MaxSurge: 2, MaxUnavailable: 1, MinReady: 5 * time.Second, Progress: 10 * time.Minute},
		Recycle:          supervise.Recycle{Age: 24 * time.Hour, AgeJitter: 0.3, Memory: 2 << 30, MemoryEvery: time.Minute, Count: 10_000},
		Pressure: supervise.PressurePolicy{
			Action: supervise.PressureShrink, MinSize: 2, MaxFor: time.Hour, Pressure: supervise.Pressure{
				Where: supervise.PressureOfRun, CPU: 0.9, Memory: 0.205, MemoryFull: 0.05, IO: 0.6, IOFull: 0.3, For: 20 * time.Second, Calm: 0.8, CalmFor: time.Minute,
			},
		},
		After:  []supervise.Dependency{{Pool: "db", Until: supervise.UntilStarted}, {Pool: "migrate", Until: supervise.UntilCompleted}},
		Labels: map[string]string{"tier": "front", "a/b": ""},
	}
	if !reflect.DeepEqual(p.Spec, want) {
		t.Errorf("spec =\n%+v, want\n%+v", p.Spec, want)
	}
	rules := probe.Rules{
		Stdout: regexp.MustCompile(`port (\d+)`), Stderr: regexp.MustCompile("ready"), File: "/run/{pool}.ready",
		TCP: "127.0.0.1:{port}", HTTP: "/health", GRPC: ":{port}", GRPCService: "shop", Notify: true,
		Exec: []string{"/usr/bin/true", "{port}"}, FD: 4, Port: 8000, Interval: time.Second, TryTimeout: 2 * time.Second,
	}
	if !reflect.DeepEqual(*p.Ready, rules) {
		t.Errorf("ready =\n%+v, want\n%+v", *p.Ready, rules)
	}
}

// zeroFields fails for a field that the configuration can not set, so that a
// new field of another package is not forgotten here.
func zeroFields(t *testing.T, name string, v any, except ...string) {
	t.Helper()
	r := reflect.ValueOf(v)
	for i := range r.NumField() {
		if field := r.Type().Field(i).Name; r.Field(i).IsZero() && !slices.Contains(except, field) {
			t.Errorf("%s.%s is not set by any key", name, field)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := good(t, valid)
	if c.Name != "f" || c.StateDir != "" || c.Log != defaultLog() {
		t.Errorf("config = %+v", c)
	}
	p := c.Pools[0]
	want := supervise.PoolSpec{
		Name: "web", Size: 1,
		Command: supervise.Command{
			Path: "/bin/true", Args: []string{"/bin/true"}, Dir: "/etc/pitvisor",
			Env: []string{"LANG=C", "PATH=/usr/bin:/bin", "WATCH=kept"},
		},
		Backoff:      supervise.Backoff{Min: 100 * time.Millisecond, Max: 30 * time.Second, Factor: 2, Jitter: 0.2, Reset: 10 * time.Second, Free: 2},
		Stop:         supervise.Stop{Signal: unix.SIGTERM, Grace: 10 * time.Second},
		StartTimeout: time.Minute,
	}
	if !reflect.DeepEqual(p.Spec, want) || p.Ready != nil || p.Output != OutputFile {
		t.Errorf("pool =\n%+v, want\n%+v", p, want)
	}
}

// One bound of a pair moves the other's default along, and nothing that is written.
func TestBackoffBoundsAgree(t *testing.T) {
	if b := pool(t, `backoff = { min = "1min" }`).Spec.Backoff; b.Min != time.Minute || b.Max != time.Minute {
		t.Errorf("backoff = %+v", b)
	}
	if b := pool(t, `backoff = { max = "10ms" }`).Spec.Backoff; b.Min != 10*time.Millisecond || b.Max != 10*time.Millisecond {
		t.Errorf("backoff = %+v", b)
	}
}

// MuonTrap 2.0: supplementary groups leaked through a change of user, and the group stayed root's.
func TestDroppingToNobodyKeepsNoRootGroup(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user") // others are told that they may not, when the worker starts
	c := pool(t, `user = "nobody"`).Spec.Command
	if c.Credential == nil || c.Credential.UID != 65534 || c.Credential.GID != 65534 || slices.Contains(c.Credential.Groups, 0) {
		t.Errorf("credential = %+v", c.Credential)
	}
	if !slices.Contains(c.Env, "USER=nobody") || !slices.Contains(c.Env, "HOME=/nonexistent") {
		t.Errorf("env = %q, want that of nobody", c.Env)
	}
	c = pool(t, "user = 4000000\ngroup = \"nogroup\"\nenv.HOME = \"/x\"").Spec.Command
	if want := (spawn.Credential{UID: 4000000, GID: 65534}); !reflect.DeepEqual(*c.Credential, want) {
		t.Errorf("credential = %+v, want %+v", *c.Credential, want)
	}
	if c = pool(t, `user = "root"`).Spec.Command; slices.Contains(c.Credential.Groups, 0) {
		t.Errorf("credential = %+v, want the primary group only once", c.Credential)
	}
	c = pool(t, "user = \"root\"\ngroups = []\nenv.HOME = \"/x\"").Spec.Command
	if c.Credential.Groups == nil || len(c.Credential.Groups) != 0 || !slices.Contains(c.Env, "HOME=/x") {
		t.Errorf("command = %+v", c)
	}
}

// The supervisor's own sockets and ids stay its own.
func TestInheritedEnvironment(t *testing.T) {
	if got := inherit(testEnviron()); strings.Join(got, " ") != "LANG=C PATH=/usr/bin:/bin WATCH=kept" {
		t.Errorf("inherit = %q", got)
	}
	if got := inherit([]string{"PATH=", "X", "=y", "A=1", "A=2"}); strings.Join(got, " ") != "A=2 PATH="+defaultPath {
		t.Errorf("inherit = %q", got)
	}
	if env := pool(t, "inherit_env = false").Spec.Command.Env; strings.Join(env, " ") != "PATH=/usr/bin:/bin" {
		t.Errorf("env = %q, want only PATH", env)
	}
}

func TestProgramIsFoundInTheWorkersPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"mine": 0o755, "plain": 0o644} {
		if err := os.WriteFile(dir+"/"+name, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if c := pool(t, "env.PATH = \""+dir+"\"\ncommand = [\"mine\", \"x\"]").Spec.Command; c.Path != dir+"/mine" || c.Args[0] != "mine" {
		t.Errorf("command = %+v", c)
	}
	wantErrors(t, "[pool.web]\nenv.PATH = \""+dir+"\"\ncommand = [\"plain\"]\n", `3:12: program "plain": `+dir+`/plain is not executable: make the file executable`)
	if c := pool(t, `command = ["./run.sh"]`).Spec.Command; c.Path != "./run.sh" {
		t.Errorf("path = %q, want it left to the working directory", c.Path)
	}
}

func TestBracesThatAreNotOurs(t *testing.T) {
	for _, arg := range []string{"{print}", "{\"slott\":1}", "{a,b}", "{}", "{", "{slot", "{1}", "{ slott }", "f() { ls; }", "{Worker}x{"} {
		c, err := parseText("f.toml", "[pool.web]\ncommand = [\"/bin/echo\", '"+arg+"']\n", nil)
		if arg == "{Worker}x{" {
			if err == nil {
				t.Errorf("%s was accepted", arg)
			}
			continue
		}
		if err != nil || c.Pools[0].Spec.Command.Args[1] != arg {
			t.Errorf("%s: %v", arg, err)
		}
	}
}
