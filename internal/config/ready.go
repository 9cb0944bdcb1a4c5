package config

import (
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/probe"
)

// readyDraft is a [pool.NAME.ready] table while it is being read.
type readyDraft struct {
	rules          probe.Rules
	at             int // of the table
	stdout, stderr *entry
	port           *entry
	exec           *value // the program's name
}

func readyKeys() []key[*readyDraft] {
	return slices.Concat(eventRuleKeys(), askingRuleKeys(), tryKeys())
}

// eventRuleKeys are the rules that a worker fulfils by doing something.
func eventRuleKeys() []key[*readyDraft] {
	return []key[*readyDraft]{
		{
			Name: "stdout", Type: "regular expression", Default: "no such rule",
			Meaning: "A whole line of stdout matches somewhere. The group `port`, else the first group if it is a number, is the worker's port.",
			Example: `stdout = "listening on .*:(?P<port>[0-9]+)"`,
			set:     func(d *decoder, e *entry, r *readyDraft) { r.stdout, r.rules.Stdout = e, d.expression(e) },
		},
		{
			Name: "stderr", Type: "regular expression", Default: "no such rule",
			Meaning: "The same for stderr.",
			Example: `stderr = "^READY"`,
			set:     func(d *decoder, e *entry, r *readyDraft) { r.stderr, r.rules.Stderr = e, d.expression(e) },
		},
		{
			Name: "file", Type: "path or `true`", Default: "no such rule",
			Meaning: "The worker wrote this file during this start, to its end (a newline, or renamed into place). `true` is a file that the worker finds in `PITVISOR_READY_FILE`. A number in it is the worker's port. `{run}`, `{pool}`, `{slot}`, `{worker}` and `{start}` are replaced.",
			Example: `file = true`,
			set:     setReadyFile,
		},
		yesNo(key[*readyDraft]{
			Name: "notify", Default: "`false`",
			Meaning: "A process of the worker sent `READY=1` to `$NOTIFY_SOCKET`, as sd_notify(3) does.",
			Example: `notify = true`,
		}, func(r *readyDraft, b bool) { r.rules.Notify = b }),
		{
			Name: "fd", Type: "whole number", Default: "no such rule",
			Meaning: "The worker wrote a newline to this descriptor, 3 to 9, which it also finds in `PITVISOR_READY_FD`.",
			Example: `fd = 3`,
			schema:  wholeSchema(3, 9),
			set: func(d *decoder, e *entry, r *readyDraft) {
				if e.kind == kindWhole && (e.value.text == "0" || e.value.text == "1" || e.value.text == "2") {
					d.add(e.value.at, "use 3 to 9", "fd %s is %s of the worker already", e.value.text,
						map[string]string{"0": "stdin", "1": "stdout", "2": "stderr"}[e.value.text])
					return
				}
				if n, ok := d.whole(e, 3, 9); ok {
					r.rules.FD = int(n)
				}
			},
		},
	}
}

// askingRuleKeys are the rules by which the supervisor asks a worker.
func askingRuleKeys() []key[*readyDraft] {
	asked := "Only an address of this machine is asked, and it counts only if the listening socket is the worker's own. `{port}` is the port that `stdout` or `stderr` captured, else the one in the ready file, else `port` plus the slot."
	return []key[*readyDraft]{
		{
			Name: "tcp", Type: "`host:port`", Default: "no such rule",
			Meaning: "A TCP connection is accepted. " + asked, Example: `tcp = "127.0.0.1:{port}"`,
			set: func(d *decoder, e *entry, r *readyDraft) {
				r.rules.TCP = d.target(e, func(s string) probe.Rules { return probe.Rules{TCP: s, Port: 1} })
			},
		},
		{
			Name: "http", Type: "URL", Default: "no such rule",
			Meaning: "The answer to a GET (or `\"HEAD /path\"`) is 2xx or 3xx. As with `tcp`.", Example: `http = "http://127.0.0.1:{port}/health"`,
			set: func(d *decoder, e *entry, r *readyDraft) {
				r.rules.HTTP = d.target(e, func(s string) probe.Rules { return probe.Rules{HTTP: s, Port: 1} })
			},
		},
		{
			Name: "grpc", Type: "`host:port`", Default: "no such rule",
			Meaning: "grpc.health.v1.Health/Check answers SERVING, without TLS. As with `tcp`.", Example: `grpc = ":{port}"`,
			set: func(d *decoder, e *entry, r *readyDraft) {
				r.rules.GRPC = d.target(e, func(s string) probe.Rules { return probe.Rules{GRPC: s, Port: 1} })
			},
		},
		{
			Name: "grpc_service", Type: "string", Default: "the server as a whole",
			Meaning: "The service that `grpc` asks about.", Example: `grpc_service = "shop.Orders"`,
			set: func(d *decoder, e *entry, r *readyDraft) {
				if s, ok := d.nonEmpty(e); ok {
					r.rules.GRPCService = s
				}
			},
		},
	}
}

// tryKeys are the rule that runs a command, and how all of these are tried.
func tryKeys() []key[*readyDraft] {
	return []key[*readyDraft]{
		{
			Name: "exec", Type: "list of strings", Default: "no such rule",
			Meaning: "A command exits with 0. It runs beside the worker, as its user and with its environment. The placeholders of `command` and `{port}` are replaced.",
			Example: `exec = ["/usr/bin/redis-cli", "-p", "{port}", "ping"]`,
			set:     setReadyExec,
		},
		{
			Name: "port", Type: "whole number", Default: "none",
			Meaning: "The port of slot 0; each further slot has the next one. The worker finds its own in `PITVISOR_PORT`.", Example: `port = 8000`,
			schema: wholeSchema(1, 65535),
			set: func(d *decoder, e *entry, r *readyDraft) {
				if n, ok := d.whole(e, 1, 65535); ok {
					r.port, r.rules.Port = e, int(n)
				}
			},
		},
		{
			Name: "interval", Type: "duration", Default: "`\"100ms\"`",
			Meaning: "The longest pause between two tries of `tcp`, `http`, `grpc` and `exec`; the first pauses are shorter.", Example: `interval = "1s"`,
			set: setPause(func(r *probe.Rules) *time.Duration { return &r.Interval }),
		},
		{
			Name: "timeout", Type: "duration", Default: "`\"5s\"`",
			Meaning: "How long one try may take. How long all of it may take is `start_timeout` of the pool.", Example: `timeout = "1s"`,
			set: setPause(func(r *probe.Rules) *time.Duration { return &r.TryTimeout }),
		},
	}
}

func setPause(field func(*probe.Rules) *time.Duration) func(*decoder, *entry, *readyDraft) {
	return func(d *decoder, e *entry, r *readyDraft) {
		if t, ok := d.duration(e, time.Millisecond, time.Hour); ok {
			*field(&r.rules) = t
		}
	}
}

func setReadyFile(d *decoder, e *entry, r *readyDraft) {
	if e.kind == kindBool {
		if r.rules.FileAuto = e.value.text == "true"; !r.rules.FileAuto {
			d.add(e.value.at, "leave the key out instead", "file is false")
		}
		return
	}
	if s, ok := d.nonEmpty(e); ok {
		d.onlyPlaceholders(e.value, "file", startPlaceholders()...)
		r.rules.File = d.checked(e, s, probe.Rules{File: s})
	}
}

func setReadyExec(d *decoder, e *entry, r *readyDraft) {
	items, ok := d.list(e, "write it as a list: "+listOf(e.value.text))
	if !ok {
		return
	}
	if len(items) == 0 || items[0].text == "" {
		d.add(e.value.at, "", "exec has no program")
		return
	}
	for _, item := range items[1:] {
		if !strings.Contains(item.text, "{port}") {
			d.placeholders(item, "exec")
		}
	}
	r.exec, r.rules.Exec = items[0], texts(items)
}

// target checks an address of a rule by itself, so that what is wrong is told at its place.
func (d *decoder) target(e *entry, alone func(string) probe.Rules) string {
	s, ok := d.nonEmpty(e)
	if !ok {
		return ""
	}
	if !d.onlyPlaceholders(e.value, bareKey(e.name), "port") {
		return ""
	}
	return d.checked(e, s, alone(s))
}

func (d *decoder) checked(e *entry, s string, alone probe.Rules) string {
	for _, err := range each(alone.Validate()) {
		d.add(e.value.at, "", "%v", err)
	}
	return s
}

// each takes joined errors apart.
func each(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, each(err)...)
	}
	return all
}

// ready decodes [pool.NAME.ready] and checks how its rules go together.
func (d *decoder) ready(t *table, p *poolDraft) {
	before := d.count
	place := p.place[:len(p.place)-1] + ".ready]"
	r := &readyDraft{at: t.at}
	decodeTable(d, t, place, d.tables.ready, r)
	if d.count > before || p.partial || onlyHow(t) {
		return
	}
	for _, err := range each(r.rules.Validate()) {
		d.add(t.at, "", "%s: %v", place, err)
	}
	p.ready = r
}

// onlyHow says that the table is there only because of [defaults], which say how rules
// are to be tried, and that there is no rule.
func onlyHow(t *table) bool {
	how := []string{"port", "interval", "timeout", "grpc_service"}
	return len(t.entries) > 0 && !slices.ContainsFunc(t.entries, func(e *entry) bool { return !e.inherited || !slices.Contains(how, e.name) })
}

// finishOutput refuses lines of output where there is none.
func (d *decoder) finishOutput(p *poolDraft) {
	if p.Journal && p.Output == OutputNone {
		d.add(p.journal.at, `set output = "file"`, "journal has no effect without output")
	}
}

// finishReady checks the rules against the rest of the pool.
func (d *decoder) finishReady(p *poolDraft) {
	r := p.ready
	if r == nil {
		return
	}
	for _, line := range []*entry{r.stdout, r.stderr} {
		if line != nil && p.Output == OutputNone {
			d.add(line.at, `set output = "file"`, "%s can not hold without output", line.name)
		}
	}
	if last := r.rules.Port + p.Spec.Size - 1; r.port != nil && last > 65535 {
		d.add(r.port.value.at, "", "port is %d, so the last of %d workers would have %d", r.rules.Port, p.Spec.Size, last)
	}
	if r.exec != nil {
		r.rules.Exec[0] = d.program(r.exec, p.Spec.Command.Env)
	}
	p.Ready = &r.rules
}
