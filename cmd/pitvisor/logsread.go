package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/logfile"
)

// logReader is one `pitvisor logs`.
type logReader struct {
	app       *app
	root      string
	flags     logsFlags
	query     logfile.Query
	selectors []string

	merger *logfile.Merger
	watch  *logfile.Watch // nil: nothing is followed
	print  *linePrinter
	runs   map[string]logfile.Run // that are shown or looked at
	pools  []string               // that were seen, for messages
	fresh  []logfile.Source       // streams that were added and not read yet
	failed bool
	closed []error // files that may not be read, found before anything was shown
	begun  bool    // something was shown, or will be
}

// report tells of something that can not be read. The rest is shown.
func (l *logReader) report(err error) {
	if !l.begun && errors.Is(err, fs.ErrPermission) {
		l.closed = append(l.closed, err)
		return
	}
	l.failed = true
	fmt.Fprintf(l.app.stderr, "pitvisor: %s\n", err)
}

func (l *logReader) show() error {
	if err := checkSelectors(l.selectors); err != nil {
		return fail(exitUsage, err)
	}
	if l.flags.follow {
		var err error
		if l.watch, err = logfile.NewWatch(l.root); err != nil {
			return l.cannot(fmt.Errorf("follow output: %w", err))
		}
		defer l.watch.Close() // a second time if it has ended
	}
	all, err := logfile.Runs(l.root)
	if err != nil {
		return l.cannot(err)
	}
	for _, r := range wantedRuns(all, l.flags.run) {
		if err := l.addRun(r); err != nil {
			return l.cannot(err)
		}
	}
	if len(l.fresh) == 0 && !l.flags.follow {
		return l.nothing(all)
	}
	l.begun = true
	if len(l.closed) > 0 {
		if asked, err := l.ask(); asked {
			return err
		}
		for _, err := range l.closed {
			l.report(err)
		}
	}
	l.fresh = nil
	if l.query.Tail >= 0 {
		l.merger.DrainTail(!l.flags.follow, l.line)
	} else {
		l.merger.Drain(!l.flags.follow, l.line)
	}
	if err := l.flush(); err != nil || l.watch == nil {
		return err
	}
	return l.follow()
}

// nothing says why there is nothing to show.
func (l *logReader) nothing(all []logfile.Run) error {
	switch {
	case len(all) == 0:
		return l.elsewhere(failHint(exitUsage, fmt.Errorf("%w below %s", errNoOutput, l.root), l.whereHint()))
	case len(l.runs) == 0:
		return failHint(exitUsage, fmt.Errorf("%w of a run %q below %s", errNoOutput, l.flags.run, l.root), "the newest is "+all[len(all)-1].ID)
	case len(l.selectors) > 0 && len(l.pools) > 0:
		slices.Sort(l.pools)
		hint := "pools with output: " + strings.Join(slices.Compact(l.pools), ", ")
		if strings.ContainsAny(strings.Join(l.selectors, ""), "=.:") {
			hint = "files know no labels, starts and processes: name a pool, a worker or a pattern; " + hint
		}
		return failHint(exitUsage, fmt.Errorf("%w of %s", errNoOutput, strings.Join(l.selectors, ", ")), hint)
	}
	return nil // a run that has printed nothing
}

// cannot is the end of it: the directories can not be looked at.
func (l *logReader) cannot(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return l.denied(failHint(exitUnknown, err, "read it as the user whose supervisor it is, or as root"))
	case errors.Is(err, fs.ErrNotExist):
		return l.elsewhere(failHint(exitUsage, err, l.whereHint()))
	}
	return fail(exitSelf, err)
}

func (l *logReader) whereHint() string {
	return "if the configuration sets state_dir, name it with --state-dir or --config"
}

// addRun looks at a run that is wanted, and watches it if it is to be followed.
func (l *logReader) addRun(r logfile.Run) error {
	l.runs[r.ID] = r
	if l.watch != nil {
		if err := l.watch.AddRun(r); err != nil {
			return err
		}
	}
	pools, err := r.Pools()
	if err != nil {
		l.report(err)
		return nil
	}
	for _, pool := range pools {
		if err := l.addPool(r, pool); err != nil {
			return err
		}
	}
	return nil
}

func (l *logReader) addPool(r logfile.Run, pool string) error {
	l.pools = append(l.pools, pool)
	if !selected(l.selectors, pool, -1) {
		return nil
	}
	if l.watch != nil {
		if err := l.watch.AddPool(r, pool); err != nil {
			return err
		}
	}
	streams, err := r.Streams(pool)
	if err != nil {
		l.report(err)
		return nil
	}
	for _, s := range streams {
		l.addStream(r, pool, s, true)
	}
	return nil
}

// addStream adds a stream unless it is not wanted or known. One that is known is looked at
// again if its directory is new: what was written before that was watched has told nothing.
func (l *logReader) addStream(r logfile.Run, pool string, s logfile.SlotStream, again bool) {
	if !selected(l.selectors, pool, s.Slot) || l.flags.stream != "" && l.flags.stream != s.Stream {
		return
	}
	src := logfile.Source{Run: r.ID, Pool: pool, Slot: s.Slot, Stream: s.Stream}
	if l.merger.Add(src, r.PoolDir(pool)) {
		l.fresh = append(l.fresh, src)
		l.print.widen(src.Worker())
	} else if again {
		l.fresh = append(l.fresh, src)
	}
}

// line prints one line; it returns false when nobody reads any more.
func (l *logReader) line(it logfile.Item) bool {
	l.print.print(&outLine{
		Time: it.At, Run: it.Run, Pool: it.Pool, Worker: it.Worker(), Start: it.Start, Stream: it.Stream,
		Partial: it.Split, Lost: it.Lost, text: it.Text,
	})
	return true
}

// flush prints what is waiting, and says how it went.
func (l *logReader) flush() error {
	if err := l.print.out.Flush(); err != nil {
		return exit.AsSelf(fmt.Errorf("print: %w", err))
	}
	if l.failed && l.watch == nil {
		return fail(exitFailed, nil)
	}
	return nil
}

// follow shows what is new until it is interrupted.
func (l *logReader) follow() error {
	return l.watch.Run(context.Background(), func(changes []logfile.Change) error {
		var changed []logfile.Source
		for _, c := range changes {
			src, err := l.change(c)
			if err != nil {
				return l.cannot(err)
			}
			if src != nil {
				changed = append(changed, *src)
			}
		}
		for _, src := range l.fresh {
			if !slices.Contains(changed, src) {
				changed = append(changed, src)
			}
		}
		l.fresh = nil
		l.merger.DrainSome(changed, l.line)
		return l.flush()
	})
}

// change finds out what has changed.
func (l *logReader) change(c logfile.Change) (*logfile.Source, error) {
	if c == (logfile.Change{}) { // too much at once
		return nil, l.rescan()
	}
	r, known := l.runs[c.Run]
	if !known || c.Pool == "" {
		return nil, l.newRun(c.Run)
	}
	if c.Stream == "" {
		if r = logfile.OpenRun(l.root, c.Run); !isRun(r, l.flags.run) {
			return nil, nil
		}
		l.runs[c.Run] = r
		return nil, l.addPool(r, c.Pool)
	}
	l.addStream(r, c.Pool, c.SlotStream, false)
	return &logfile.Source{Run: c.Run, Pool: c.Pool, Slot: c.Slot, Stream: c.Stream}, nil
}

// newRun looks at a run that has appeared. Its name comes after its directory,
// but before its first pool.
func (l *logReader) newRun(id string) error {
	r := logfile.OpenRun(l.root, id)
	if r.Name != "" && !isRun(r, l.flags.run) {
		return nil
	}
	err := l.addRun(r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went as it came
	}
	return err
}

// rescan looks at everything after events were lost.
func (l *logReader) rescan() error {
	all, err := logfile.Runs(l.root)
	if err != nil {
		return err
	}
	for _, r := range all {
		if _, known := l.runs[r.ID]; known || isRun(r, l.flags.run) {
			if err := l.addRun(r); err != nil {
				return err
			}
		}
	}
	l.merger.Drain(false, l.line)
	return nil
}
