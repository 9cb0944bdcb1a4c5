package config

import (
	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/supervise"
)

// runTable is what concerns all pools together.
func runTable() key[*Config] {
	return key[*Config]{
		Name: "run", Type: "table", Default: "", Meaning: "What concerns all pools together; see [run].",
		Example: "[run]",
		set: func(d *decoder, e *entry, c *Config) {
			if t, ok := d.subtable(e, "write [run]"); ok {
				decodeTable(d, t, "[run]", d.tables.run, &c.Run)
			}
		},
	}
}

func runKeys() []key[*supervise.RunSpec] {
	modes := []string{"strict", "best-effort"}
	return []key[*supervise.RunSpec]{
		{
			Name: "limits", Type: "table", Default: "no limits", Meaning: "Limits of all pools together; with the keys of [pool.NAME.limits].",
			Example: `limits = { "memory.max" = "8G" }`,
			set: func(d *decoder, e *entry, r *supervise.RunSpec) {
				if t, ok := d.subtable(e, `write it as a table: { "memory.max" = "8G" }`); ok {
					r.RunLimits = resource.Limits{}
					d.limits(t, "[run.limits]", &r.RunLimits)
				}
			},
		},
		{
			Name: "pressure", Type: "table", Default: "nothing is watched", Meaning: "When events tell that a resource is short; see [run.pressure].",
			Example: `pressure = { memory = 20 }`,
			set: func(d *decoder, e *entry, r *supervise.RunSpec) {
				if t, ok := d.subtable(e, `write it as a table: { memory = 20 }`); ok {
					d.runPressure(t, r)
				}
			},
		},
		oneWord(key[*supervise.RunSpec]{
			Name: "limits_mode", Default: "`\"strict\"`",
			Meaning: "What happens where the kernel has no controller for a limit of [run], or keeps no pressure: `strict` refuses to start, `best-effort` says so and goes on without it.",
			Example: `limits_mode = "best-effort"`,
		}, modes, func(r *supervise.RunSpec, i int) { r.BestEffort = i == 1 }),
	}
}

// runPressure decodes [run.pressure].
func (d *decoder) runPressure(t *table, r *supervise.RunSpec) {
	draft, before := newPressureDraft(), d.count
	decodeTable(d, t, "[run.pressure]", d.tables.runPressure, draft)
	switch {
	case d.count > before:
		return
	case !draft.watches():
		d.add(t.at, "add memory = 20", "[run.pressure] names no resource")
		return
	}
	r.Watch = []supervise.Pressure{draft.Pressure}
	if draft.both {
		other := draft.Pressure
		other.Where = supervise.PressureOfRun
		r.Watch = append(r.Watch, other)
	}
}
