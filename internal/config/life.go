package config

import (
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// restartKeys say when a worker is started again.
func restartKeys() []key[*poolDraft] {
	restarts := []string{supervise.RestartAlways.String(), supervise.RestartOnFailure.String(), supervise.RestartNever.String()}
	return []key[*poolDraft]{
		oneWord(key[*poolDraft]{
			Name: "restart", Default: "`\"always\"`",
			Meaning: "Whether a worker that ended by itself is started again: always, unless its exit code was 0, or never.",
			Example: `restart = "on-failure"`,
		}, restarts, func(p *poolDraft, i int) { p.Spec.Restart = supervise.RestartPolicy(i) }),
		{
			Name: "backoff", Type: "table", Default: "see there", Meaning: "How long to wait before a restart; see [pool.NAME.backoff].",
			Example: `backoff = { min = "200ms", max = "1min" }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { min = "200ms", max = "1min" }`); ok {
					d.backoff(t, p)
				}
			},
		},
		whole(key[*poolDraft]{
			Name: "failure_limit", Default: "`0`",
			Meaning: "After how many failures in a row a worker is given up; 0 is never, because most causes go away (a full disk, a database that restarts) and the waits grow to `backoff.max` anyway.",
			Example: `failure_limit = 10`,
		}, 0, 1_000_000, func(p *poolDraft, n int) { p.Spec.FailureLimit = n }),
	}
}

// lifeKeys say when a worker is ready, what its life is, and where it writes to.
func lifeKeys() []key[*poolDraft] {
	tracks := []string{supervise.TrackMain.String(), supervise.TrackLeaf.String()}
	outputs := []string{OutputFile, OutputPipe, OutputNone}
	return []key[*poolDraft]{
		{
			Name: "ready", Type: "table", Default: "ready as soon as it runs", Meaning: "When a worker is ready; see [pool.NAME.ready].",
			Example: `ready = { tcp = "127.0.0.1:{port}", port = 8000 }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { tcp = ":8000" }`); ok {
					d.ready(t, p)
				}
			},
		},
		{
			Name: "live", Type: "table", Default: "well as long as it lives", Meaning: "When a ready worker must be restarted; see [pool.NAME.live].",
			Example: `live = { exec = ["/bin/true"], period = "30s" }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { http = ":8000/health" }`); ok {
					d.live(t, p)
				}
			},
		},
		lasting(key[*poolDraft]{
			Name: "start_timeout", Default: "`\"60s\"`",
			Meaning: "How long a worker may take to be ready before the start has failed; `\"infinity\"` is for ever.",
			Example: `start_timeout = "5min"`,
		}, time.Millisecond, 0, func(p *poolDraft, t time.Duration) { p.Spec.StartTimeout = t }),
		oneWord(key[*poolDraft]{
			Name: "track", Default: "`\"main\"`",
			Meaning: "What a worker's life is: `main` is the process that was started, and what it leaves behind is killed; `leaf` is any process of the worker, for commands that put themselves into the background.",
			Example: `track = "leaf"`,
		}, tracks, func(p *poolDraft, i int) { p.Spec.Track = supervise.Track(i) }),
		oneWord(key[*poolDraft]{
			Name: "output", Default: "`\"file\"`",
			Meaning: "Where stdout and stderr go. `file`: the worker writes by itself to a file for each in `state_dir`, at no cost; a worker of another user can not open /dev/stdout by name. `pipe`: the supervisor reads pipes and writes the same files; a full disk loses output, which is counted, but the worker sees no error, and it can open /dev/stdout. `none`: /dev/null. See docs/logs.md.",
			Example: `output = "none"`,
		}, outputs, func(p *poolDraft, i int) { p.Output = outputs[i] }),
		{
			Name: "journal", Type: "boolean", Default: "`false`",
			Meaning: "Whether each line goes to systemd's journal as well, with fields such as PITVISOR_POOL. See docs/logs.md.",
			Example: `journal = true`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if b, ok := d.boolean(e); ok {
					p.Journal, p.journal = b, e
				}
			},
		},
	}
}

func backoffKeys() []key[*poolDraft] {
	wait := func(field func(*supervise.Backoff) *time.Duration) func(*decoder, *entry, *poolDraft) {
		return func(d *decoder, e *entry, p *poolDraft) {
			// Zero would mean the default to package supervise.
			if t, ok := d.duration(e, time.Millisecond, maxWait); ok {
				*field(&p.Spec.Backoff) = t
			}
		}
	}
	return []key[*poolDraft]{
		{
			Name: "min", Type: "duration", Default: "`\"100ms\"`", Meaning: "The first wait.", Example: `min = "500ms"`,
			set: wait(func(b *supervise.Backoff) *time.Duration { return &b.Min }),
		},
		{
			Name: "max", Type: "duration", Default: "`\"30s\"`", Meaning: "The longest wait.", Example: `max = "5min"`,
			set: wait(func(b *supervise.Backoff) *time.Duration { return &b.Max }),
		},
		number(key[*poolDraft]{
			Name: "factor", Default: "`2`", Meaning: "How much longer each wait is than the one before, 1 to 100.", Example: `factor = 1.5`,
		}, 1, 100, func(p *poolDraft, f float64) { p.Spec.Backoff.Factor = f }),
		number(key[*poolDraft]{
			Name: "jitter", Default: "`0.2`", Meaning: "Which part of a wait, 0 to 1, chance may take off, so that workers do not come back all at once.", Example: `jitter = 0.5`,
		}, 0, 1, func(p *poolDraft, f float64) { p.Spec.Backoff.Jitter = f }),
		{
			Name: "reset", Type: "duration", Default: "`\"10s\"`", Meaning: "How long a worker must have been ready for its failures to be forgotten.", Example: `reset = "1min"`,
			set: wait(func(b *supervise.Backoff) *time.Duration { return &b.Reset }),
		},
		whole(key[*poolDraft]{
			Name: "free", Default: "`2`", Meaning: "How many times in a row a worker that was ready is restarted without a wait. A start that failed always waits.", Example: `free = 0`,
		}, 0, 1000, func(p *poolDraft, n int) { p.Spec.Backoff.Free = n }),
	}
}

func (d *decoder) backoff(t *table, p *poolDraft) {
	before := d.count
	place := p.place[:len(p.place)-1] + ".backoff]"
	decodeTable(d, t, place, d.tables.backoff, p)
	b := &p.Spec.Backoff
	if d.count > before || p.partial || b.Min <= b.Max {
		return
	}
	switch low, high := t.byName["min"], t.byName["max"]; {
	case high == nil:
		b.Max = b.Min // the default must not contradict what is written
		d.move(place, "max", "min")
	case low == nil:
		b.Min = b.Max
		d.move(place, "min", "max")
	default:
		d.add(high.value.at, "", "max %s is less than min %s", quoted(high.value.text), quoted(low.value.text))
	}
}

// stopKeys say how a worker is stopped.
func stopKeys() []key[*poolDraft] {
	scopes := []string{"main", "all"}
	return []key[*poolDraft]{
		{
			Name: "stop_signal", Type: "signal", Default: "`\"TERM\"`",
			Meaning: "The signal that asks a worker to end: a name with or without SIG, `RTMIN+n`, or a number.",
			Example: `stop_signal = "INT"`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if s, ok := d.signal(e); ok {
					p.Spec.Stop.Signal = s
				}
			},
		},
		lasting(key[*poolDraft]{
			Name: "stop_grace", Default: "`\"10s\"`",
			Meaning: "How long it may take to end before all its processes are killed; `\"0s\"` kills at once.",
			Example: `stop_grace = "30s"`,
		}, 0, maxWait, func(p *poolDraft, t time.Duration) { p.Spec.Stop.Grace = t }),
		lasting(key[*poolDraft]{
			Name: "drain", Default: "`\"0s\"`",
			Meaning: "How long a worker that is to be stopped is left alone before it gets the stop signal. It is not ready any more meanwhile, so that who sends it work can send it elsewhere. Of no use where the supervisor holds the listening sockets.",
			Example: `drain = "5s"`,
		}, 0, maxWait, func(p *poolDraft, t time.Duration) { p.Spec.Stop.Drain = t }),
		oneWord(key[*poolDraft]{
			Name: "stop_scope", Default: "`\"main\"`",
			Meaning: "Who gets the stop signal: the process that was started, or all processes of the worker.",
			Example: `stop_scope = "all"`,
		}, scopes, func(p *poolDraft, i int) { p.Spec.Stop.All = i == 1 }),
	}
}

// signal reads the name or number of a signal.
func (d *decoder) signal(e *entry) (unix.Signal, bool) {
	if e.kind != kindText && e.kind != kindWhole {
		d.wrongKind(e, "a signal", `write a name, such as "TERM"`)
		return 0, false
	}
	text := e.value.text
	if s, ok := units.Signal(text); ok {
		return s, true
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	var known []string
	for n := unix.Signal(1); n < 32; n++ {
		known = append(known, strings.TrimPrefix(unix.SignalName(n), "SIG"))
	}
	hint := didYouMean(name, known)
	if hint == "" {
		hint = `write a name, such as "TERM", "INT" or "RTMIN+3"`
	}
	d.add(e.value.at, hint, "%s is %s, which is no signal", bareKey(e.name), quoted(text))
	return 0, false
}
