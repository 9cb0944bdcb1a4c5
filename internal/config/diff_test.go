package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/internal/probe"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// told is a difference on lines: "web size live 1 2".
func told(d Difference) []string {
	var all []string
	for _, c := range d.Settings {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.Key, c.Effect, c.Old, c.New)))
	}
	for _, p := range d.Pools {
		if len(p.Changes) == 0 {
			all = append(all, fmt.Sprintf("%s %d -> %d", p.Name, p.OldSize, p.NewSize))
		}
		for _, c := range p.Changes {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s: %s %s %s %s", p.Name, c.Key, c.Effect, c.Old, c.New)))
		}
	}
	return all
}

func TestDiff(t *testing.T) {
	const two = valid + "size = 2\n"
	const listens = two + "sockets = [\"http\"]\n[socket.http]\n"
	for _, tc := range []struct {
		name, old, now string
		want           []string
	}{
		{"nothing", two, two, nil},
		{"only the spelling", two + "stop_grace = \"60s\"\nlimits.MemoryMax = \"1G\"\nready = { tcp = \":1\" }\nuser = \"root\"\n", "name = \"f\"\n" + two + "stop_grace = \"1min\"\nlimits.\"memory.max\" = \"1024M\"\nready = { tcp = \":1\", timeout = \"5s\" }\nuser = 0\n", nil},
		{"only the order", two + "groups = [1, 2]\nrlimits = { core = 1, cpu = 2 }\nlimits.io_max = [\"8:0 rbps=1\", \"8:16 rbps=1\"]\n", two + "groups = [2, 1]\nrlimits = { cpu = 2, core = 1 }\nlimits.io_max = [\"8:16 rbps=1\", \"8:0 rbps=1\"]\n", nil},
		{"size", two, valid + "size = 5\n", []string{"web: size live 2 5"}},
		{"command", two, "[pool.web]\ncommand = [\"/bin/true\", \"x\"]\nsize = 2\n", []string{"web: command replace"}},
		{"variables", two + "env = { A = \"1\", B = \"2\", C = \"3\" }\n", two + "env = { A = \"1\", B = \"x\", D = \"4\" }\n", []string{"web: env: B, C, D replace"}},
		{"several", two + "nice = 1\n", two + "stop_grace = \"1s\"\nready.port = 80\nready.tcp = \":{port}\"\n", []string{
			"web: nice replace 1 the supervisor's", "web: stop_grace live 10s 1s", "web: ready.port replace 0 80", "web: ready.tcp live  :{port}",
		}},
		{"pools", two + "[pool.a]\ncommand = [\"/bin/true\"]\n", "[pool.b]\ncommand = [\"/bin/true\"]\nsize = 3\n" + two, []string{"b 0 -> 3", "a 1 -> 0"}},
		{"settings", two, "name = \"x\"\nstate_dir = \"/s\"\n[log]\nlevel = \"warn\"\nformat = \"json\"\nmax_size = \"1M\"\nkeep = 1\nshow = \"none\"\nrotate_age = \"1d\"\n" + two, []string{
			"name restart f x", "state_dir restart  /s", "log.level restart info warn", "log.format restart auto json",
			"log.max_size restart 16777216 1048576", "log.show restart text none", "log.rotate restart", "log.keep restart 10 1",
		}},
		{"api", two, two + "[api]\nsocket = \"/s\"\ngroup = \"root\"\ntcp = \":1\"\ntoken_file = \"/t\"\n", []string{
			"api.socket restart", "api.group restart", "api.tcp restart  :1", "api.token_file restart  /t",
		}},
		{"where a socket listens", listens + "listen = \":81\"\n", listens + "listen = \":82\"\n", []string{"socket live", "web: sockets replace"}},
		{"who may connect", listens + "listen = \"/s\"\n", listens + "listen = \"/s\"\nmode = \"600\"\nbacklog = 5\n", []string{"socket live"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Diff(good(t, tc.old), good(t, tc.now))
			if got := told(d); !slices.Equal(got, tc.want) || d.Empty() != (tc.want == nil) {
				t.Errorf("difference:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestTheStrongestEffectCounts(t *testing.T) {
	d := Diff(good(t, valid+"size = 2\n"), good(t, valid+"size = 3\nnice = 1\nstop_grace = \"1s\"\n"))
	if got := d.Pools[0].Effect(); got != EffectReplace {
		t.Errorf("effect = %v, want %v", got, EffectReplace)
	}
	d = Diff(good(t, valid), good(t, valid+"[pool.b]\ncommand = [\"/bin/true\"]\n"))
	if got := d.Pools[0].Effect(); got != EffectLive || got.String() != "live" {
		t.Errorf("effect of a new pool = %v", got)
	}
}

// Whatever a key changes is told of, under the key's name.
func TestDiffSeesEveryKey(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	base := good(t, "[pool.web]\ncommand = [\"/bin/true\"]\nready.fd = 4\n").Pools[0]
	other := map[string]string{ // where the example is the default, or of another machine
		"env_file": "env_file = \"" + file(t, "x.env", "A=1\n") + "\"", "user": "user = \"nobody\"", "group": "group = 12", "groups": "groups = [5]",
		"command": "", "ready": "", "after": "after = [\"b\"]\n[pool.b]\ncommand = [\"/bin/true\"]",
		"sockets": "sockets = [\"web\"]\n[socket.web]\nlisten = \":80\"", "fd_store": "",
		"memory_every": "memory_every = \"1min\"\nmemory = \"1G\"", "notify": "notify = true\nfd = 4", "exec": "exec = [\"/bin/true\", \"x\"]\nfd = 4", "factor": "factor = 1.5",
	}
	name := map[string]string{"env_file": "env", "inherit_env": "env", "group": "user", "groups": "user"} // what they become
	look := func(table, key, example, report string) {
		t.Helper()
		if line, ok := other[key]; ok && (table == "" || key != "user") {
			example = line
		}
		if example == "" {
			return
		}
		text := "[pool.web]\ncommand = [\"/bin/true\"]\n"
		if table != "ready" {
			text += "ready.fd = 4\n"
		}
		if table == "ready" && !strings.Contains(example, "fd =") {
			example += "\nfd = 4\n"
		}
		if table != "" {
			text += "[pool.web." + table + "]\n"
		}
		now := good(t, text+example+"\n").Pools[0]
		changes := compare(poolComparisons(), &base, &now)
		if !slices.ContainsFunc(changes, func(c Change) bool { return strings.HasPrefix(c.Key, report) }) {
			t.Errorf("%s%s is told as %+v, want %s", text, example, changes, report)
		}
	}
	tables := newTables()
	for _, k := range tables.pool {
		report := k.Name
		if as := name[k.Name]; as != "" {
			report = as
		}
		key := k.Name
		if key == "notify" {
			key = "" // in other it is the rule's
		}
		if k.Name != "output" || k.Example != "" {
			look("", key, k.Example, report)
		}
	}
	for _, k := range tables.backoff {
		look("backoff", k.Name, k.Example, "backoff")
	}
	for _, k := range tables.rollout {
		look("rollout", k.Name, k.Example, "rollout")
	}
	other["jitter"] = "jitter = 0.5\nage = \"1d\""
	for _, k := range tables.recycle {
		look("recycle", k.Name, k.Example, "recycle")
	}
	for _, k := range tables.pressure {
		look("", "", pressureLine(k, "[pool.web.pressure]\n"), "pressure")
	}
	for _, k := range tables.live {
		text := k.Example
		if k.Name == "grpc_service" {
			text += "\ngrpc = \":1\""
		}
		if slices.Contains([]string{"delay", "period", "timeout", "failures", "successes"}, k.Name) {
			text += "\nexec = [\"/bin/true\"]"
		}
		look("live", "", strings.ReplaceAll(text, "{port}", "1"), "live")
	}
	for _, k := range tables.limits {
		look("limits", k.Name, k.Example, "limits")
		look("pool_limits", k.Name, k.Example, "pool_limits")
	}
	for _, k := range tables.rlimits {
		look("rlimits", k.Name, k.Example, "rlimits")
	}
	for _, k := range tables.ready {
		if example := k.Example; k.Name == "fd" || k.Name == "grpc_service" || strings.Contains(example, "{port}") {
			continue // below
		}
		look("ready", k.Name, k.Example, "ready."+k.Name)
	}
	for key, line := range map[string]string{"fd": "fd = 5", "grpc_service": "grpc = \":1\"\ngrpc_service = \"x\"", "tcp": "tcp = \":1\"", "http": "http = \"http://127.0.0.1:1/\"", "grpc": "grpc = \":1\"", "exec": "exec = [\"/bin/true\"]"} {
		look("ready", "", line, "ready."+key)
	}
}

// A rule that package probe gets must not be forgotten in a comparison.
func TestDiffSeesEveryRule(t *testing.T) {
	n := reflect.TypeFor[probe.Rules]().NumField()
	if got := len(readyComparisons()) + 1; got != n { // File and FileAuto are one
		t.Errorf("%d of %d fields of probe.Rules are compared", got, n)
	}
}
