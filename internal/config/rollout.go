package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/supervise"
)

// poolsTogetherKeys say how pools go together, and how they are told apart.
func poolsTogetherKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		{
			Name: "after", Type: "list of pools, or table of pools and words", Default: "nobody",
			Meaning: "Pools that must have come so far before a worker of this one is started for the first time: in a table `\"ready\"` (every worker was ready once), `\"started\"` (was executed once) or `\"completed\"` (ended with 0 and stays so: `restart` must not be `always`); in a list all ready. When everything ends this pool ends before them.",
			Example: `after = { db = "ready", migrate = "completed" }`,
			schema:  afterSchema(),
			set:     setAfter,
		},
		{
			Name: "labels", Type: "table of strings", Default: "none",
			Meaning: "What the pool can be selected by, as in `pitvisor logs tier=front`. Names and values are up to 63 of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`.",
			Example: `labels = { tier = "front" }`,
			schema:  schema{"type": "object", "additionalProperties": schema{"type": "string"}, "propertyNames": schema{"pattern": "^[a-zA-Z0-9._/-]{1,63}$"}},
			set:     setLabels,
		},
		{
			Name: "rollout", Type: "table", Default: "see there", Meaning: "How many workers are replaced at a time; see [pool.NAME.rollout].",
			Example: `rollout = { max_surge = 2 }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { max_surge = 2 }`); ok {
					d.rollout(t, p)
				}
			},
		},
		{
			Name: "recycle", Type: "table", Default: "never", Meaning: "When a worker is replaced because it has lived long enough; see [pool.NAME.recycle].",
			Example: `recycle = { age = "1d", memory = "2G" }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { age = "1d" }`); ok {
					d.recycle(t, p)
				}
			},
		},
		{
			Name: "pressure", Type: "table", Default: "nothing", Meaning: "What is done when a resource is short; see [pool.NAME.pressure].",
			Example: `pressure = { memory = 20, action = "hold-starts" }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { memory = 20, action = "hold-starts" }`); ok {
					d.pressure(t, p)
				}
			},
		},
	}
}

// rolloutDraft is a [pool.NAME.rollout] table while it is being read; nil is not set.
type rolloutDraft struct {
	surge, unavailable *int
	minReady, progress time.Duration
}

func rolloutKeys() []key[*rolloutDraft] {
	return []key[*rolloutDraft]{
		whole(key[*rolloutDraft]{
			Name: "max_surge", Default: "1, or 0 if some may be missing",
			Meaning: "How many workers there may be beyond `size`. The new ones come first, and an old one goes when a new one is ready.", Example: `max_surge = 2`,
		}, 0, maxPoolSize, func(r *rolloutDraft, n int) { r.surge = &n }),
		whole(key[*rolloutDraft]{
			Name: "max_unavailable", Default: "0, or 1 if there may be none beyond `size`",
			Meaning: "How many of `size` may be missing meanwhile. With `restart = \"never\"` the usual is 1, and none beyond `size`.", Example: `max_unavailable = 1`,
		}, 0, maxPoolSize, func(r *rolloutDraft, n int) { r.unavailable = &n }),
		lasting(key[*rolloutDraft]{
			Name: "min_ready", Default: "`\"0s\"`", Meaning: "How long a new worker must stay ready before it counts and the next old one may go. One that does not stay has failed.", Example: `min_ready = "10s"`,
		}, 0, maxWait, func(r *rolloutDraft, t time.Duration) { r.minReady = t }),
		lasting(key[*rolloutDraft]{
			Name: "progress_deadline", Default: "`\"infinity\"`", Meaning: "Within which time one more new worker must count. Otherwise the rollout stops and says so, and the old workers serve on. The stop of an old worker counts, too, so it should be longer than `drain` and `stop_grace` together. It stops anyway when a new worker has failed three times.", Example: `progress_deadline = "10min"`,
		}, time.Second, 0, func(r *rolloutDraft, t time.Duration) { r.progress = t }),
	}
}

// rollout decodes [pool.NAME.rollout]. What is not written does not contradict what is.
func (d *decoder) rollout(t *table, p *poolDraft) {
	var r rolloutDraft
	decodeTable(d, t, p.place[:len(p.place)-1]+".rollout]", d.tables.rollout, &r)
	to := &p.Spec.Rollout
	to.MinReady, to.Progress = r.minReady, r.progress
	switch {
	case r.surge != nil && r.unavailable != nil:
		to.MaxSurge, to.MaxUnavailable = *r.surge, *r.unavailable
		if *r.surge == 0 && *r.unavailable == 0 && !p.partial {
			d.add(t.at, "set one of them", "max_surge and max_unavailable are both 0: no worker could ever be replaced")
		}
	case r.surge != nil && *r.surge == 0:
		to.MaxUnavailable = 1
	case r.surge != nil:
		to.MaxSurge = *r.surge
	case r.unavailable != nil && *r.unavailable == 0:
		to.MaxSurge = 1
	case r.unavailable != nil:
		to.MaxUnavailable = *r.unavailable
	}
}

const (
	defaultAgeJitter   = 0.1
	defaultMemoryEvery = 10 * time.Second
)

// recycleDraft is a [pool.NAME.recycle] table while it is being read.
type recycleDraft struct {
	supervise.Recycle
	jitter bool // is set
}

func recycleKeys() []key[*recycleDraft] {
	return []key[*recycleDraft]{
		lasting(key[*recycleDraft]{
			Name: "age", Default: "`\"infinity\"`", Meaning: "How long after it was ready.", Example: `age = "12h"`,
		}, time.Second, 0, func(r *recycleDraft, t time.Duration) { r.Age = t }),
		number(key[*recycleDraft]{
			Name: "jitter", Default: "`0.1`", Meaning: "Which part of `age`, 0 to 1, chance may take off, so that workers are not all due at once.", Example: `jitter = 0.3`,
		}, 0, 1, func(r *recycleDraft, f float64) { r.AgeJitter, r.jitter = f, true }),
		{
			Name: "memory", Type: "size", Default: "no bound", Meaning: "How much its cgroup may hold, page cache included (`memory.current`). Needs the memory controller.", Example: `memory = "2G"`,
			set: func(d *decoder, e *entry, r *recycleDraft) {
				if n, ok := d.size(e, 1<<20, 1<<50); ok {
					r.Memory = n
				}
			},
		},
		lasting(key[*recycleDraft]{
			Name: "memory_every", Default: "`\"10s\"`", Meaning: "How often `memory` is looked at.", Example: `memory_every = "1min"`,
		}, 100*time.Millisecond, time.Hour, func(r *recycleDraft, t time.Duration) { r.MemoryEvery = t }),
		whole(key[*recycleDraft]{
			Name: "count", Default: "no bound", Meaning: "How much it may have done, as it or who uses it reports to the supervisor.", Example: `count = 10_000`,
		}, 1, 1_000_000_000_000_000, func(r *recycleDraft, n int) { r.Count = uint64(n) }),
	}
}

func (d *decoder) recycle(t *table, p *poolDraft) {
	var r recycleDraft
	decodeTable(d, t, p.place[:len(p.place)-1]+".recycle]", d.tables.recycle, &r)
	switch {
	case r.Age == 0:
		r.AgeJitter = 0
	case !r.jitter:
		r.AgeJitter = defaultAgeJitter
	}
	switch {
	case r.Memory == 0:
		r.MemoryEvery = 0
	case r.MemoryEvery == 0:
		r.MemoryEvery = defaultMemoryEvery
	}
	p.Spec.Recycle = r.Recycle
}

// setLabels reads a table of labels.
func setLabels(d *decoder, e *entry, p *poolDraft) {
	t, ok := d.subtable(e, `write it as a table: { tier = "front" }`)
	if !ok {
		return
	}
	p.Spec.Labels = make(map[string]string)
	for own := range d.inForce(t) {
		text, ok := d.text(own)
		if !ok {
			continue
		}
		for _, s := range []struct {
			what, text string
			at         int
		}{{"label", own.name, own.at}, {"the value of a label", text, own.value.at}} {
			if len(s.text) > 63 || strings.ContainsFunc(s.text, isNoLabel) || s.text == "" && s.what == "label" {
				d.add(s.at, "", "%s is %s: allowed are up to 63 of a-z, A-Z, 0-9, dot, _, - and /", s.what, quoted(s.text))
			}
		}
		p.Spec.Labels[own.name] = text
		d.record(p.place[:len(p.place)-1]+".labels]", own.name, own)
	}
	if len(p.Spec.Labels) == 0 {
		p.Spec.Labels = nil
	}
}

func isNoLabel(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r)
}

// untils are the words for how far another pool must be, in the order of their values.
func untils() []string {
	return []string{supervise.UntilReady.String(), supervise.UntilStarted.String(), supervise.UntilCompleted.String()}
}

func afterSchema() schema {
	pool := schema{"pattern": poolNamePattern}
	return schema{"anyOf": []any{
		schema{"type": "array", "items": orVariable(schema{"type": "string", "pattern": poolNamePattern})},
		schema{"type": "object", "propertyNames": pool, "additionalProperties": orVariable(schema{"enum": untils()})},
	}}
}

// dependency is one of a pool on another, with the place that says so.
type dependency struct {
	supervise.Dependency
	at   int
	from string
}

func setAfter(d *decoder, e *entry, p *poolDraft) {
	p.after = nil
	add := func(name string, at int, until int, inherited bool) {
		if name == p.Spec.Name && inherited {
			return // [defaults] mean the others
		}
		p.after = append(p.after, dependency{supervise.Dependency{Pool: name, Until: supervise.Until(until)}, at, p.Spec.Name})
	}
	if e.kind != kindTable {
		items, ok := d.list(e, fmt.Sprintf("write it as a list: [%q]", e.value.text))
		for i := 0; ok && i < len(items); i++ {
			if slices.ContainsFunc(items[:i], func(v *value) bool { return v.text == items[i].text }) {
				d.add(items[i].at, "remove one of them", "pool %s is named a second time in after", quoted(items[i].text))
				continue
			}
			add(items[i].text, items[i].at, 0, e.inherited)
		}
		return
	}
	for own := range d.inForce(e.table) {
		if until, ok := d.choice(own, untils()...); ok {
			add(own.name, own.at, until, own.inherited)
			d.record(p.place[:len(p.place)-1]+".after]", own.name, own)
		}
	}
}
