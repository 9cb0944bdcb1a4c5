package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// outputLoad is what the workers of one cell write.
type outputLoad struct {
	Writers, Lines int // lines of 100 bytes a write
	Bytes          int // each of them
}

const outputLine = 100 // bytes

func (l outputLoad) total() int64 { return int64(l.Writers) * int64(l.Bytes) }

func (l outputLoad) String() string {
	writers, lines := "1 worker", "a line"
	if l.Writers != 1 {
		writers = fmt.Sprintf("%d workers", l.Writers)
	}
	if l.Lines != 1 {
		lines = fmt.Sprintf("%d lines", l.Lines)
	}
	return writers + ", " + lines + " a write"
}

// outputRun is one life of one contender under a load.
type outputRun struct {
	Wall, CPU float64 // ms until the last byte is in its file
}

// outputTable is all lives of all contenders under one load.
type outputTable struct {
	Load outputLoad
	Runs map[string][]outputRun // of each contender, a round each
}

// output measures rows 18 and 19: what workers write, until the last byte of it is in a file.
func (b *bench) output(ctx context.Context) error {
	if b.tools.writer == "" {
		return fmt.Errorf("the writing worker: %w", errAbsent)
	}
	leave, err := b.inMemory()
	if err != nil {
		return err
	}
	defer leave()
	who := b.outputContenders()
	for _, writers := range []int{1, b.scale.chatty} {
		for _, lines := range []int{40, 1} {
			bytes := b.scale.output
			if lines == 1 {
				bytes /= 2 // a write of a line costs nearly as much as one of 40
			}
			l := outputLoad{Writers: writers, Lines: lines, Bytes: bytes / writers / outputLine * outputLine}
			table, err := b.outputRounds(ctx, who, l)
			if err != nil {
				return err
			}
			b.Outputs = append(b.Outputs, table)
			b.judgeOutput(table)
		}
	}
	return nil
}

// inMemory moves the scratch files of cells into memory until leave is called: here it is not the disk that is measured.
func (b *bench) inMemory() (leave func(), err error) {
	const place = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(place, &st); err != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Bavail)*int64(st.Bsize) < 4*int64(b.scale.output) {
		b.note("Output was measured on a disk: there is no room in %s.", place)
		return func() {}, nil
	}
	dir, err := os.MkdirTemp(place, "pitvisor-bench-")
	if err != nil {
		return nil, err
	}
	work := b.work
	b.work = dir
	return func() {
		b.work = work
		_ = os.RemoveAll(dir) // each cell has removed its own
	}, nil
}

func (b *bench) outputContenders() []contender {
	who := []contender{
		{name: outputFloor, kind: kindFloor, argv: shellArgs(`"$@" | cat >"$dir/$n.log"`)},
		{name: outputLimit, kind: kindFloor, argv: shellArgs(`"$@" >>"$dir/$n.log"`)},
	}
	for _, c := range b.all {
		switch c.name {
		case product:
			for _, way := range []string{"file", "pipe"} {
				keeps := c
				keeps.name = outputName(way)
				keeps.argv = func(cell *cell, j job) ([]string, error) {
					j.output = way
					argv, err := c.argv(cell, j)
					return append(argv, "--show", "none"), err
				}
				who = append(who, keeps)
			}
		case "supervisor":
			who = append(who, c)
		}
	}
	return who
}

// The floors are the simplest things that there are: each worker writes to a pipe, and a cat of its own moves that to a
// file; and each worker writes to a file by itself.
const (
	outputFloor = "cat"
	outputLimit = "no supervisor"
)

func outputName(way string) string { return product + ", " + way }

// shellArgs has a shell run something for each worker.
func shellArgs(each string) func(*cell, job) ([]string, error) {
	script := `n=$1 dir=$2; shift 2; while [ "$n" -gt 0 ]; do ` + each + ` & n=$((n-1)); done; wait`
	return func(c *cell, j job) ([]string, error) {
		return append([]string{"/bin/sh", "-c", script, "sh", strconv.Itoa(j.workers), c.dir}, j.command...), nil
	}
}

func (b *bench) outputRounds(ctx context.Context, who []contender, l outputLoad) (outputTable, error) {
	t := outputTable{Load: l, Runs: make(map[string][]outputRun)}
	for round := range b.opts.rounds + 1 {
		for turn := range who {
			c := who[(turn+round)%len(who)]
			b.say.step("output of %v, round %d of %d: %s", l, round, b.opts.rounds, c.name)
			run, err := b.outputLife(ctx, c, l)
			if err != nil {
				return t, fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				t.Runs[c.name] = append(t.Runs[c.name], run)
			}
		}
	}
	return t, nil
}

func (b *bench) outputLife(ctx context.Context, who contender, l outputLoad) (run outputRun, err error) {
	err = b.inCell(ctx, b.scale.patience, func(ctx context.Context, c *cell) error {
		path := filepath.Join(c.dir, "gate")
		if err := unix.Mkfifo(path, 0o666); err != nil {
			return fmt.Errorf("make FIFO %s: %w", path, err)
		}
		gate, err := os.OpenFile(path, os.O_RDWR, 0) // so that it ends for nobody yet
		if err != nil {
			return err
		}
		defer gate.Close()
		who.env = append([]string{"BENCH_GATE=" + path}, who.env...)
		command := []string{b.tools.writer, strconv.Itoa(l.Bytes), strconv.Itoa(l.Lines)}
		if err := c.launch(who, job{workers: l.Writers, command: command, output: "file"}); err != nil {
			return err
		}
		if _, err := c.running(ctx, l.Writers); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		run, err = c.written(ctx, l, gate)
		return err
	})
	return run, err
}

// written lets the workers write, and waits until all of it is in files.
func (c *cell) written(ctx context.Context, l outputLoad, gate *os.File) (run outputRun, err error) {
	files, err := c.outputFiles()
	if err != nil {
		return run, err
	}
	before, err := c.box.cpu()
	if err != nil {
		return run, err
	}
	began := time.Now()
	if err := gate.Close(); err != nil {
		return run, err
	}
	if _, err := c.counter.wait(ctx, 2*l.Writers); err != nil {
		return run, err
	}
	if err := waitForBytes(ctx, files, l.total()); err != nil {
		return run, err
	}
	run.Wall = milliseconds(time.Since(began))
	after, err := c.box.cpu()
	run.CPU = milliseconds(after - before)
	return run, err
}

// outputFiles lists what the contenders write the output to, which is there as soon as the workers are.
func (c *cell) outputFiles() (files []string, err error) {
	err = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".log") {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// waitForBytes waits until the files have all that was written, and no more than that. No event says so of files of
// just any program.
func waitForBytes(ctx context.Context, files []string, want int64) error {
	for {
		var have int64
		for _, path := range files {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			have += info.Size()
		}
		if have == want {
			return nil
		}
		if have > want {
			return fmt.Errorf("%d files have %d bytes of %d that were written", len(files), have, want)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("%d files have %d of %d bytes: %w", len(files), have, want, err)
		}
	}
}

// judgeOutput makes the rows of one load.
func (b *bench) judgeOutput(t outputTable) {
	for _, way := range []string{"file", "pipe"} {
		if len(t.Runs[outputName(way)]) == 0 {
			continue
		}
		if t.Load.Lines > 1 {
			b.judgeSpeed(t, way, outputFloor, 0.8)
			b.judgeSpeed(t, way, "supervisor", 1)
			continue
		}
		most := 1.3
		if t.Load.Writers > 1 {
			most = 0
		}
		b.judgeLine(t, way, outputFloor, most)
		b.judgeLine(t, way, outputLimit, 0)
	}
}

// judgeSpeed is row 18: the throughput is to be at least so much of another's.
func (b *bench) judgeSpeed(t outputTable, way, other string, least float64) {
	if len(t.Runs[other]) == 0 {
		return
	}
	wall := func(r outputRun) float64 { return r.Wall }
	speed := func(r outputRun) float64 { return float64(t.Load.total()) / 1e3 / r.Wall }
	mine := outputName(way)
	b.addRow(row{
		ID: "18", Measure: fmt.Sprintf("output by %s, %v, MB/s", way, t.Load), Pitvisor: t.column(mine, speed).spread("%.0f"),
		Reference: other + " " + t.column(other, speed).spread("%.0f"),
		Ratio:     t.ratio(other, mine, wall).spread("%.2f"),
		Target:    fmt.Sprintf("≥ %.2f × %s", least, other), Verdict: atMost(t.ratio(mine, other, wall), 1/least),
	})
}

// judgeLine is row 19: the CPU time of a line is to be at most so much of another's, or 0 for no target.
func (b *bench) judgeLine(t outputTable, way, other string, most float64) {
	perLine := func(r outputRun) float64 { return r.CPU * 1e6 / float64(t.Load.total()/outputLine) }
	mine := outputName(way)
	ratio := t.ratio(mine, other, perLine)
	r := row{
		ID: "19", Measure: fmt.Sprintf("output by %s, %v, CPU ns a line", way, t.Load), Pitvisor: t.column(mine, perLine).spread("%.0f"),
		Reference: other + " " + t.column(other, perLine).spread("%.0f"),
		Ratio:     ratio.spread("%.2f"), Target: "(no target of its own)", Verdict: "-",
	}
	if most > 0 {
		r.Target, r.Verdict = fmt.Sprintf("≤ %.2f × %s", most, other), atMost(ratio, most)
	}
	b.addRow(r)
}

func (t outputTable) values(name string, f func(outputRun) float64) (values []float64) {
	for _, run := range t.Runs[name] {
		values = append(values, f(run))
	}
	return values
}

func (t outputTable) column(name string, f func(outputRun) float64) summary {
	return summarize(t.values(name, f))
}

func (t outputTable) ratio(name, other string, f func(outputRun) float64) summary {
	return summarize(ratios(t.values(name, f), t.values(other, f)))
}
