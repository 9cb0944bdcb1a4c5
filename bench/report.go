package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is everything that was found; it is written as JSON as it is.
type report struct {
	Machine   machine
	Started   time.Time
	Took      time.Duration
	Rounds    int
	Quick     bool
	Gate      bool
	Rows      []row
	Pools     map[int][]poolTable
	Restarts  map[string][]restartRun // of each contender, a round each
	Outputs   []outputTable
	Held      []held
	Contained []contained
	Shots     []shotTable
	Syncs     []time.Duration
	Waiting   []waiting
	Notes     []string
	Omitted   []omission
}

// row is one line of the verdict table.
type row struct {
	ID        string // number in the project's table of targets
	Measure   string
	Pitvisor  string
	Reference string
	Ratio     string
	Target    string
	Verdict   string
	Exact     bool // there is no noise in it
}

// omission is what was not measured, and why.
type omission struct {
	What, Why string
}

func (b *bench) begin() {
	b.Started, b.Rounds, b.Quick, b.Gate = time.Now(), b.opts.rounds, b.opts.quick, b.opts.gate
	b.Pools = make(map[int][]poolTable)
}

func (b *bench) finish() {
	b.Took = time.Since(b.Started)
}

func (b *bench) addRow(r row) {
	b.Rows = append(b.Rows, r)
}

func (b *bench) note(format string, args ...any) {
	b.Notes = append(b.Notes, fmt.Sprintf(format, args...))
}

// omit names what is not measured. The project's own place on this machine is nobody's business.
func (b *bench) omit(what string, why error) {
	text := strings.ReplaceAll(why.Error(), b.work+"/", "")
	b.Omitted = append(b.Omitted, omission{what, text})
}

// write writes the JSON, the documentation when this run is one for it, and the verdicts to the standard output.
func (b *bench) write() error {
	slices.SortStableFunc(b.Rows, func(x, y row) int { return cmp.Compare(x.order(), y.order()) })
	text, err := json.MarshalIndent(b.report, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.work, "result.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	page := b.markdown()
	if b.opts.docs == "" {
		b.say.line("")
		_, err := os.Stdout.Write(page)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.opts.docs), 0o755); err != nil {
		return err
	}
	b.say.line("wrote %s", b.opts.docs)
	return os.WriteFile(b.opts.docs, page, 0o644)
}

// order sorts rows by their number; the ones without a number come last.
func (r row) order() int {
	var n int
	if _, err := fmt.Sscanf(r.ID, "%d", &n); err != nil {
		return 1000
	}
	return n
}

func (b *bench) markdown() []byte {
	var out bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	p("# Benchmarks\n")
	p("Written by `make bench` (`go run ./bench`). %s\n", b.Machine)
	p("%s", b.method())
	p("\n## Verdicts\n")
	p("| # | measure | pitvisor | reference | ratio | target | verdict |\n|---|---|---|---|---|---|---|")
	for _, r := range b.Rows {
		p("| %s | %s | %s | %s | %s | %s | %s |", r.ID, cell1(r.Measure), cell1(r.Pitvisor), cell1(r.Reference), cell1(r.Ratio),
			cell1(r.Target), r.Verdict)
	}
	b.oneshotMarkdown(p)
	for _, n := range b.sizes() {
		b.poolMarkdown(p, n)
	}
	b.containedMarkdown(p)
	if len(b.Notes) > 0 {
		p("\n## Notes\n")
		for _, note := range b.Notes {
			p("- %s", note)
		}
	}
	if len(b.Omitted) > 0 {
		p("\n## Not measured\n")
		for _, o := range b.Omitted {
			p("- %s: %s", o.What, cell1(o.Why))
		}
	}
	return out.Bytes()
}

// cell1 makes a text fit into one table cell.
func cell1(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(strings.TrimSpace(text))
}

func (b *bench) method() string {
	return fmt.Sprintf(`All contenders are measured from outside and in the same way. For pools, *wall* is the time from the start of the supervisor until
the last worker (a static C program, output to nowhere, no readiness rule) wrote its pid into a FIFO. *CPU* is the CPU
time, until %v later, of a cgroup that holds the supervisor, its helpers and its workers, so the cost of each exec is in
it. *Stop* is the time from the stop signal until the supervisor has ended and no process is left: by force
for pitvisor (its second SIGINT; the workers ignore SIGTERM) and for the floors (one cgroup.kill), by their
own polite stop for the peers. Rounds alternate: one warm-up, then %d measured; the first contender changes each round.
Ratios are taken within a round, then their median [lowest-highest] is shown. As this machine is small and shared, a
ratio up to 15 %% above its target counts as met "within the allowance"; counts are exact and need no allowance.
The floors are the least that any supervisor must do: `+"`bench/c/limit.c`"+` (limit-c; with a durable journal; without
cgroups) and `+"`bench/limitgo`"+`. For output, workers (`+"`bench/c/writer.c`"+`) write lines of 100 bytes as fast as they can, and the
time ends when the last byte of it is in a file in memory; no byte may be missing. The floors of that are a cat for each
worker, and workers that write to files without any supervisor. pitvisor shows nothing of it meanwhile.`, settle, b.Rounds)
}

func (b *bench) sizes() []int {
	var sizes []int
	for n := range b.Pools {
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	return sizes
}

func (b *bench) poolMarkdown(p func(string, ...any), n int) {
	p("\n## A pool of %d workers\n", n)
	p("| contender | kind | rounds | wall ms | × limit-go | CPU ms | × limit-go | supervisor processes | PSS MiB | threads | fds | idle CPU ms/s | idle switches/s | stop ms | left after stop |")
	p("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	base, _ := b.table(n, "limit-go")
	for _, t := range b.Pools[n] {
		wall, cpu := t.column(wallMS), t.column(cpuMS)
		held, idleCPU, idleSwitches := t.held()
		p("| %s | %s | %d/%d | %s | %s | %s | %s | %d | %.1f | %d | %d | %.3f | %.1f | %s | %d |",
			t.Name, t.Kind, len(t.Runs)-t.failures(), len(t.Runs),
			summarize(wall).spread("%.0f"), summarize(ratios(wall, base.column(wallMS))).spread("%.2f"),
			summarize(cpu).spread("%.0f"), summarize(ratios(cpu, base.column(cpuMS))).spread("%.2f"),
			held.Processes, float64(held.PSS)/mebibyte, held.Threads, held.FDs, idleCPU, idleSwitches,
			summarize(t.column(stopMS)).spread("%.0f"), t.left())
	}
}

// held returns the greatest holdings of all rounds, and the idleness of the rounds that watched it, per second.
func (t poolTable) held() (most usage, cpu, switches float64) {
	for _, run := range t.Runs {
		if run.Err != "" {
			continue
		}
		most.Processes = max(most.Processes, run.Held.Processes)
		most.PSS = max(most.PSS, run.Held.PSS)
		most.Threads = max(most.Threads, run.Held.Threads)
		most.FDs = max(most.FDs, run.Held.FDs)
		if run.IdleFor > 0 {
			cpu = max(cpu, milliseconds(run.IdleCPU)/run.IdleFor.Seconds())
			switches = max(switches, float64(run.IdleSwitch)/run.IdleFor.Seconds())
		}
	}
	return most, cpu, switches
}

func (t poolTable) left() int {
	most := 0
	for _, run := range t.Runs {
		most = max(most, run.Stop.Left)
	}
	return most
}

func (b *bench) containedMarkdown(p func(string, ...any)) {
	if len(b.Contained) == 0 {
		return
	}
	p("\n## What survives a stop\n")
	p("Workers that each left a daemon behind (double fork, setsid, deaf to SIGTERM), and one bounded fork bomb (its processes")
	p("in sessions of their own and deaf to SIGTERM, but for the worker itself); counted %v after the supervisor's end.\n", patience)
	p("| contender | daemons alive | stop ms | bomb processes alive | stop ms |\n|---|---|---|---|---|")
	for _, c := range b.Contained {
		if c.Err != "" {
			p("| %s | %s | | | |", c.Name, cell1(c.Err))
			continue
		}
		p("| %s | %d of %d | %.0f | %d of %d | %.0f |", c.Name, c.DaemonLeft, c.Daemons, milliseconds(c.DaemonStop),
			c.BombLeft, c.Bomb, milliseconds(c.BombStop))
	}
}
