package main

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// printSite prints one table for one site.
func printSite(out *printer, r *vm.Report) {
	var b strings.Builder
	name := cmp.Or(r.System, r.Lane)
	fmt.Fprintf(&b, "\n%s: Linux %s, tier %s, controllers %s, done in %.1f s\n",
		name, r.Release, r.Tier, orNone(strings.Join(r.Controllers, " ")), r.Total)
	printPrograms(&b, r)
	verdict := "FAIL"
	if r.OK() {
		verdict = "ok"
	}
	fmt.Fprintf(&b, "%s: %s\n", name, verdict)
	out.raw(b.String())
}

// printPrograms prints the table itself, why tests were skipped, and which were slow.
func printPrograms(b *strings.Builder, r *vm.Report) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "program\tpass\tfail\tskip\tseconds\t")
	reasons := map[string]int{}
	var slow []vm.Slow
	for _, o := range r.Programs {
		pass, fail, skip, took := "-", "-", "-", "-"
		if o.Tests != nil {
			pass, fail, skip = fmt.Sprint(o.Tests.Passed), fmt.Sprint(len(o.Tests.Failed)), fmt.Sprint(len(o.Tests.Skipped))
			for _, s := range o.Tests.Skipped {
				reasons[s.Reason]++
			}
			for _, s := range o.Tests.Slow {
				slow = append(slow, vm.Slow{Test: path.Base(o.Name) + " " + s.Test, Seconds: s.Seconds})
			}
		}
		if o.Exit != nil {
			took = fmt.Sprintf("%.1f", o.Exit.Seconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Name, pass, fail, skip, took, o.Why)
	}
	_ = w.Flush() // into memory
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(b, "skipped: %3d %s\n", reasons[reason], reason)
	}
	slices.SortFunc(slow, func(a, b vm.Slow) int { return cmp.Compare(b.Seconds, a.Seconds) })
	for _, s := range slow[:min(len(slow), 10)] {
		fmt.Fprintf(b, "slow: %5.1f s %s\n", s.Seconds, s.Test)
	}
}
