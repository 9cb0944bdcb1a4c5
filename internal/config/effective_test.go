package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// written is what is in force as a file.
func written(e *Effective) string {
	var b strings.Builder
	for _, t := range e.Tables {
		if h := t.Header(); h != "" {
			b.WriteString(h + "\n")
		}
		for _, s := range t.Settings {
			b.WriteString(s.TOML() + "\n")
		}
	}
	return b.String()
}

// sayings are the settings with where they are from, "pool.web.size = 4 | f.toml:3:1".
func sayings(e *Effective) []string {
	var all []string
	for _, t := range e.Tables {
		for _, s := range t.Settings {
			from := string(s.From)
			if s.At != nil {
				from += " " + s.At.String()
			}
			for _, o := range s.Over {
				from += " over " + o.String()
			}
			if s.Why != "" {
				from += " (" + s.Why + ")"
			}
			all = append(all, strings.Join(append(t.Path, s.TOML()), ".")+" | "+from)
		}
	}
	return all
}

func TestEffectiveSaysWhereEachValueIsFrom(t *testing.T) {
	_, e, err := together(
		"[defaults]\nstop_grace = \"1s\"\nenv = { A = \"def\" }\nlimits.TasksMax = 9\n"+valid+"size = 2\ndirectory = \"${NONE:-sub}\"\nenv.B = \"x\"\n",
		"[pool.web]\nsize = \"${WORKERS}\"\nlimits.\"pids.max\" = 10\nbackoff.max = \"10ms\"\n",
		"[pool.web]\nsize = 4\nenv = { B = \"y\" }\n[log]\nlevel = \"warn\"\n")
	if err != nil {
		t.Fatal(err)
	}
	all := sayings(e)
	got := strings.Join(all, "\n")
	for _, want := range []string{
		`name = "f" | built-in (the file's name)`,
		`log.level = "warn" | file d2.toml:5:1`,
		`log.max_size = "16M" | built-in`,
		`pool.web.command = ["/bin/true"] | file f.toml:6:1`,
		`pool.web.size = 4 | file d2.toml:2:1 over d1.toml:2:1 over f.toml:7:1`,
		`pool.web.directory = "/etc/pitvisor/sub" | file f.toml:8:1 (${NONE:-sub})`,
		`pool.web.stop_grace = "1s" | defaults f.toml:2:1`,
		`pool.web.stop_signal = "TERM" | built-in`,
		`pool.web.env.A = "def" | defaults f.toml:3:9`,
		`pool.web.env.B = "y" | file d2.toml:3:9 over f.toml:9:5`,
		`pool.web.limits."pids.max" = 10 | file d1.toml:3:8 over f.toml:4:8`,
		`pool.web.backoff.max = "10ms" | file d1.toml:4:9`,
		`pool.web.backoff.min = "10ms" | built-in (follows what is set beside it)`,
	} {
		if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for _, s := range all {
		if strings.Contains(s, ".ready") || strings.Contains(s, "rlimits") || strings.Contains(s, "state_dir") {
			t.Errorf("%s, but it is not in force", s)
		}
	}
}

// normalize writes out what package probe does with zeros, and forgets the files.
func normalize(c *Config) *Config {
	c.Files = nil
	for i := range c.Pools {
		if r := c.Pools[i].Ready; r != nil {
			r.Interval, r.TryTimeout = cmp.Or(r.Interval, 100*time.Millisecond), cmp.Or(r.TryTimeout, 5*time.Second)
		}
	}
	return c
}

// What is shown, read as a file, means the same.
func TestEffectiveIsTheSameConfiguration(t *testing.T) {
	for _, texts := range [][]string{
		{valid},
		{valid + "env = { A = '''\n\t\"\\ $${B} $$${C} ${WORKERS} é \u00a0''' , B = \"\\u007f\\u0001\\r\" }\n"},
		{"name = \"x\"\nstate_dir = \"s\"\n[log]\nmax_size = 70_000\n" + valid + "size = 0x10\nbackoff = { factor = 1_0.5, min = \"1min\" }\nlimits = { memory.max = \"1G\", CPUWeight = 0o17, io_max = [\"8:0 rbps=1\"] }\n"},
		{valid + "size = \"${WORKERS}\"\nnetns = \"${NONE:-true}\"\nbackoff.jitter = \"${NONE:-0.5}\"\nstart_timeout = \"infinity\"\numask = 0o22\ngroups = [1, \"2\"]\n"},
		{valid + "after = { b = \"started\", c = \"ready\" }\nlabels = { \"a/b\" = \"x\", c = \"\" }\nrollout.max_surge = 0\nrecycle = { age = \"1d\", memory = \"1G\" }\n[pool.b]\ncommand = [\"/bin/true\"]\nafter = [\"c\"]\n[pool.c]\ncommand = [\"/bin/true\"]\n[defaults]\nlabels.d = \"e\"\nrecycle.jitter = 0.5\n"},
		{
			valid + "[pool.web.ready]\nfile = true\nport = 80\n[pool.b]\ncommand = [\"sh\", \"-c\", \"echo $${X} $$ \\\"\"]\nrlimits = { nofile = 5, LimitCPU = \"1:2\" }\nbackoff.max = \"1ms\"\n",
			"[defaults]\nnice = 1\n[pool.b]\nsize = 3\n[pool.c]\ncommand = [\"/bin/true\"]\n",
		},
	} {
		first, e, err := together(texts...)
		if err != nil {
			t.Fatalf("%q: %v", texts, err)
		}
		again, _, err := together(written(e))
		if err != nil {
			t.Errorf("%q: what is shown is refused: %v:\n%s", texts, err, written(e))
			continue
		}
		if normalize(first); !reflect.DeepEqual(first, normalize(again)) {
			t.Errorf("%q: what is shown means\n%+v\nand not\n%+v\n%s", texts, again, first, written(e))
		}
	}
}

// Every built-in value that the reference names is what leaving the key out gives.
func TestBuiltInValuesAreTrue(t *testing.T) {
	plain := good(t, valid)
	tables := newTables()
	n := 0
	same := func(builtIn, text string) {
		t.Helper()
		if builtIn == "" {
			return
		}
		n++
		got := good(t, fmt.Sprintf(text, builtIn))
		if p := &got.Pools[0]; p.Ready != nil {
			p.Ready = nil
		}
		if !reflect.DeepEqual(got, plain) {
			t.Errorf("%s: the configuration is\n%+v\nand without it\n%+v", fmt.Sprintf(text, builtIn), got, plain)
		}
	}
	for _, k := range tables.top {
		same(k.builtIn(), k.Name+" = %s\n"+valid)
	}
	for _, k := range tables.log {
		same(k.builtIn(), "[log]\n"+k.Name+" = %s\n"+valid)
	}
	for _, k := range tables.pool {
		same(k.builtIn(), valid+k.Name+" = %s\n")
	}
	for _, k := range tables.backoff {
		same(k.builtIn(), valid+"backoff."+k.Name+" = %s\n")
	}
	for _, k := range tables.recycle {
		same(k.builtIn(), valid+"recycle."+k.Name+" = %s\n")
	}
	for _, k := range tables.rollout {
		same(k.builtIn(), valid+"rollout."+k.Name+" = %s\n")
	}
	for _, k := range tables.run {
		same(k.builtIn(), valid+"[run]\n"+k.Name+" = %s\n")
	}
	for _, k := range tables.ready {
		same(k.builtIn(), valid+"[pool.web.ready]\nfd = 3\n"+k.Name+" = %s\n")
	}
	if n < 20 {
		t.Errorf("%d values were looked at, want at least 20", n)
	}
}

func TestValuesForPrograms(t *testing.T) {
	_, e, err := together(valid + "size = 0x10\nnetns = true\nbackoff.factor = 1_0.5\ngroups = [1, \"2\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, table := range e.Tables {
		for _, s := range table.Settings {
			got[s.Key] = s.Value()
		}
	}
	for key, want := range map[string]any{
		"size": int64(16), "netns": true, "factor": 10.5, "groups": []any{int64(1), "2"}, "stop_grace": "10s", "keep": int64(10), "jitter": 0.2, "inherit_env": true,
	} {
		if !reflect.DeepEqual(got[key], want) {
			t.Errorf("%s = %#v, want %#v", key, got[key], want)
		}
	}
}
