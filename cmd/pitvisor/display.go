package main

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/supervise"
)

// display shows the workers' output on stdout.
type display struct {
	mu    sync.Mutex // guards the fields below
	print *linePrinter
	gone  bool // stdout cannot be written; the files still have everything
	quiet bool
	run   string // its ID
	log   *slog.Logger
}

func newDisplay(a *app, log *slog.Logger, cfg *config.Config, run, form string) *display {
	d := &display{log: log, run: run, print: a.newLinePrinter(bare(a.stdout), form), quiet: form == config.ShowNone}
	for _, p := range cfg.Pools {
		d.print.width = max(d.print.width, len(fmt.Sprintf("%s/%d", p.Spec.Name, p.Spec.Size-1)))
	}
	return d
}

func (d *display) wanted() bool { return !d.quiet }

// line prints one line of a worker.
func (d *display) line(l capture.Line) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return
	}
	pool, _, _ := strings.Cut(l.Worker, "/")
	d.print.print(&outLine{
		Time: l.At, Run: d.run, Pool: pool, Worker: l.Worker, Start: l.Start, Stream: l.Stream,
		Partial: l.Split, Lost: l.Lost, text: l.Text,
	})
	if err := d.print.out.Flush(); err != nil {
		d.gone = true
		d.log.Warn("what workers print is not shown any more, the files have it: " + err.Error())
	}
}

// captureOptions says where the workers' output is kept, and for how long.
func captureOptions(cfg *config.Config, dir string, warn func(error)) capture.Options {
	r := cfg.Log.Rotate
	return capture.Options{
		Dir: dir, Name: cfg.Name, MaxSize: cfg.Log.MaxSize, Warn: warn,
		Rotate: capture.Rotate{Keep: r.Keep, Age: r.Age, MaxAge: r.KeepAge, MaxTotal: r.KeepTotal, Plain: r.Plain},
	}
}

// output opens the files of each start.
func (s *session) output() func(supervise.StartInfo) (supervise.Output, error) {
	return func(info supervise.StartInfo) (supervise.Output, error) {
		start := s.logs.Start
		switch s.outputOf(info.Worker.Pool) {
		case config.OutputNone:
			return supervise.Output{}, nil
		case config.OutputPipe:
			start = s.logs.StartPiped
		}
		st, err := start(info.Worker.String(), info.Worker.Pool, info.Worker.Slot, info.Start)
		if err != nil {
			return supervise.Output{}, err
		}
		return supervise.Output{
			Stdout: st.Stdout, Stderr: st.Stderr, Lines: st.Lines, Done: st.Done,
			Tail: func() []string { return st.Tail(tailLines) },
		}, nil
	}
}

// outputOf is where the workers of a pool write to, in the configuration in force.
func (s *session) outputOf(pool string) string {
	for i := range s.inForce.Load().Pools {
		if p := &s.inForce.Load().Pools[i]; p.Spec.Name == pool {
			return p.Output
		}
	}
	return config.OutputNone
}

// tailLines is how many lines of stderr a failed start reports.
const tailLines = 20
