package config

import (
	"slices"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestPressure(t *testing.T) {
	usual := supervise.Pressure{Memory: 0.2, For: 10 * time.Second, Calm: 0.5, CalmFor: 30 * time.Second}
	run := usual
	run.Where = supervise.PressureOfRun
	const bound = 10 * time.Minute
	for text, want := range map[string]supervise.PressurePolicy{
		"memory = 20\naction = \"hold-starts\"":                            {Pressure: usual, Action: supervise.PressureHold, MaxFor: bound},
		"memory = 20\naction = \"shrink\"":                                 {Pressure: usual, Action: supervise.PressureShrink, MinSize: 1, MaxFor: bound},
		"memory = 20\naction = \"hold-starts\"\nmax_for = \"infinity\"":    {Pressure: usual, Action: supervise.PressureHold},
		"memory = 20\naction = \"hold-starts\"\nmax_for = \"2min\"":        {Pressure: usual, Action: supervise.PressureHold, MaxFor: 2 * time.Minute},
		"memory = 20\naction = \"freeze\"\npriority = -3\nwhere = \"run\"": {Pressure: run, Action: supervise.PressureFreeze, Priority: -3, MaxFor: bound},
		"[defaults.pressure]\nmemory = 20\naction = \"shrink\"\npriority = 7\nmin_size = 3\n[pool.web.pressure]\naction = \"freeze\"": {
			Pressure: usual, Action: supervise.PressureFreeze, Priority: 7, MaxFor: bound,
		},
	} {
		table := "[pool.web.pressure]\n"
		if text[0] == '[' {
			table = ""
		}
		if got := pool(t, table+text).Spec.Pressure; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	wantErrors(t, valid+"pressure = { memory = 20 }\n", `3:12: [pool.web.pressure] says nothing of what is to be done: add action = "hold-starts"`)
	wantErrors(t, valid+"pressure = { action = \"freeze\" }\n", `3:12: [pool.web.pressure] names no resource: add memory = 20`)
	wantErrors(t, valid+"pressure = { memory = 20, action = \"freeze\", min_size = 1 }\n", `3:46: min_size is for action = "shrink", but this is "freeze": leave it out`)
	wantErrors(t, valid+"pressure = { memory = 20, action = \"shrink\", min_size = 2 }\n", `3:57: min_size is 2, more than the size of pool "web", which is 1`)
	wantErrors(t, valid+"pressure = { memory = 20, action = \"freeze\", max_for = \"0s\" }\n", `3:56: max_for is "0s", must be at least 10s, or "infinity"`)
	wantErrors(t, valid+"pressure = { memory = 101, for = \"1s\", action = \"thaw\" }\n", "3:23: memory is 101, must be 0.1 to 100", `3:34: for is "1s", must be 2s to 1h0m0s`,
		`3:49: action is "thaw", must be "hold-starts", "shrink" or "freeze"`)
}

func TestRun(t *testing.T) {
	usual := supervise.Pressure{IOFull: 0.5, For: 10 * time.Second, Calm: 0.5, CalmFor: 30 * time.Second}
	run := usual
	run.Where = supervise.PressureOfRun
	c := good(t, valid+"[run]\nlimits_mode = \"best-effort\"\nlimits.memory.max = \"1G\"\nlimits.CPUWeight = \"idle\"\npressure = { io_full = 50, where = \"both\" }\n")
	if c.Run.RunLimits.MemoryMax != 1<<30 || !c.Run.RunLimits.CPUIdle || !c.Run.BestEffort || len(c.Run.Watch) != 2 || c.Run.Watch[0] != usual || c.Run.Watch[1] != run {
		t.Errorf("run = %+v", c.Run)
	}
	if c := good(t, valid); !c.Run.RunLimits.IsZero() || c.Run.Watch != nil || c.Run.BestEffort {
		t.Errorf("run = %+v, want nothing", c.Run)
	}
	wantErrors(t, valid+"[run]\npressure = {}\n", "4:12: [run.pressure] names no resource: add memory = 20")
	wantErrors(t, valid+"[run.limits]\nmemory.max = 0\n", `4:14: "memory.max" is "0": must be 1 to`)
	wantErrors(t, valid+"limits = { CPUWeight = 5, \"cpu.idle\" = 1 }\n", "3:10: [pool.web.limits] has cpu.weight and is idle, which the kernel refuses: leave one of them out")
	if got := pool(t, "limits = { CPUWeight = \"idle\" }").Spec.Limits; !got.CPUIdle || got.IsZero() || got.CPUWeight != 0 {
		t.Errorf("limits %+v", got)
	}
	var none resource.Limits
	if got := pool(t, "limits = { cpu_idle = 0 }").Spec.Limits; !got.IsZero() || got.CPUIdle != none.CPUIdle {
		t.Errorf("limits %+v, want none", got)
	}
}

// What the reference calls a default is what leaving the key out gives.
func TestPressureDefaults(t *testing.T) {
	n := 0
	for action, keys := range map[string][]key[*pressureDraft]{"shrink": newTables().pressure, "freeze": newTables().pressure, "": newTables().runPressure} {
		for _, k := range keys {
			if k.builtIn() == "" || k.Name == "min_size" && action != "shrink" || k.Name == "priority" && action != "freeze" {
				continue
			}
			n++
			text := valid + "[run.pressure]\nmemory = 20\n"
			if action != "" {
				text = valid + "[pool.web.pressure]\nmemory = 20\naction = \"" + action + "\"\n"
			}
			with, without := good(t, text+k.Name+" = "+k.builtIn()+"\n"), good(t, text)
			if with.Pools[0].Spec.Pressure != without.Pools[0].Spec.Pressure || !slices.Equal(with.Run.Watch, without.Run.Watch) {
				t.Errorf("%s = %s is not what leaving it out gives", k.Name, k.builtIn())
			}
		}
	}
	if n < 12 {
		t.Errorf("%d keys were looked at", n)
	}
}
