package main

import (
	"fmt"
	"slices"
	"time"
)

// judgeOneshot makes rows 1 and 2.
func (b *bench) judgeOneshot() {
	mine, found := b.shotTable(product)
	if !found {
		return
	}
	const wall, cpu = "one command in a run of its own, wall ms", "one command in a run of its own, CPU ms"
	for _, against := range []struct {
		measure, other string
		target         float64 // 0: for information
		f              func(shot) float64
	}{
		{wall, oneshotGo, 1.10, shotWall},
		{cpu, oneshotGo, 1.10, shotCPU},
		{wall, bubblewrap, 1.00, shotWall},
		{wall, crunRun, 0.55, shotWall},
		{wall, systemdRun, 0.35, shotWall},
		{wall, runcRun, 0.20, shotWall},
		{wall, oneshotC, 0, shotWall},
		{cpu, oneshotC, 0, shotCPU},
	} {
		b.judgeShot(row{ID: "1", Measure: against.measure}, mine, against.other, against.target, against.f)
	}
	b.judgeRecord(mine)
}

// judgeShot adds a row with the ratio to another wrapper. What is not measured here is shown as such.
func (b *bench) judgeShot(r row, mine shotTable, other string, target float64, f func(shot) float64) {
	base, found := b.shotTable(other)
	r.Target, r.Verdict = "(no target of its own)", "-"
	if target > 0 {
		r.Target = fmt.Sprintf("≤ %.2f × %s", target, other)
	}
	if !found {
		if target > 0 {
			r.Reference, r.Verdict = other, verdictNone
			b.addRow(r)
		}
		return
	}
	ratio := middle(ratios(mine.column(f), base.column(f)))
	r.Pitvisor = middle(mine.column(f)).spread("%.2f")
	r.Reference = other + " " + middle(base.column(f)).spread("%.2f")
	r.Ratio = ratio.spread("%.2f")
	if target > 0 {
		r.Verdict = atMost(ratio, target)
	}
	b.addRow(r)
}

// recordShare is what a record may cost beside its two syncs, as a part of the command without a record.
const recordShare = 0.05

// judgeRecord compares, round by round, a command with a durable start and end line with what it may cost: the command
// without, two syncs, and the share.
func (b *bench) judgeRecord(plain shotTable) {
	mine, found := b.shotTable(recorded)
	if !found || len(b.Syncs) == 0 {
		return
	}
	sync := summarize(millisecondsOf(b.Syncs)).Median
	may := plain.column(func(s shot) float64 { return shotWall(s)*(1+recordShare) + 2*sync })
	ratio := middle(ratios(mine.column(shotWall), may))
	b.addRow(row{
		ID: "2", Measure: "the same with --record, wall ms", Pitvisor: middle(mine.column(shotWall)).spread("%.2f"),
		Reference: fmt.Sprintf("without %s, fdatasync %.2f", middle(plain.column(shotWall)).spread("%.2f"), sync),
		Ratio:     ratio.spread("%.2f"), Verdict: atMost(ratio, 1),
		Target: fmt.Sprintf("≤ 1.00 × (row 1 + 2 × fdatasync + %.0f %%)", 100*recordShare),
	})
	b.judgeShot(row{ID: "2", Measure: "the same with --record, wall ms"}, mine, recordGo, 0, shotWall)
}

// middle is summarize without the lowest and the highest tenth: of many rounds the spread is that of the usual ones.
func middle(values []float64) summary {
	s := summarize(values)
	if s.N == 0 {
		return s
	}
	sorted := slices.DeleteFunc(slices.Clone(values), isNaN)
	slices.Sort(sorted)
	cut := s.N / 10
	s.Min, s.Max = sorted[cut], sorted[s.N-1-cut]
	return s
}

func isNaN(x float64) bool { return x != x }

func millisecondsOf(all []time.Duration) []float64 {
	values := make([]float64, len(all))
	for i, d := range all {
		values[i] = milliseconds(d)
	}
	return values
}

// oneshotMarkdown writes the tables of one command.
func (b *bench) oneshotMarkdown(p func(string, ...any)) {
	if len(b.Shots) == 0 {
		return
	}
	p("\n## One command\n")
	p("Start, run and end of a static program that does nothing, %d rounds; median [lowest-highest of the middle 80 %%]. *Wall* is", b.oneshotRounds())
	p("the time from right before the wrapper is cloned until it was reaped; *CPU* is that of a cgroup which holds the wrapper")
	p("and all that it starts. pitvisor includes its guardian. The floors `bench/c/oneshot.c` (limit-c) and `bench/limitgo`")
	p("(limit-go) make the same three cgroups, a lock and an attribute, and no more. The containers are those that `crun spec`")
	p("and `runc spec` describe, in a cgroup of their own, without rules for devices. All get the same small environment and")
	p("stdin from /dev/null. One line more on disk (fdatasync) takes %s ms in the file system of the records.\n",
		middle(millisecondsOf(b.Syncs)).spread("%.2f"))
	p("| wrapper | kind | rounds | wall ms | × limit-go | × limit-c | CPU ms | × limit-go | × limit-c |\n|---|---|---|---|---|---|---|---|---|")
	inGo, _ := b.shotTable(oneshotGo)
	inC, _ := b.shotTable(oneshotC)
	for _, t := range b.Shots {
		wall, cpu := t.column(shotWall), t.column(shotCPU)
		if t.Remote {
			cpu = nil
		}
		p("| %s | %s | %d/%d | %s | %s | %s | %s | %s | %s |", t.Name, t.Kind, len(t.Shots)-t.failures(), len(t.Shots),
			middle(wall).spread("%.2f"), middle(ratios(wall, inGo.column(shotWall))).spread("%.2f"),
			middle(ratios(wall, inC.column(shotWall))).spread("%.2f"), middle(cpu).spread("%.2f"),
			middle(ratios(cpu, inGo.column(shotCPU))).spread("%.2f"), middle(ratios(cpu, inC.column(shotCPU))).spread("%.2f"))
	}
	b.waitingMarkdown(p)
}
