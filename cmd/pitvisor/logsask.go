package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/exit"
)

// ask shows lines by way of the supervisor, for who may not read the files. asked is
// false if there is none that would tell.
func (l *logReader) ask() (asked bool, err error) {
	t := &target{app: l.app, socket: l.flags.socket, run: l.flags.run}
	run := ""
	if t.socket == "" {
		view, err := t.find()
		if err != nil {
			return false, err
		}
		t.socket, t.run, run = view.Socket, "", view.ID.String() // found: --run has been answered
	}
	first := true
	err = t.ask(func(ctx context.Context, c *api.Client) error {
		o := api.LogOptions{
			Select: l.selectors, Stream: l.flags.stream, Since: l.query.Since, Until: l.query.Until,
			Tail: max(l.query.Tail, 0), None: l.query.Tail == 0, Follow: l.flags.follow, Cursor: &api.LogCursor{},
		}
		for {
			err := l.stream(ctx, c, o, run, &first)
			if !errors.Is(err, api.ErrStreamLost) {
				return err
			}
		}
	})
	return !first || err == nil || l.flags.socket != "", err
}

// stream shows what comes until there is no more.
func (l *logReader) stream(ctx context.Context, c *api.Client, o api.LogOptions, run string, first *bool) error {
	for line, err := range c.Logs(ctx, o) {
		if err != nil {
			return err
		}
		*first = false
		worker := line.Worker()
		l.print.widen(worker)
		l.print.print(&outLine{
			Time: line.Time, Run: run, Pool: line.Pool, Worker: worker, Start: line.Start, Stream: line.Stream,
			Partial: line.Partial, Lost: line.Lost, text: line.Text(),
		})
		if !l.flags.follow {
			continue
		}
		if err := l.print.out.Flush(); err != nil {
			return exit.AsSelf(fmt.Errorf("print: %w", err))
		}
	}
	if err := l.print.out.Flush(); err != nil {
		return exit.AsSelf(fmt.Errorf("print: %w", err))
	}
	if l.flags.follow {
		fmt.Fprintln(l.app.stderr, "pitvisor: the supervisor has ended")
	}
	return nil
}

// denied asks the supervisor when files must not be read, and says why they must not
// when it does not help.
func (l *logReader) denied(err error) error {
	asked, askErr := l.ask()
	if asked {
		return askErr
	}
	if askErr != nil {
		err = failHint(exitUnknown, fmt.Errorf("%w; the supervisor does not tell either: %w", err, askErr), exit.Hint(err))
	}
	return err
}

// elsewhere asks the supervisor when there are no files here: those of another user's
// supervisor are in another place.
func (l *logReader) elsewhere(err error) error {
	if asked, askErr := l.ask(); asked {
		return askErr
	}
	return err
}
