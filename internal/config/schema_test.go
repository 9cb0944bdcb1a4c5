package config

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// docs/pitvisor.schema.json is made of the tables that the decoder goes by. To write it
// again: PITVISOR_WRITE_DOCS=1 go test ./internal/config -run Schema
func TestSchemaIsUpToDate(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "pitvisor.schema.json")
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("PITVISOR_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s is not what the tables say (%v); write it again with PITVISOR_WRITE_DOCS=1", path, err)
	}
}

// document returns a TOML text as a schema sees it.
func asJSON(tb testing.TB, text string) any {
	tb.Helper()
	var any map[string]any
	if err := toml.Unmarshal([]byte(text), &any); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return throughJSON(tb, any)
}

func throughJSON(tb testing.TB, v any) any {
	tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	var back any
	if err := json.Unmarshal(data, &back); err != nil {
		tb.Fatal(err)
	}
	return back
}

// placed is a text with a line for each key of each table of the reference.
func placed(visit func(name, text string)) {
	tables := newTables()
	for _, k := range tables.top {
		visit(k.Name, k.Example+"\n")
	}
	for _, k := range tables.log {
		visit(k.Name, "[log]\n"+k.Example+"\n")
	}
	for _, k := range tables.api {
		visit(k.Name, "[api]\n"+k.Example+"\n")
	}
	for _, k := range tables.run {
		visit(k.Name, "[run]\n"+k.Example+"\n")
	}
	for _, k := range tables.runPressure {
		visit(k.Name, "[run.pressure]\n"+k.Example+"\n")
	}
	for _, at := range []string{"[defaults", "[pool.web"} {
		for _, k := range tables.pressure {
			visit(k.Name, at+".pressure]\n"+k.Example+"\n")
		}
		for _, k := range tables.pool {
			visit(k.Name, at+"]\n"+k.Example+"\n")
		}
		for _, k := range tables.backoff {
			visit(k.Name, at+".backoff]\n"+k.Example+"\n")
		}
		for _, k := range tables.rollout {
			visit(k.Name, at+".rollout]\n"+k.Example+"\n")
		}
		for _, k := range tables.recycle {
			visit(k.Name, at+".recycle]\n"+k.Example+"\n")
		}
		for _, k := range tables.limits {
			visit(k.Name, at+".limits]\n"+k.Example+"\n")
			visit(k.Name, at+".pool_limits]\n"+k.Example+"\n")
		}
		for _, k := range tables.rlimits {
			visit(k.Name, at+".rlimits]\n"+k.Example+"\n")
		}
		for _, k := range tables.ready {
			visit(k.Name, at+".ready]\n"+k.Example+"\n")
		}
	}
}

// Every example is valid, and the same key with another letter is not.
func TestSchemaHasEveryKey(t *testing.T) {
	v := newValidator(t)
	placed(func(name, text string) {
		if strings.HasPrefix(text, "[pool.web]\n[") || text == "[pool.web]\n" {
			return // the table itself
		}
		if wrong := v.validate(asJSON(t, text)); wrong != "" {
			t.Errorf("the example of %s is refused: %s\n%s", name, wrong, text)
		}
	})
	for _, names := range [][]string{names(newTables().limits), names(newTables().rlimits), names(newTables().pool), names(newTables().ready), names(newTables().backoff)} {
		for _, name := range names {
			if wrong := v.validate(asJSON(t, "[pool.web]\n\""+name+"x\" = 1\n")); wrong == "" {
				t.Errorf("the key %sx is accepted", name)
			}
		}
	}
}

func names[T any](keys []key[T]) []string { return keyNames(keys) }

// Every type of the reference means something to the schema.
func TestSchemaKnowsEveryType(t *testing.T) {
	tables := newTables()
	for _, k := range slices.Concat(tables.pool, tables.backoff) {
		if k.schema == nil && typeSchema(k.Type) == nil && k.Type != "table" {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
	for _, k := range tables.pressure {
		if k.schema == nil && typeSchema(k.Type) == nil {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
	for _, k := range tables.recycle {
		if k.schema == nil && typeSchema(k.Type) == nil {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
	for _, k := range tables.ready {
		if k.schema == nil && typeSchema(k.Type) == nil {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
	for _, k := range tables.api {
		if k.schema == nil && typeSchema(k.Type) == nil {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
	for _, k := range tables.log {
		if k.schema == nil && typeSchema(k.Type) == nil {
			t.Errorf("%s has the type %q, which no schema is known for", k.Name, k.Type)
		}
	}
}

// The bounds of the schema are those of the decoder.
func TestSchemaHasTheDecodersBounds(t *testing.T) {
	v := newValidator(t)
	tables := newTables()
	n := 0
	both := func(text string, want bool) {
		t.Helper()
		if wrong := v.validate(asJSON(t, text)); (wrong == "") != want {
			t.Errorf("%s: the schema says %q", text, wrong)
		}
		errs := slices.DeleteFunc(errorsOf(t, text), func(e string) bool { return strings.Contains(e, "the last of") })
		if (len(errs) == 0) != want {
			t.Errorf("%s: the decoder says %q", text, errs)
		}
	}
	look := func(name string, s schema, text string) {
		t.Helper()
		alternatives, _ := s["anyOf"].([]any)
		if len(alternatives) == 0 {
			return
		}
		first, _ := alternatives[0].(schema)
		least, ok := first["minimum"].(int64)
		if !ok || first["type"] != "integer" {
			return
		}
		most := first["maximum"].(int64)
		n++
		for number, want := range map[int64]bool{least: true, most: true, least - 1: false, most + 1: false} {
			data, _ := toml.Marshal(map[string]any{name: number})
			both(text+string(data), want)
		}
	}
	for _, k := range tables.pool {
		look(k.Name, k.schema, valid)
	}
	for _, k := range tables.log {
		look(k.Name, k.schema, valid+"[log]\n")
	}
	for _, k := range tables.backoff {
		look(k.Name, k.schema, valid+"[pool.web.backoff]\n")
	}
	for _, k := range tables.rollout {
		look(k.Name, k.schema, valid+"[pool.web.rollout]\n")
	}
	for _, k := range tables.recycle {
		look(k.Name, k.schema, valid+"[pool.web.recycle]\n")
	}
	for _, k := range tables.runPressure {
		look(k.Name, k.schema, valid+"[run.pressure]\n")
	}
	for _, k := range tables.ready {
		also := "fd = 3\n"
		if k.Name == "fd" {
			also = ""
		}
		look(k.Name, k.schema, valid+"[pool.web.ready]\n"+also)
	}
	if n < 8 {
		t.Errorf("%d keys were looked at, want at least 8", n)
	}
}

func TestSchemaRefusesWhatIsWrong(t *testing.T) {
	v := newValidator(t)
	for _, text := range []string{
		"comand = 1\n", "name = \"a b\"\n", "name = 1\n", "log = 3\n", "[log]\nlevel = \"loud\"\n", "[log]\nmax_size = \"16 MB\"\n", "[log]\nkeep = 1.5\n",
		"pool = 1\n", "[pool.Web]\n", "[pool.\"a/b\"]\n", "[pool]\ncommand = [\"x\"]\n",
		"[pool.web]\ncomand = [\"x\"]\n", "[pool.web]\ncommand = \"x\"\n", "[pool.web]\ncommand = []\n", "[pool.web]\ncommand = [\"sleep\", 5]\n",
		"[pool.web]\nsize = \"4\"\n", "[pool.web]\nsize = 0\n", "[pool.web]\nsize = 10001\n", "[pool.web]\nsize = 1.5\n",
		"[pool.web]\nstop_grace = 10\n", "[pool.web]\nstop_grace = \"10\"\n", "[pool.web]\nstop_grace = \"15 parsecs\"\n", "[pool.web]\nstop_grace = \"-1s\"\n",
		"[pool.web]\nnetns = \"yes\"\n", "[pool.web]\nrestart = \"on_failure\"\n", "[pool.web]\numask = \"089\"\n", "[pool.web]\nuser = \"\"\n", "[pool.web]\nuser = -1\n",
		"[pool.web]\nenv = [\"A=b\"]\n", "[pool.web]\nenv = { A = 1 }\n", "[pool.web]\nenv = { \"A-B\" = \"\" }\n", "[pool.web]\nenv = { PITVISOR_X = \"\" }\n",
		"[pool.web]\nstop_signal = 65\n", "[pool.web]\nstop_signal = \"\"\n", "[pool.web.backoff]\nfactor = 0.5\n", "[pool.web.backoff]\nmim = \"1s\"\n",
		"[pool.web.limits]\nMemoryMaxx = 1\n", "[pool.web.limits]\nmemory.maxx = 1\n", "[pool.web.limits]\nMemoryMax = 1.5\n", "[pool.web.limits]\nMemoryMax = [\"1G\"]\n",
		"[pool.web.rlimits]\nnofile = [1]\n", "[pool.web.rlimits]\nnofile = -1\n", "[pool.web.ready]\nfd = 2\n", "[pool.web.ready]\nfile = false\n", "[pool.web.ready]\nport = 65536\n",
		"[pool.web]\nafter = \"db\"\n", "[pool.web]\nafter = [\"d b\"]\n", "[pool.web]\nafter = { db = \"reddy\" }\n", "[pool.web]\nlabels = { \"a=b\" = \"\" }\n", "[pool.web.rollout]\nmax_surge = -1\n", "[pool.web.recycle]\ncount = 0\n",
		"[pool.web.pressure]\nmemory = 0\n", "[pool.web.pressure]\nwhere = \"both\"\n", "[run.pressure]\nmin_size = 1\n", "[run.limits]\nmemory.maxx = 1\n", "[run]\nlimit = {}\n",
		"[defaults]\nsize = 0\n", "[defaults.web]\nsize = 1\n", "[defaults]\ncommand = \"x\"\n",
	} {
		if wrong := v.validate(asJSON(t, text)); wrong == "" {
			t.Errorf("%q is accepted", text)
		}
		if errs := errorsOf(t, text); len(errs) == 0 {
			t.Errorf("%q is accepted by the decoder", text)
		}
	}
}

func TestSchemaAcceptsWhatIsRight(t *testing.T) {
	v := newValidator(t)
	for _, text := range []string{
		"", valid, valid + "size = \"${WORKERS:-4}\"\nnetns = \"${X:-true}\"\nstop_grace = \"${X:-1}s\"\nrestart = \"${X:-never}\"\nbackoff.factor = \"${X:-2}\"\numask = \"${X:-022}\"\n",
		"[pool.web]\nstop_grace = \"1min 30s\"\nstart_timeout = \"infinity\"\nstop_signal = \"RTMIN+3\"\n", "[pool.web.limits]\nmemory.max = \"1G\"\nmemory.swap.max = 0\nio_max = [\"8:0 rbps=1\"]\n",
		"[defaults]\nenv.A = \"x\"\n[pool.web]\n", "[pool.web]\ngroups = []\nuser = 0\n", "[pool.web.ready]\nfile = true\n", "[log]\nmax_size = 100000\n",
	} {
		if wrong := v.validate(asJSON(t, text)); wrong != "" {
			t.Errorf("%q is refused: %s", text, wrong)
		}
	}
}

// What is in force is valid too, and so is every unit of time.
func TestSchemaAcceptsWhatIsInForce(t *testing.T) {
	_, e, err := together("[defaults]\nlimits.memory.max = \"1G\"\n" + valid + "[pool.web.ready]\nnotify = true\n")
	if err != nil {
		t.Fatal(err)
	}
	root := map[string]any{}
	for _, table := range e.Tables {
		at := root
		for _, part := range table.Path {
			if at[part] == nil {
				at[part] = map[string]any{}
			}
			at = at[part].(map[string]any)
		}
		for _, s := range table.Settings {
			at[s.Key] = s.Value()
		}
	}
	v := newValidator(t)
	if wrong := v.validate(throughJSON(t, root)); wrong != "" {
		t.Error(wrong)
	}
	for _, unit := range []string{"ns", "usec", "µs", "ms", "s", "sec", "second", "seconds", "m", "min", "minutes", "h", "hr", "hours", "d", "days"} {
		text := "[pool.web]\ncommand = [\"/bin/true\"]\nstop_grace = \" 1" + unit + " 2.5 ns3" + unit + "\"\n"
		if wrong := v.validate(asJSON(t, text)); wrong != "" || pool(t, strings.TrimPrefix(text, "[pool.web]\n")).Spec.Stop.Grace > 100*24*time.Hour {
			t.Errorf("%s: %s", text, wrong)
		}
	}
	defs := v.root["$defs"].(map[string]any)
	if got := slices.Sorted(maps.Keys(defs)); len(got) < 10 {
		t.Errorf("definitions = %q", got)
	}
}
