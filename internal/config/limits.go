package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/resource"
)

// limitKeys makes keys of the limits that package resource knows.
func limitKeys() []key[*resource.Limits] {
	var keys []key[*resource.Limits]
	for _, l := range resource.Keys() {
		name := l.Name
		if len(l.Also) > 0 {
			name = l.Also[len(l.Also)-1]
		}
		keys = append(keys, key[*resource.Limits]{
			Name: l.Name, Also: l.Also, Type: l.Accepts, Default: "the kernel's", Meaning: l.Meaning,
			Example: fmt.Sprintf("%s = %s", name, tomlValue(l.Example)), schema: limitSchema(l.Several), set: setLimit(l.Several),
		})
	}
	return keys
}

// tomlValue quotes what is not a number.
func tomlValue(text string) string {
	if _, err := strconv.Atoi(text); err == nil {
		return text
	}
	return strconv.Quote(text)
}

// setLimit sets a limit. Several values come as a list.
func setLimit(several bool) func(*decoder, *entry, *resource.Limits) {
	return func(d *decoder, e *entry, l *resource.Limits) {
		values := []*value{e.value}
		if several && e.kind == kindList {
			values = e.items
		}
		for _, v := range values {
			text, ok := d.limitText(e.name, v)
			if !ok {
				return
			}
			var wrong *resource.LimitError
			if err := resource.ParseLimit(e.name, text, l); errors.As(err, &wrong) {
				d.add(v.at, wrong.Hint, "%s is %s: %s", bareKey(e.name), quoted(v.text), wrong.Why)
				return
			}
		}
	}
}

// limitText returns a value as a limit is written elsewhere than in TOML, where
// 1_000 and 0x10 are numbers as well.
func (d *decoder) limitText(name string, v *value) (string, bool) {
	switch v.kind {
	case kindText, kindBool:
		return v.text, true
	case kindWhole:
		if n, err := parseWhole(v.text); err == nil {
			return strconv.FormatInt(n, 10), true
		}
		return v.text, true
	case kindFloat, kindDate, kindList, kindTable:
	}
	d.add(v.at, "", "%s must be a string or a whole number, but this is %s", bareKey(name), describe(v))
	return "", false
}

// limits decodes a table of limits. The kernel's names have dots, which TOML
// reads as tables in tables unless they are quoted; both are understood.
func (d *decoder) limits(t *table, place string, to *resource.Limits) {
	flat := newTable(originInline, t.at)
	d.flatten(t, "", flat)
	decodeTable(d, flat, place, d.tables.limits, to)
	if to.CPUIdle && to.CPUWeight != 0 {
		d.add(t.at, "leave one of them out", "%s has cpu.weight and is idle, which the kernel refuses", place)
	}
	slices.SortFunc(to.IOMax, func(a, b resource.DiskLimit) int { return strings.Compare(a.Disk, b.Disk) })
}

// flatten joins the keys of tables in tables with dots.
func (d *decoder) flatten(t *table, prefix string, flat *table) {
	for _, e := range t.entries {
		name := prefix + e.name
		if e.kind == kindTable && strings.Count(prefix, ".") < 3 {
			d.flatten(e.table, name+".", flat)
			continue
		}
		if old := flat.byName[name]; old != nil && old.sameLayer(e) {
			d.add(e.at, "remove one of them", "%s is defined a second time", bareKey(name))
			continue
		}
		own := *e
		own.name = name
		flat.put(&own)
	}
}

// limitTableKeys are the tables in a pool and how strict their limits are.
func limitTableKeys() []key[*poolDraft] {
	modes := []string{"strict", "best-effort"}
	set := func(place string, to func(*poolDraft) *resource.Limits) func(*decoder, *entry, *poolDraft) {
		return func(d *decoder, e *entry, p *poolDraft) {
			if t, ok := d.subtable(e, `write it as a table: { "memory.max" = "512M" }`); ok {
				d.limits(t, p.place[:len(p.place)-1]+"."+place+"]", to(p))
			}
		}
	}
	return []key[*poolDraft]{
		{
			Name: "limits", Type: "table", Default: "no limits", Meaning: "Limits of each worker with all its processes; see [pool.NAME.limits].",
			Example: `limits = { "memory.max" = "512M", TasksMax = 64 }`,
			set:     set("limits", func(p *poolDraft) *resource.Limits { return &p.Spec.Limits }),
		},
		{
			Name: "pool_limits", Type: "table", Default: "no limits", Meaning: "The same for all workers of the pool together.",
			Example: `pool_limits = { "memory.max" = "4G" }`,
			set:     set("pool_limits", func(p *poolDraft) *resource.Limits { return &p.Spec.PoolLimits }),
		},
		oneWord(key[*poolDraft]{
			Name: "limits_mode", Default: "`\"strict\"`",
			Meaning: "What happens where the kernel has no controller for a limit: `strict` refuses to start, `best-effort` says so and goes on without it.",
			Example: `limits_mode = "best-effort"`,
		}, modes, func(p *poolDraft, i int) { p.Spec.BestEffortLimits = i == 1 }),
		{
			Name: "rlimits", Type: "table", Default: "the supervisor's", Meaning: "Classic resource limits of each process; see [pool.NAME.rlimits].",
			Example: `rlimits = { nofile = "1024:4096", core = 0 }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { nofile = "1024:4096" }`); ok {
					p.Spec.Command.Rlimits = d.rlimits(t, p.place)
				}
			},
		},
	}
}
