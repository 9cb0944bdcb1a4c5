package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/internal/detach"
	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/internal/report"
	"github.com/pitvisor/pitvisor/internal/runverb"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/registry"
	"github.com/pitvisor/pitvisor/resource"
)

// runExtras is what this program adds to the slim one.
func (a *app) runExtras() runverb.Extras {
	var hits uint64 // of limits over the run, before it began
	return runverb.Extras{
		Limit: limitStep,
		Prepare: func(p oneshot.Place) {
			enableStatistics(p)
			hits = resource.PIDsHits(p.Root)
		},
		Measure: func(p oneshot.Place) runverb.Usage { return measure(p, hits) },
		Report:  a.writeReports,
		Scope:   enterScope,
		Weak:    oneshot.RunWeak,
	}
}

// limitStep makes the step that sets limits on a run.
func limitStep(texts []string) (func(oneshot.Place) error, error) {
	var limits resource.Limits
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--limit %q is not of the form KEY=VALUE", text)
		}
		if err := resource.ParseLimit(key, value, &limits); err != nil {
			return nil, fmt.Errorf("--limit %s: %w", text, err)
		}
	}
	return func(p oneshot.Place) error {
		// The run's own files are what its root hands down; nothing above is touched.
		if err := p.Root.Enable(limits.Controllers()...); err != nil {
			return err
		}
		return resource.Set(p.Run, limits)
	}, nil
}

// enableStatistics hands down the controllers whose statistics a receipt shows. A
// host that has none of them, or a root with processes in it, gives fewer numbers,
// and the receipt says why.
func enableStatistics(p oneshot.Place) {
	for _, controller := range resource.ReceiptControllers() {
		_ = p.Root.Enable(controller) // the receipt says what is missing
	}
}

// measured is what a run has used.
type measured struct {
	receipt resource.Receipt
	oom     resource.OOM
	pids    resource.PIDs
	err     error // why there is no receipt
}

// measure reads what a run has used, while its cgroups are there.
func measure(p oneshot.Place, hits uint64) runverb.Usage {
	var u measured
	u.receipt, u.err = resource.ReadReceipt(p.Run)
	if oom, err := resource.OOMSource(p.Run, p.Root); err == nil {
		u.oom = oom
	}
	if pids, err := resource.PIDsSource(hits, p.Run, p.Root); err == nil {
		u.pids = pids
	}
	return u
}

// writeReports prints what is not as it should be, and writes the reports that were
// asked for.
func (a *app) writeReports(f *runverb.Flags, out *runverb.Outcome) error {
	r := out.Report(out.Result.Run.Name)
	fillUsage(r, out.Usage)
	a.fillHost(r, out)
	color := f.Colored(2)
	var errs []error
	if !f.Quiet && out.Err == nil {
		errs = append(errs, r.WriteText(a.stderr, color))
	}
	if f.Stats && out.Err == nil {
		errs = append(errs, r.WriteStats(a.stderr, color))
	}
	if f.GitHub {
		errs = append(errs, r.WriteGitHub(a.stdout))
	}
	if f.Report != "" {
		errs = append(errs, report.Save(f.Report, r.WriteJSON))
	}
	if f.JUnit != "" {
		errs = append(errs, report.Save(f.JUnit, r.WriteJUnit))
	}
	return errors.Join(errs...)
}

// fillUsage adds what the run has used.
func fillUsage(r *report.Report, used runverb.Usage) {
	u, ok := used.(measured)
	if !ok || u.err != nil {
		return
	}
	receipt := report.Receipt(u.receipt)
	r.Receipt = &receipt
	if u.oom.Kills > 0 {
		r.Extra = append(r.Extra, report.OOMKilled)
		r.OOM = wireHit(u.oom.Kills, u.oom.Hit, u.oom.String())
	}
	if p := &u.pids; p.Refused > 0 {
		r.Extra = append(r.Extra, report.PIDsLimit)
		r.PIDs = wireHit(p.Refused, p.Hit, p.String())
	}
}

func wireHit(count uint64, h resource.Hit, words string) *report.Hit {
	return &report.Hit{Count: count, Whose: h.Whose.String(), Cgroup: h.Path, Sure: h.Sure, Words: words}
}

// fillHost adds the tier of guarantees, and the servers that were started from the
// run to outlive it.
func (a *app) fillHost(r *report.Report, out *runverb.Outcome) {
	if out.Weak {
		r.Tier = pidfd.TierE.String()
		return
	}
	all, err := a.places()
	if err != nil {
		return // the report then names no tier
	}
	defer all.close()
	r.Tier = hostTier(all[0].Root())
	runs, err := all.list(context.Background())
	if err != nil {
		return
	}
	for _, run := range runs {
		if run.Kind == detach.Kind && run.Labels[detach.FromLabel] == r.RunID && run.State == registry.RunRunning {
			r.Detached = append(r.Detached, report.Run{ID: run.ID.String(), Name: run.Name})
		}
	}
}

// hostTier is the tier of guarantees that runs below root have.
func hostTier(root *cgroup.Dir) string {
	if unix.Faccessat(root.FD(), "cgroup.kill", unix.F_OK, 0) != nil {
		return pidfd.TierD.String()
	}
	return pidfd.Probe().Tier().String()
}
