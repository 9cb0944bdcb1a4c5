package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// job is what a contender is asked to run.
type job struct {
	workers    int
	command    []string // argv of a worker; it reports itself through $BENCH_FIFO
	ignoreTerm bool     // the workers are deaf to SIGTERM, so that only force ends them
	output     string   // "file": what they print is kept; "pipe" is another way to do that; "" is nowhere
}

// cell is one life of one contender: a box with everything it does, a directory for its files, the counter of its
// workers.
//
//	<box>/           CPU time is read here
//	  supervisor/    the contender itself
//	  root/          what it may use as its cgroup
type cell struct {
	box, sup, root *box
	dir            string
	counter        *counter
	started        time.Time
	proc           *process
}

// cellCgroups is how many cgroups of its own are in a cell's box.
const cellCgroups = 2

func (b *bench) newCell() (_ *cell, err error) {
	b.cells++
	name := "cell-" + strconv.Itoa(b.cells)
	c := &cell{dir: filepath.Join(b.work, name)}
	// Errors on the way back are not told: the first one is the reason, and the root is emptied at the end anyway.
	defer func() {
		if err != nil {
			_ = c.close(context.Background())
		}
	}()
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	if c.box, err = b.root.make(name); err != nil {
		return nil, err
	}
	if c.sup, err = c.box.make("supervisor"); err != nil {
		return nil, err
	}
	if c.root, err = c.box.make("root"); err != nil {
		return nil, err
	}
	if c.counter, err = newCounter(filepath.Join(c.dir, "fifo")); err != nil {
		return nil, err
	}
	return c, nil
}

// close kills and removes everything of the cell. It works also on a half-made one.
func (c *cell) close(ctx context.Context) error {
	var errs []error
	for _, b := range []*box{c.sup, c.root} {
		if b != nil {
			errs = append(errs, b.close())
		}
	}
	if c.box != nil {
		errs = append(errs, c.box.destroy(ctx))
	}
	if c.proc != nil {
		c.proc.close()
	}
	if c.counter != nil {
		c.counter.close()
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// env is the environment of everything in the cell.
func (c *cell) env(j job, more ...string) []string {
	more = append(more, "BENCH_FIFO="+c.counter.path)
	if j.ignoreTerm {
		more = append(more, "BENCH_IGNORE_TERM=1")
	}
	return setEnv(os.Environ(), more)
}

// setEnv puts variables into an environment, in place of the ones of the same names: many programs see only the first
// of two.
func setEnv(env, more []string) []string {
	set := make(map[string]bool)
	for _, variable := range more {
		name, _, _ := strings.Cut(variable, "=")
		set[name] = true
	}
	rest := slices.DeleteFunc(slices.Clone(env), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return set[name]
	})
	return append(rest, more...)
}

// launch starts the contender on the job. The clock of the cell starts here.
func (c *cell) launch(who contender, j job) error {
	argv, err := who.argv(c, j)
	if err != nil {
		return err
	}
	c.started = time.Now()
	c.proc, err = startIn(c.sup, argv, c.env(j, who.env...), filepath.Join(c.dir, "log"))
	return err
}

// running waits until n processes reported themselves and returns the time that took. A supervisor that ends before
// that is an error.
func (c *cell) running(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	proc := c.proc
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-proc.done:
			cancel(fmt.Errorf("it ended (%v)", proc.state))
		case <-ctx.Done():
		}
	}()
	at, err := c.counter.wait(ctx, n)
	cancel(nil)
	<-over
	if err != nil {
		return 0, err
	}
	return at.Sub(c.started), nil
}

// supervisors lists the processes of the cell that are no workers.
func (c *cell) supervisors() ([]int, error) {
	pids, err := c.box.pids()
	if err != nil {
		return nil, err
	}
	workers := c.counter.all()
	slices.Sort(workers)
	return slices.DeleteFunc(pids, func(pid int) bool {
		_, found := slices.BinarySearch(workers, pid)
		return found
	}), nil
}

// survivors counts the workers, and what they started, that are still alive.
func (c *cell) survivors() (int, error) {
	pids, err := c.box.pids()
	if err != nil {
		return 0, err
	}
	others, err := c.supervisors()
	return len(pids) - len(others), err
}

// stopped is how a stop went.
type stopped struct {
	Wall     time.Duration // from the last signal until the supervisor and everything else was gone
	CPU      time.Duration
	Left     int // workers, or what they started, that were still alive `patience` after the supervisor's end
	LeftDirs int // cgroups that were not there before
}

// patience is how long after the supervisor's end the rest of a cell may still be dying.
const patience = 2 * time.Second

// gap is the time between two signals of a stop. Equal signals that are pending together are one signal; so the first
// one gets time to be taken.
const gap = 50 * time.Millisecond

// stop asks the contender to stop and waits until all is gone, or until its end and some patience.
func (c *cell) stop(ctx context.Context, signals []unix.Signal) (stopped, error) {
	var s stopped
	for i, sig := range signals {
		if i > 0 {
			if err := pause(ctx, gap); err != nil {
				return s, err
			}
		}
		if i == len(signals)-1 {
			break
		}
		if err := c.proc.signal(sig); err != nil {
			return s, err
		}
	}
	before, err := c.box.cpu()
	if err != nil {
		return s, err
	}
	asked := time.Now()
	if err := c.proc.signal(signals[len(signals)-1]); err != nil {
		return s, err
	}
	if err := c.proc.wait(ctx); err != nil {
		return s, err
	}
	gone := c.proc.ended
	if full, err := c.box.populated(); err != nil || full {
		short, cancel := context.WithTimeout(ctx, patience)
		if c.box.waitEmpty(short) == nil {
			gone = time.Now()
		}
		cancel()
	}
	s.Wall = gone.Sub(asked)
	return s, c.afterStop(&s, before)
}

func (c *cell) afterStop(s *stopped, before time.Duration) error {
	after, err := c.box.cpu()
	if err != nil {
		return err
	}
	s.CPU = after - before
	if s.Left, err = c.survivors(); err != nil {
		return err
	}
	dirs, err := c.box.cgroups()
	s.LeftDirs = dirs - cellCgroups
	return err
}

// crash ends the supervisor the hard way and waits for its end.
func (c *cell) crash(ctx context.Context) error {
	if err := c.proc.signal(unix.SIGKILL); err != nil {
		return err
	}
	if err := c.proc.wait(ctx); err != nil {
		return err
	}
	c.proc.close()
	c.proc = nil
	return nil
}
