package config

import (
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
)

// liveDraft is a [pool.NAME.live] table while it is being read. Its rules are those of
// readiness, read in the same way.
type liveDraft struct {
	readyDraft
	live probe.Live
}

func liveKeys() []key[*liveDraft] {
	var keys []key[*liveDraft]
	for _, k := range readyKeys() {
		meaning, same := liveMeanings()[k.Name]
		if !same {
			continue
		}
		example := k.Example
		if k.Name == "file" {
			example = `file = "/run/shop/alive-{slot}"`
		}
		keys = append(keys, key[*liveDraft]{
			Name: k.Name, Type: strings.TrimSuffix(k.Type, " or `true`"), Default: k.Default, Meaning: meaning, Example: example, schema: k.schema,
			set: func(d *decoder, e *entry, l *liveDraft) { k.set(d, e, &l.readyDraft) },
		})
	}
	return append(keys, []key[*liveDraft]{
		lasting(key[*liveDraft]{
			Name: "delay", Default: "`period`", Meaning: "How long after it was ready it is checked first.", Example: `delay = "1min"`,
		}, time.Millisecond, maxWait, func(l *liveDraft, t time.Duration) { l.live.Delay = t }),
		lasting(key[*liveDraft]{
			Name: "period", Default: "`\"10s\"`", Meaning: "From one check to the next.", Example: `period = "1min"`,
		}, time.Millisecond, maxWait, func(l *liveDraft, t time.Duration) { l.live.Period = t }),
		lasting(key[*liveDraft]{
			Name: "timeout", Default: "`\"5s\"`", Meaning: "How long one question may take.", Example: `timeout = "1s"`,
		}, time.Millisecond, time.Hour, func(l *liveDraft, t time.Duration) { l.live.Timeout = t }),
		whole(key[*liveDraft]{
			Name: "failures", Default: "`3`", Meaning: "How many checks in a row must fail before the worker is restarted.", Example: `failures = 5`,
		}, 1, 1000, func(l *liveDraft, n int) { l.live.Failures = n }),
		whole(key[*liveDraft]{
			Name: "successes", Default: "`1`", Meaning: "How many checks in a row must hold before failures are forgotten.", Example: `successes = 2`,
		}, 1, 1000, func(l *liveDraft, n int) { l.live.Successes = n }),
	}...)
}

// liveMeanings are the rules that make sense for what is ready, and what they mean then.
func liveMeanings() map[string]string {
	asked := "Only an address of this machine is asked, and the answer counts only if the worker itself gives it. `{port}` is the port with which it became ready."
	return map[string]string{
		"stdout":       "A heartbeat: a line of stdout has matched since the check before.",
		"stderr":       "The same for stderr.",
		"file":         "A heartbeat: this file was modified since the check before. `{run}`, `{pool}`, `{slot}`, `{worker}` and `{start}` are replaced.",
		"notify":       "A heartbeat: a process of the worker has sent `WATCHDOG=1` to `$NOTIFY_SOCKET` since the check before. It finds `period` in `WATCHDOG_USEC`. `WATCHDOG=trigger` restarts it at once.",
		"tcp":          "A TCP connection is accepted. " + asked,
		"http":         "The answer to a GET (or `\"HEAD /path\"`) is 2xx or 3xx. As with `tcp`.",
		"grpc":         "grpc.health.v1.Health/Check answers SERVING, without TLS. As with `tcp`.",
		"grpc_service": "The service that `grpc` asks about.",
		"exec":         "A command exits with 0. It runs beside the worker, as its user and with its environment. The placeholders of `command` and `{port}` are replaced.",
	}
}

// live decodes [pool.NAME.live].
func (d *decoder) live(t *table, p *poolDraft) {
	before := d.count
	place := p.place[:len(p.place)-1] + ".live]"
	l := &liveDraft{}
	decodeTable(d, t, place, d.tables.live, l)
	if l.rules.FileAuto {
		d.add(t.at, "name a path", "%s: file is no path", place)
	}
	if d.count > before || p.partial {
		return
	}
	l.at, l.live.Rules = t.at, l.rules
	for _, err := range each(l.live.Validate()) {
		d.add(t.at, "", "%s: %v", place, err)
	}
	p.live = l
}

// finishLive checks the rules against the rest of the pool, and lets a worker report
// its count where that matters.
func (d *decoder) finishLive(p *poolDraft) {
	if l := p.live; l != nil {
		for _, line := range []*entry{l.stdout, l.stderr} {
			if line != nil && p.Output == OutputNone {
				d.add(line.at, `set output = "file"`, "%s can not hold without output", line.name)
			}
		}
		r := &l.live.Rules
		uses := strings.Contains(strings.Join(append([]string{r.TCP, r.HTTP, r.GRPC}, r.Exec...), " "), "{port}")
		if uses && p.ready == nil {
			d.add(l.at, "write the port, or add [pool.NAME.ready] with a rule that tells it", "{port} is the port with which the worker became ready, and no rule says when it is")
		}
		if l.exec != nil {
			r.Exec[0] = d.program(l.exec, p.Spec.Command.Env)
		}
		p.Live = &l.live
	}
	if p.Spec.Recycle.Count > 0 {
		if p.Live == nil {
			p.Live = &probe.Live{}
		}
		p.Live.Count = true
	}
}
