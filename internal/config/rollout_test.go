package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

func TestRolloutBoundsAgree(t *testing.T) {
	for text, want := range map[string]supervise.Rollout{
		"":                                      {},
		"max_surge = 3":                         {MaxSurge: 3},
		"max_surge = 0":                         {MaxUnavailable: 1},
		"max_unavailable = 2":                   {MaxUnavailable: 2},
		"max_unavailable = 0":                   {MaxSurge: 1},
		"max_surge = 0\nmax_unavailable = 2":    {MaxUnavailable: 2},
		"max_surge = 5\nmax_unavailable = 0":    {MaxSurge: 5},
		"max_surge = \"${N:-2}\"":               {MaxSurge: 2},
		"max_surge = 1_0\nmax_unavailable = 10": {MaxSurge: 10, MaxUnavailable: 10},
	} {
		if got := pool(t, "[pool.web.rollout]\n"+text).Spec.Rollout; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	wantErrors(t, valid+"rollout = { max_surge = 0, max_unavailable = 0 }\n", "3:11: max_surge and max_unavailable are both 0: no worker could ever be replaced: set one of them")
	wantErrors(t, valid+"rollout.max_surg = 1\n", `3:9: unknown key "max_surg" in [pool.web.rollout]: did you mean "max_surge"?`)
}

func TestRecycle(t *testing.T) {
	for text, want := range map[string]supervise.Recycle{
		`age = "1h"`:                             {Age: time.Hour, AgeJitter: 0.1},
		"age = \"1h\"\njitter = 0":               {Age: time.Hour},
		"jitter = 0.5":                           {},
		`memory = "1G"`:                          {Memory: 1 << 30, MemoryEvery: 10 * time.Second},
		"memory = \"1G\"\nmemory_every = \"1s\"": {Memory: 1 << 30, MemoryEvery: time.Second},
		`memory_every = "1s"`:                    {},
		"age = \"infinity\"\ncount = 9":          {Count: 9},
	} {
		if got := pool(t, "[pool.web.recycle]\n"+text).Spec.Recycle; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	wantErrors(t, valid+"recycle = { age = \"1ms\", memory = 5, count = -1 }\n",
		`3:19: age is "1ms", must be at least 1s`, `3:35: memory is 5 bytes, must be 1048576 to`, `3:46: count is -1, must be 1 to`)
}

const andOthers = "[pool.db]\ncommand = [\"/bin/true\"]\nrestart = \"on-failure\"\n[pool.x]\ncommand = [\"/bin/true\"]\n"

func TestAfter(t *testing.T) {
	for text, want := range map[string][]supervise.Dependency{
		`after = ["db", "x"]`:                                    {{Pool: "db"}, {Pool: "x"}},
		`after = { x = "ready", db = "completed" }`:              {{Pool: "x"}, {Pool: "db", Until: supervise.UntilCompleted}},
		"after.db = \"started\"":                                 {{Pool: "db", Until: supervise.UntilStarted}},
		"[defaults]\nafter = [\"db\", \"x\", \"web\"]":           {{Pool: "db"}, {Pool: "x"}},
		"[defaults.after]\nweb = \"ready\"\nx = \"${A:-ready}\"": {{Pool: "x"}},
		"after = []": nil,
	} {
		others := andOthers
		if strings.Contains(text, "defaults") {
			others = strings.ReplaceAll(others, "restart =", "after = []\nrestart =") + "after = []\n" // else they come after each other
			if strings.Contains(text, "defaults.after") {
				others = "" // the table of defaults is joined with any other
				text = strings.ReplaceAll(text, "x =", "y =")
				want = []supervise.Dependency{{Pool: "y"}}
			}
		}
		files := []string{valid + text + "\n" + others}
		if others == "" {
			files = append(files, "[pool.y]\ncommand = [\"/bin/true\"]\n")
		}
		if got := mustTogether(t, files...).Pools[0].Spec.After; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestWhatIsWrongWithAfter(t *testing.T) {
	for text, want := range map[string]string{
		`after = "db"`:                `3:9: after must be a list of strings, but this is the string "db": write it as a list: ["db"]`,
		`after = ["dbb"]`:             `3:10: pool "web" comes after pool "dbb", which there is not: did you mean "db"?`,
		`after = ["db", "db"]`:        `3:16: pool "db" is named a second time in after`,
		`after = { db = "redy" }`:     `3:16: db is "redy", must be "ready", "started" or "completed": did you mean "ready"?`,
		`after = { x = "completed" }`: `3:11: pool "web" waits until pool "x" has completed, which it never does`,
		`after = ["web"]`:             `3:10: pool "web" comes after itself: web after web: leave one of them out`,
		`after = 3`:                   `3:9: after must be a list of strings, but this is a whole number, 3`,
		`labels = { "a=b" = "" }`:     `3:12: label is "a=b": allowed are up to 63`,
		`labels = { a = "b,c" }`:      `3:16: the value of a label is "b,c": allowed are`,
		`labels = ["a"]`:              `3:10: labels must be a table`,
	} {
		wantErrors(t, valid+text+"\n"+andOthers, want)
	}
	// Each circle is told of once, where it is closed.
	wantErrors(t, "[pool.a]\ncommand = [\"/bin/true\"]\nafter = [\"b\"]\n[pool.b]\ncommand = [\"/bin/true\"]\nafter = [\"c\", \"a\"]\n[pool.c]\ncommand = [\"/bin/true\"]\nafter = [\"a\"]\n[pool.d]\ncommand = [\"/bin/true\"]\nafter = [\"a\"]\n",
		`6:15: pool "b" comes after itself: a after b after a`, `9:10: pool "c" comes after itself: a after b after c after a`)
	// A pool of which something else is wrong is there all the same.
	wantErrors(t, valid+"after = [\"db\"]\n[pool.db]\nsize = 0\n", `4:7: pool "db" has no command`, `5:8: size is 0`)
}

// Dependencies and labels of several files are joined name by name.
func TestDropInsChangeDependencies(t *testing.T) {
	c := mustTogether(t, valid+"after = { db = \"ready\", x = \"ready\" }\nlabels = { a = \"1\", b = \"1\" }\n"+andOthers, "[pool.web]\nafter.x = \"started\"\nlabels.b = \"2\"\n")
	spec := c.Pools[0].Spec
	if want := []supervise.Dependency{{Pool: "db"}, {Pool: "x", Until: supervise.UntilStarted}}; !reflect.DeepEqual(spec.After, want) {
		t.Errorf("after = %+v, want %+v", spec.After, want)
	}
	if want := map[string]string{"a": "1", "b": "2"}; !reflect.DeepEqual(spec.Labels, want) {
		t.Errorf("labels = %+v, want %+v", spec.Labels, want)
	}
	if c = mustTogether(t, valid+"after = { db = \"ready\" }\n"+andOthers, "[pool.web]\nafter = [\"x\"]\n"); len(c.Pools[0].Spec.After) != 1 || c.Pools[0].Spec.After[0].Pool != "x" {
		t.Errorf("after = %+v, want the list alone", c.Pools[0].Spec.After)
	}
}
