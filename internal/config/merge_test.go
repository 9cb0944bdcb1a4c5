package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// together parses texts as a main file f.toml and the drop-ins d1.toml, d2.toml ...
func together(texts ...string) (*Config, *Effective, error) {
	var files []input
	for i, text := range texts {
		name := "f.toml"
		if i > 0 {
			name = fmt.Sprintf("d%d.toml", i)
		}
		files = append(files, input{name: name, data: []byte(text)})
	}
	return parse("/etc/pitvisor/f.toml", files, append(testEnviron(), "WORKERS=3", "EMPTY="), true)
}

func mustTogether(t *testing.T, texts ...string) *Config {
	t.Helper()
	c, _, err := together(texts...)
	if err != nil {
		t.Fatalf("%s:\n%v", strings.Join(texts, "\n---\n"), err)
	}
	return c
}

// wantTogether compares errors with what they begin with.
func wantTogether(t *testing.T, texts []string, want ...string) {
	t.Helper()
	_, _, err := together(texts...)
	got := strings.Split(fmt.Sprint(err), "\n")
	if err == nil {
		got = nil
	}
	if len(got) != len(want) {
		t.Fatalf("%d errors, want %d:\n%s\nin:\n%s", len(got), len(want), strings.Join(got, "\n"), strings.Join(texts, "\n---\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d:\n got %s\nwant %s", i, got[i], want[i])
		}
	}
}

func TestDropInsChangeKeyByKey(t *testing.T) {
	c := mustTogether(t,
		"name = \"main\"\n[log]\nlevel = \"warn\"\nkeep = 1\n"+valid+"size = 2\nenv = { A = \"main\", B = \"main\" }\nlimits = { MemoryMax = \"1G\", TasksMax = 5 }\n[pool.web.ready]\nexec = [\"/bin/true\", \"a\", \"b\"]\ntimeout = \"1s\"\n",
		"[log]\nkeep = 2\n[pool.api]\ncommand = [\"/bin/true\"]\n[pool.web]\nsize = 3\nenv.B = \"d1\"\nlimits.memory.max = \"2G\"\n[pool.web.ready]\nexec = [\"/bin/true\", \"c\"]\n",
		"name = \"last\"\n[pool.web.limits]\n\"memory.max\" = \"3G\"\n[pool.api]\nsize = 7\nenv = { C = \"d2\" }\n")
	if c.Name != "last" || c.Log.Level != "warn" || c.Log.Keep != 2 || len(c.Pools) != 2 {
		t.Fatalf("config = %+v", c)
	}
	web, api := c.Pools[0], c.Pools[1]
	if web.Spec.Name != "web" || web.Spec.Size != 3 || web.Spec.Limits.MemoryMax != 3<<30 || web.Spec.Limits.PIDsMax != 5 {
		t.Errorf("web = %+v", web.Spec)
	}
	if got := strings.Join(web.Ready.Exec, " "); got != "/bin/true c" || web.Ready.TryTimeout != time.Second {
		t.Errorf("ready = %+v, want the list replaced and the rest kept", web.Ready)
	}
	if got := strings.Join(web.Spec.Command.Env, " "); got != "A=main B=d1 EMPTY= LANG=C PATH=/usr/bin:/bin WATCH=kept WORKERS=3" {
		t.Errorf("env = %q", got)
	}
	if api.Spec.Name != "api" || api.Spec.Size != 7 || !slices.Contains(api.Spec.Command.Env, "C=d2") {
		t.Errorf("api = %+v", api.Spec)
	}
	if want := []string{"f.toml", "d1.toml", "d2.toml"}; !slices.Equal(c.Files, want) {
		t.Errorf("files = %q, want %q", c.Files, want)
	}
}

// Where files disagree on what a key is, the last one is read, and the other is told of.
func TestDropInsThatDisagree(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"each has its own errors", []string{"nme = 1\n" + valid + "size = 0\n", "[pool.web]\nsiz = 1\n[pool.x]\n", "[log]\nkeep = -1\n"}, []string{
			`f.toml:1:1: unknown key "nme"`, `f.toml:4:8: size is 0`, `d1.toml:2:1: unknown key "siz" in [pool.web]: did you mean "size"?`,
			`d1.toml:3:7: pool "x" has no command`, `d2.toml:2:8: keep is -1`,
		}},
		{"a replaced value is wrong", []string{valid + "size = 0\n", "[pool.web]\nsize = 2\n"}, []string{`f.toml:3:8: size is 0`}},
		{"and its other spelling", []string{valid + "limits.MemoryMax = \"1X\"\n", "[pool.web]\nlimits.memory.max = 1\n"}, []string{`f.toml:3:20: MemoryMax is "1X"`}},
		{"twice in one file", []string{valid, "[pool.web.limits]\nMemoryMax = 1\n\"memory.max\" = 2\n"}, []string{`d1.toml:3:1: "memory.max" says the same thing as MemoryMax`}},
		{"twice in one drop-in", []string{valid, "[pool.web]\nsize = 1\nsize = 2\n"}, []string{`d1.toml:3:1: key size is defined a second time, first at 2:1`}},
		{"a table replaces a value", []string{valid + "ready = 3\n", "[pool.web.ready]\nnotify = true\n"}, []string{`f.toml:3:9: ready must be a table`}},
		{"a value replaces a table", []string{valid + "[pool.web.ready]\nnotify = true\n", "[pool.web]\nready = 3\n"}, []string{`d1.toml:2:9: ready must be a table`}},
		{"unknown in both", []string{valid + "siez = 1\n", "[pool.web]\nsiez = 2\n"}, []string{`f.toml:3:1: unknown key "siez"`, `d1.toml:2:1: unknown key "siez"`}},
		{"keys that go together", []string{valid + "output = \"file\"\n[pool.web.ready]\nstdout = \"x\"\n", "[pool.web]\noutput = \"none\"\n"}, []string{`f.toml:5:1: stdout can not hold without output`}},
		{"a syntax error says nothing of what is missing", []string{"[pool.web]\nsize = 2\n", "[pool.web\n"}, []string{`d1.toml:1:10: `}},
		{"nothing at all", []string{"", "", "# none\n"}, []string{`f.toml:1:1: no [pool.NAME] table`}},
		{"a pool without a command", []string{valid, "[pool.wbe]\nsize = 1\n"}, []string{`d1.toml:1:7: pool "wbe" has no command`}},
	} {
		t.Run(tc.name, func(t *testing.T) { wantTogether(t, tc.files, tc.want...) })
	}
}

// What a replaced value names need not be there.
func TestReplacedValuesNeedNothing(t *testing.T) {
	c := mustTogether(t,
		"[pool.web]\ncommand = [\"no-such-program\"]\nuser = \"no-such-user\"\nenv_file = \"/no/such/file\"\nsize = \"${NO_SUCH_VARIABLE}\"\nenv = { A = \"${NONE}\" }\nready.file = true\n",
		"[pool.web]\ncommand = [\"/bin/true\"]\nuser = \"root\"\nenv_file = \"/dev/../etc/hostname.none\"\nsize = 2\nenv = { A = \"x\" }\nready.file = \"/run/x\"\n",
		"[pool.web]\nenv_file = \""+file(t, "x.env", "B=1\n")+"\"\n")
	if p := c.Pools[0]; p.Spec.Size != 2 || p.Spec.Command.Path != "/bin/true" || p.Ready.FileAuto || p.Ready.File != "/run/x" || !slices.Contains(p.Spec.Command.Env, "B=1") {
		t.Errorf("pool = %+v", p)
	}
}

func TestDefaultsApplyToThePoolsOfTheirFile(t *testing.T) {
	c := mustTogether(t,
		"[defaults]\nsize = 5\nstop_grace = \"1s\"\nenv = { A = \"def\", B = \"def\" }\nlimits.MemoryMax = \"1G\"\nlimits.TasksMax = 9\nready.timeout = \"1s\"\n"+valid+"env.B = \"web\"\nlimits.\"memory.max\" = \"2G\"\n[pool.b]\ncommand = [\"/bin/true\"]\nsize = 1\nready.notify = true\n",
		"[pool.web]\nnice = 3\n[pool.c]\ncommand = [\"/bin/true\"]\n[defaults]\nstop_grace = \"2s\"\nnice = 7\n")
	web, b, other := c.Pools[0], c.Pools[1], c.Pools[2]
	if web.Spec.Size != 5 || web.Spec.Stop.Grace != time.Second || web.Spec.Limits.MemoryMax != 2<<30 || web.Spec.Limits.PIDsMax != 9 || *web.Spec.Command.Nice != 3 {
		t.Errorf("web = %+v", web.Spec)
	}
	if env := web.Spec.Command.Env; !slices.Contains(env, "A=def") || !slices.Contains(env, "B=web") || slices.Contains(env, "B=def") {
		t.Errorf("env = %q", env)
	}
	if web.Ready != nil {
		t.Errorf("web has the rules %+v, want none", web.Ready)
	}
	if b.Spec.Size != 1 || b.Ready == nil || b.Ready.TryTimeout != time.Second || b.Spec.Limits.MemoryMax != 1<<30 {
		t.Errorf("b = %+v, %+v", b.Spec, b.Ready)
	}
	if other.Spec.Size != 1 || other.Spec.Stop.Grace != 2*time.Second || *other.Spec.Command.Nice != 7 || other.Spec.Limits.MemoryMax != 0 {
		t.Errorf("c = %+v", other.Spec)
	}
}

func TestErrorsInDefaultsAreToldOnce(t *testing.T) {
	pools := "[pool.a]\ncommand = [\"/bin/true\"]\n[pool.b]\ncommand = [\"/bin/true\"]\nsize = 4\n[pool.c]\ncommand = [\"/bin/true\"]\n"
	wantTogether(t, []string{pools + "[defaults]\nsize = 0\nbackof = 1\nuser = \"no-such-user\"\nbackoff.mim = 1\nenv = { A = \"{slott}\", B = \"${NONE}\" }\nenv_file = \"/no/such\"\nready.port = 0\n"},
		`f.toml:9:8: size is 0`,
		`f.toml:10:1: unknown key "backof" in [defaults]`,
		`f.toml:11:8: user "no-such-user": unknown user`,
		`f.toml:12:9: unknown key "mim" in [defaults.backoff]`,
		`f.toml:13:13: unknown placeholder {slott} in env`,
		`f.toml:13:28: variable NONE is not set`,
		`f.toml:14:12: env_file "/no/such": no such file or directory`,
		`f.toml:15:14: port is 0`)
	wantTogether(t, []string{valid + "[defaults]\nready.timeout = \"1s\"\n", "defaults = 1\n", "[defaults]\nsize = 0\n"},
		`d1.toml:1:12: defaults must be a table, but this is a whole number, 1: write [defaults]`, `d2.toml:2:8: size is 0`)
	wantTogether(t, []string{valid + "[pool.web.ready]\n[defaults]\nsize = 1\n"}, `f.toml:3:11: [pool.web.ready]: no readiness rule is set`)
	wantTogether(t, []string{valid + "[default]\nsize = 1\n"}, `f.toml:3:2: unknown key "default" in the file: did you mean "defaults"?`)
}

func TestVariables(t *testing.T) {
	environ := []string{"A=a", "EMPTY=", "N=7", "OCT=010", "F=0.5", "YES=true", "BRACES={slot} ${A}", "BAD=\xff", "A=last", "SIZE=64M"}
	for text, want := range map[string]string{
		"plain": "plain", "${A}": "last", "<${A}${A}>": "<lastlast>", "${NONE:-d}": "d", "${EMPTY:-d}": "d", "${EMPTY}": "", "${NONE:-}": "",
		"$A $$ $(x) $": "$A $$ $(x) $", "$${A}": "${A}", "$$${A}": "$${A}", "a$${A}${A}": "a${A}last", "${NONE:-a:-b}": "a:-b", "${NONE:-$A}": "$A",
		"${BRACES}": "{slot} ${A}", "{slot}": "{slot}", "}${A}{": "}last{", "$${": "${",
	} {
		d := newDecoder("/", environ)
		if got, _, err := d.expand(text); err != nil || got != want {
			t.Errorf("expand(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	c := func(text string) Pool {
		cfg, err := parseText("f.toml", "[pool.web]\ncommand = [\"/bin/${A}\", \"x-${N}\"]\n"+text, environ)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return cfg.Pools[0]
	}
	p := c("size = \"${N}\"\nnetns = \"${YES}\"\nbackoff = { jitter = \"${F}\", min = \"${NONE:-3}s\" }\nlimits = { MemoryMax = \"${SIZE}\", TasksMax = \"${N}\" }\n" +
		"rlimits.nofile = \"${N}:${NONE:-9}\"\nuser = \"${NONE:-root}\"\ngroups = [\"${N}\", 2]\numask = \"0${N}7\"\nstop_signal = \"${NONE:-INT}\"\nready.exec = [\"/bin/${A}\", \"${A}\"]\nready.tcp = \"127.0.0.1:80${N:-0}\"\n")
	spec := p.Spec
	if spec.Command.Path != "/bin/last" || spec.Command.Args[1] != "x-7" || spec.Size != 7 || !spec.Command.NetNS || spec.Backoff.Jitter != 0.5 || spec.Backoff.Min != 3*time.Second ||
		spec.Limits.MemoryMax != 64<<20 || spec.Limits.PIDsMax != 7 || spec.Command.Rlimits[0].Hard != 9 || spec.Command.Credential.Groups[1] != 7 || *spec.Command.Umask != 0o77 {
		t.Errorf("spec = %+v", spec)
	}
	if got := strings.Join(p.Ready.Exec, " ") + " " + p.Ready.TCP; got != "/bin/last last 127.0.0.1:807" {
		t.Errorf("ready = %s", got)
	}
}

func TestWhatIsWrongWithVariables(t *testing.T) {
	for text, want := range map[string]string{
		`size = "${NONE}"`:                       `3:8: variable NONE is not set: set it, give it a default with ${NONE:-default}, or leave it to a shell with $${NONE}`,
		`size = "${WATCH}"`:                      `3:8: size must be a whole number, but this is the string "kept": it comes from a variable`,
		`size = "4"`:                             `3:8: size must be a whole number, but this is the string "4": leave the quotes out: 4`,
		`netns = "${WATCH}"`:                     `3:9: netns must be true or false, but this is the string "kept": it comes from a variable`,
		`size = "${WATCH:-0}${NONE:-0}"`:         `3:8: size must be a whole number, but this is the string "kept0"`,
		`directory = "/${NONE"`:                  `3:13: a ${ without a }: write $${ for the two characters ${`,
		`directory = "${}"`:                      `3:13: ${} is no variable: known are ${NAME} and ${NAME:-default}`,
		`directory = "${1}"`:                     `3:13: ${1} is no variable`,
		`directory = "${A-b}"`:                   `3:13: ${A-b} is no variable`,
		`directory = "${A%.*}"`:                  `3:13: ${A%.*} is no variable`,
		`directory = "${A:-${LANG}}"`:            `3:13: the default of ${A} has a brace in it: a default holds neither variables nor placeholders`,
		`env.A = "${PITVISOR_SLOT}"`:             `3:9: variable PITVISOR_SLOT is not set: a worker's own is {slot}, without a dollar sign`,
		`env.A = "${worker}"`:                    `3:9: variable worker is not set: a worker's own is {worker}`,
		`env.A = "${PITVISOR_PORT}"`:             `3:9: variable PITVISOR_PORT is not set: a worker has it only once it is started`,
		`env.A = "$${slot}"`:                     `3:9: {slot} in env is replaced behind a dollar sign as well: give the variable another name`,
		`env = { A = "${NONE}", B = "${NEIN}" }`: `3:13: variable NONE is not set`,
		`groups = ["root", "${NONE}"]`:           `3:19: variable NONE is not set`,
		`restart = "${LANG}"`:                    `3:11: restart is "C", must be "always"`,
	} {
		got := errorsOf(t, valid+text+"\n")
		if len(got) == 0 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q, want %s", text, got, want)
		}
	}
	wantErrors(t, "[pool.web]\ncommand = [\"/bin/echo\", \"${NONE}\"]\n", "2:25: variable NONE is not set")
	_, err := parseText("f.toml", valid+"env.A = \"${X}\"\n", []string{"X=\xff"})
	if got := fmt.Sprint(err); got != "f.toml:3:9: variable X is no UTF-8 text" {
		t.Errorf("error = %s", got)
	}
	_, err = parseText("f.toml", valid+"size = \"${X}\"\n", []string{"X=010"})
	if got := fmt.Sprint(err); !strings.Contains(got, "must be a whole number") {
		t.Errorf("error = %s, want octal numbers refused", got)
	}
}

// Names are no values.
func TestKeysAreNotExpanded(t *testing.T) {
	wantErrors(t, "[pool.\"${LANG}\"]\ncommand = [\"/bin/true\"]\n", `1:7: pool name "${LANG}" has '$' at character 1`)
	wantErrors(t, valid+"\"${LANG}\" = 1\n", `3:1: unknown key "${LANG}"`)
}

func TestPlacesOfManyFiles(t *testing.T) {
	var p problems
	var docs []*document
	for i, text := range []string{"a\nb\n", "", "x", "", "é\ny"} {
		docs = append(docs, p.open(fmt.Sprint(i), []byte(text)))
	}
	got := map[string]int{}
	for _, doc := range docs {
		for at := range len(doc.src) + 1 {
			got[p.place(doc.base+at).String()]++
		}
	}
	want := map[string]int{"0:1:1": 1, "0:1:2": 1, "0:2:1": 1, "0:2:2": 2, "1:1:1": 1, "2:1:1": 1, "2:1:2": 1, "3:1:1": 1, "4:1:1": 2, "4:1:2": 1, "4:2:1": 1, "4:2:2": 1}
	if !maps.Equal(got, want) {
		t.Errorf("places = %v, want %v", got, want)
	}
}
