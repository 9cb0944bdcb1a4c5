package main

import (
	"bufio"
	"fmt"
	"sync"

	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/supervise"
)

// display shows the workers' output on stdout, each line prefixed with its
// worker. Lines of stderr have a ! where those of stdout have a |.
type display struct {
	mu    sync.Mutex // guards the fields below
	out   *bufio.Writer
	gone  bool // stdout is closed; the files still have everything
	quiet bool
	width int
	clean bool // a terminal: control characters are made visible
	paint painter
	seen  map[string]int // worker → colour
}

func newDisplay(a *app, cfg *config.Config, quiet bool) *display {
	d := &display{
		out: bufio.NewWriter(a.stdout), quiet: quiet, clean: isTerminal(a.stdout),
		paint: painter(a.colors(a.stdout)), seen: map[string]int{},
	}
	for _, p := range cfg.Pools {
		d.width = max(d.width, len(fmt.Sprintf("%s/%d", p.Spec.Name, p.Spec.Size-1)))
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
	mark := "|"
	if l.Stream == "stderr" {
		mark = "!"
	}
	color, known := d.seen[l.Worker]
	if !known {
		color = len(d.seen)
		d.seen[l.Worker] = color
	}
	text := l.Text
	if d.clean {
		text = printable(text)
	}
	prefix := d.paint.paint(palette(color), fmt.Sprintf("%-*s %s ", d.width, l.Worker, mark))
	if l.Lost > 0 { // written faster than it could be shown; an error sticks until Flush
		_, _ = fmt.Fprintf(d.out, "%s%s\n", prefix, d.paint.paint(styleDim, fmt.Sprintf("[%d bytes not shown]", l.Lost)))
	}
	_, _ = d.out.WriteString(prefix)
	_, _ = d.out.Write(text)
	_ = d.out.WriteByte('\n')
	if d.out.Flush() != nil {
		d.gone = true
	}
}

// output opens the files of each start.
func (s *session) output() func(supervise.StartInfo) (supervise.Output, error) {
	files := map[string]bool{}
	for _, p := range s.cfg.Pools {
		files[p.Spec.Name] = p.Output != "none"
	}
	return func(info supervise.StartInfo) (supervise.Output, error) {
		if !files[info.Worker.Pool] {
			return supervise.Output{}, nil
		}
		st, err := s.logs.Start(info.Worker.String(), info.Worker.Pool, info.Worker.Slot, info.Start)
		if err != nil {
			return supervise.Output{}, err
		}
		return supervise.Output{
			Stdout: st.Stdout, Stderr: st.Stderr, Lines: st.Lines, Done: st.Done,
			Tail: func() []string { return st.Tail(tailLines) },
		}, nil
	}
}

// tailLines is how many lines of stderr a failed start reports.
const tailLines = 20
