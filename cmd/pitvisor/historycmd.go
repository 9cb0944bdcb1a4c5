package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/history"
)

const historyLong = `Show what is kept of starts, exits and their causes, of earlier runs too: the newest 10,000
records of all supervisors with the same state directory. It is read from the file, so it
needs no supervisor; with --socket or --run that supervisor is asked, which also works for
those who may not read the file.

A SELECTOR is a pool (web), a worker (web/3), one start of it (web/3.7) or a pattern
('web/*').
` + askExits

func (a *app) historyCommand() *cobra.Command {
	var n int
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "history [-n N] [SELECTOR...]",
		Short:   "show what has happened in runs, earlier ones too",
		Long:    historyLong,
		Example: "  pitvisor history -n 20\n  pitvisor history web/3",
	}
	t := a.askCommand(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if n < 0 {
			return fail(exitUsage, fmt.Errorf("-n %d is less than 0", n))
		}
		records, err := a.records(t, n, args)
		if err != nil {
			return err
		}
		if len(records) == 0 && len(args) > 0 {
			return failHint(exitUsage, fmt.Errorf("no record fits %s", strings.Join(args, ", ")), "`pitvisor history` shows which there are")
		}
		if n == 0 && cmd.Flags().Changed("lines") {
			records = []api.Record{}
		}
		if asJSON {
			return a.printJSON(api.History{Records: records})
		}
		_, err = fmt.Fprint(a.stdout, a.historyText(records))
		return err
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 0, "only the newest so many (default all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// records reads the history from the file, or asks for it.
func (a *app) records(t *target, n int, selected []string) (records []api.Record, err error) {
	if t.socket != "" || t.run != "" {
		err = t.ask(func(ctx context.Context, c *api.Client) error {
			h, err := c.History(ctx, n, selected...)
			if err == nil {
				records = h.Records
			}
			return err
		})
		return records, err
	}
	state, err := a.stateRoot()
	if err != nil {
		return nil, err
	}
	found, err := history.Read(filepath.Join(state, "history.db"), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []api.Record{}, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, failHint(exitUnknown, err, "ask a supervisor that runs: --run NAME")
	case err != nil:
		return nil, fail(exitSelf, err)
	}
	records = []api.Record{}
	for _, r := range wireRecords(found) {
		ok, err := selectsRecord(selected, &r)
		if err != nil {
			return nil, err
		}
		if ok {
			records = append(records, r)
		}
	}
	if n > 0 && len(records) > n {
		records = records[len(records)-n:]
	}
	return records, nil
}

// selectsRecord says whether a record is of a selected worker. Labels are not known of
// what is past.
func selectsRecord(selected []string, r *api.Record) (bool, error) {
	if len(selected) == 0 {
		return true, nil
	}
	worker := fmt.Sprintf("%s/%d", r.Pool, r.Slot)
	for _, pattern := range selected {
		name := r.Pool
		if strings.Contains(pattern, "/") {
			name = worker
		}
		ok, err := path.Match(pattern, name)
		if err != nil || strings.ContainsAny(pattern, "=:,") {
			return false, fail(exitUsage, fmt.Errorf("%q is no pool, worker or pattern", pattern))
		}
		if ok || pattern == fmt.Sprintf("%s.%d", worker, r.Start) {
			return true, nil
		}
	}
	return false, nil
}

func (a *app) historyText(records []api.Record) string {
	t := table{paint: painter(a.colors(a.stdout))}
	t.head("TIME", "RUN", "WORKER", "WHAT", "AFTER", "HOW", "CAUSE")
	for i := range records {
		r := &records[i]
		name := r.Pool
		if r.Slot >= 0 && r.Pool != "" {
			name = fmt.Sprintf("%s/%d.%d", r.Pool, r.Slot, r.Start)
		}
		after := ""
		if r.Elapsed > 0 {
			after = r.Elapsed.Round(time.Millisecond).String()
		}
		t.add(cell{r.At.Local().Format(time.DateTime), styleDim}, cell{r.Run[max(0, len(r.Run)-6):], styleDim}, cell{name, ""},
			cell{r.Kind, eventStyle(r.Kind)}, cell{after, ""}, cell{r.Exit, ""}, cell{clean(r.Cause), ""})
	}
	return t.String()
}
