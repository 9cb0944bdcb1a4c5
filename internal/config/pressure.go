package config

import (
	"slices"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

// pressureDraft is a [pool.NAME.pressure] or [run.pressure] table while it is being read.
type pressureDraft struct {
	supervise.PressurePolicy
	both              bool // the host and the run
	minSize, priority *entry
}

// pressureKeys say what counts as pressure.
func pressureKeys(places []string) []key[*pressureDraft] {
	keys := []key[*pressureDraft]{
		oneWord(key[*pressureDraft]{
			Name: "where", Default: "`\"host\"`", Meaning: "Whose programs wait: any on this host, or those of all pools together.", Example: `where = "run"`,
		}, places, func(p *pressureDraft, i int) { p.Where, p.both = supervise.PressurePlace(i%2), i == 2 }),
	}
	share := func(name, meaning string, field func(*supervise.Pressure) *float64) {
		keys = append(keys, number(key[*pressureDraft]{
			Name: name, Default: "not looked at", Meaning: meaning, Example: name + " = 20",
		}, 0.1, 100, func(p *pressureDraft, f float64) { *field(&p.Pressure) = f / 100 }))
	}
	share("cpu", "From how much of the time on, in percent, some programs wait for a processor.", func(p *supervise.Pressure) *float64 { return &p.CPU })
	share("memory", "The same of memory: they wait for what was reclaimed or swapped out.", func(p *supervise.Pressure) *float64 { return &p.Memory })
	share("memory_full", "The same, and meanwhile nobody gets on.", func(p *supervise.Pressure) *float64 { return &p.MemoryFull })
	share("io", "The same of disks.", func(p *supervise.Pressure) *float64 { return &p.IO })
	share("io_full", "The same, and meanwhile nobody gets on.", func(p *supervise.Pressure) *float64 { return &p.IOFull })
	return append(keys,
		lasting(key[*pressureDraft]{
			Name: "for", Default: "`\"10s\"`", Meaning: "Over which time that is measured. It is also the time between two steps of `shrink` and `freeze`.", Example: `for = "30s"`,
		}, 2*time.Second, time.Hour, func(p *pressureDraft, t time.Duration) { p.For = t }),
		number(key[*pressureDraft]{
			Name: "calm", Default: "`0.5`", Meaning: "Below which part of its threshold a pressure is over, up to 1.", Example: `calm = 0.8`,
		}, 0.01, 1, func(p *pressureDraft, f float64) { p.Calm = f }),
		lasting(key[*pressureDraft]{
			Name: "calm_for", Default: "`\"30s\"`", Meaning: "For how long it must be so, and between two steps back.", Example: `calm_for = "1min"`,
		}, 2*time.Second, time.Hour, func(p *pressureDraft, t time.Duration) { p.CalmFor = t }),
	)
}

// poolPressureKeys also say what follows.
func poolPressureKeys() []key[*pressureDraft] {
	actions := []string{supervise.PressureHold.String(), supervise.PressureShrink.String(), supervise.PressureFreeze.String()}
	return append(pressureKeys([]string{"host", "run"}),
		oneWord(key[*pressureDraft]{
			Name: "action", Default: "required",
			Meaning: "`hold-starts` starts nobody; who runs goes on. `shrink` stops a quarter of the workers, and another quarter each time it has lasted `for` once more. `freeze` freezes the ready workers and starts nobody; of several pools that of the least `priority` is first. Each is undone when the pressure is over, or after `max_for`. See docs/pressure.md.",
			Example: `action = "hold-starts"`,
		}, actions, func(p *pressureDraft, i int) { p.Action = supervise.PressureAction(i + 1) }),
		lasting(key[*pressureDraft]{
			Name: "max_for", Default: "`\"10min\"`",
			Meaning: "How long that is done at a time. Then it is undone, `pressure-timeout` is told, and the pool does nothing about pressure for as long again, or until it is over. `\"infinity\"` is as long as the pressure lasts.",
			Example: `max_for = "1h"`,
		}, 10*time.Second, 0, func(p *pressureDraft, t time.Duration) { p.MaxFor = t }),
		key[*pressureDraft]{
			Name: "min_size", Type: "whole number", Default: "`1`", Meaning: "With `shrink`: how many workers stay.", Example: `min_size = 2`,
			schema: wholeSchema(1, maxPoolSize),
			set: func(d *decoder, e *entry, p *pressureDraft) {
				if n, ok := d.whole(e, 1, maxPoolSize); ok {
					p.MinSize, p.minSize = int(n), e
				}
			},
		},
		key[*pressureDraft]{
			Name: "priority", Type: "whole number", Default: "`0`", Meaning: "With `freeze`: pools of the least are frozen first and thawed last.", Example: `priority = -5`,
			schema: wholeSchema(-1000, 1000),
			set: func(d *decoder, e *entry, p *pressureDraft) {
				if n, ok := d.whole(e, -1000, 1000); ok {
					p.Priority, p.priority = int(n), e
				}
			},
		},
	)
}

const (
	defaultPressureFor     = 10 * time.Second
	defaultPressureCalm    = 0.5
	defaultPressureCalmFor = 30 * time.Second
	defaultPressureMaxFor  = 10 * time.Minute
)

func newPressureDraft() *pressureDraft {
	return &pressureDraft{PressurePolicy: supervise.PressurePolicy{
		Pressure: supervise.Pressure{For: defaultPressureFor, Calm: defaultPressureCalm, CalmFor: defaultPressureCalmFor},
		MaxFor:   defaultPressureMaxFor,
	}}
}

// watches says whether some share is set.
func (p *pressureDraft) watches() bool {
	return p.CPU+p.Memory+p.MemoryFull+p.IO+p.IOFull > 0
}

// pressure decodes [pool.NAME.pressure].
func (d *decoder) pressure(t *table, p *poolDraft) {
	draft, before := newPressureDraft(), d.count
	place := p.place[:len(p.place)-1] + ".pressure]"
	decodeTable(d, t, place, d.tables.pressure, draft)
	if p.partial || d.count > before {
		return
	}
	misplaced := func(e *entry, action supervise.PressureAction) {
		if e != nil && draft.Action != action && !e.inherited {
			d.add(e.at, "leave it out", "%s is for action = %q, but this is %q", e.name, action, draft.Action)
		}
	}
	misplaced(draft.minSize, supervise.PressureShrink)
	misplaced(draft.priority, supervise.PressureFreeze)
	if draft.Action != supervise.PressureShrink {
		draft.MinSize = 0
	} else if draft.MinSize == 0 {
		draft.MinSize = 1
	}
	if draft.Action != supervise.PressureFreeze {
		draft.Priority = 0
	}
	switch {
	case !draft.watches():
		d.add(t.at, "add memory = 20", "%s names no resource", place)
	case draft.Action == 0:
		d.add(t.at, `add action = "hold-starts"`, "%s says nothing of what is to be done", place)
	}
	p.Spec.Pressure, p.minSize = draft.PressurePolicy, draft.minSize
}

// finishPressure needs the size.
func (d *decoder) finishPressure(p *poolDraft) {
	if e := p.minSize; e != nil && p.Spec.Pressure.MinSize > p.Spec.Size {
		d.add(e.value.at, "", "min_size is %d, more than the size of pool %q, which is %d", p.Spec.Pressure.MinSize, p.Spec.Name, p.Spec.Size)
	}
}

// ofAction are the keys that mean something with an action.
func ofAction(keys []key[*pressureDraft], action supervise.PressureAction) []key[*pressureDraft] {
	return slices.DeleteFunc(slices.Clone(keys), func(k key[*pressureDraft]) bool {
		return k.Name == "min_size" && action != supervise.PressureShrink || k.Name == "priority" && action != supervise.PressureFreeze
	})
}
