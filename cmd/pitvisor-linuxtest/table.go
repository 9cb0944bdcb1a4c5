package main

import (
	"fmt"
	"strings"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// printReport prints one table for one kernel.
func printReport(out *printer, r *vm.Report) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: Linux %s (%s %s), %s, tier %s, controllers %s\n", r.Kernel, r.Release, r.Suite, r.Version,
		accelWords(r), orNone(r.Tier), orNone(strings.Join(r.Controllers, " ")))
	switch {
	case r.System == "":
		fmt.Fprintf(&b, "prepared in %.1f s, booted in %.1f s, done in %.1f s\n", r.Prepare, r.Boot, r.Total)
	default:
		fmt.Fprintf(&b, "%s: prepared in %.1f s, booted in %.1f s, saved in %.1f s, restored in %.1f s each, done in %.1f s\n",
			r.System, r.Prepare, r.Boot, r.Save, r.Restore, r.Total)
	}
	if r.CPU > 0 {
		fmt.Fprintf(&b, "QEMU used a processor for %.1f s\n", r.CPU)
	}
	if len(r.Dropped) > 0 {
		fmt.Fprintf(&b, "by choice not run on this kernel: %s\n", strings.Join(r.Dropped, " "))
	}
	printPrograms(&b, r)
	printTrouble(&b, r)
	out.raw(b.String())
}

// printOutcome prints how a program ended: a line when all is well, everything
// that it wrote about it when not.
func printOutcome(b *strings.Builder, kernel string, o *vm.Outcome) {
	took := ""
	if o.Exit != nil {
		took = fmt.Sprintf(" (%.1f s)", o.Exit.Seconds)
	}
	if o.OK {
		fmt.Fprintf(b, "%s: %s: ok%s\n", kernel, o.Name, took)
		return
	}
	fmt.Fprintf(b, "%s: %s: %s%s\n", kernel, o.Name, o.Why, took)
	if o.Tests != nil {
		for _, f := range o.Tests.Failed {
			fmt.Fprintf(b, "--- FAIL: %s\n%s", f.Test, f.Output)
		}
		for _, s := range o.Unexplained {
			fmt.Fprintf(b, "--- must not be skipped: %s: %s\n", s.Test, s.Reason)
		}
	}
	if o.Output != "" {
		fmt.Fprintln(b, o.Output)
	}
	for _, left := range o.Left {
		fmt.Fprintf(b, "left behind: process %s\n", left)
	}
}

// printTrouble prints what is wrong with the kernel or the guest itself.
func printTrouble(b *strings.Builder, r *vm.Report) {
	for _, name := range r.Lacking {
		fmt.Fprintf(b, "the kernel lacks what it must have: %s\n", name)
	}
	for _, line := range r.Complaints {
		fmt.Fprintf(b, "the kernel complains: %s\n", line)
	}
	if r.Error != "" {
		fmt.Fprintf(b, "the guest failed: %s\n", r.Error)
	}
	if r.OK() {
		fmt.Fprintf(b, "%s: ok\n", r.Kernel)
	} else {
		fmt.Fprintf(b, "%s: FAIL\n", r.Kernel)
	}
}

func accelWords(r *vm.Report) string {
	if r.AccelWhy == "" {
		return r.Accel
	}
	return r.Accel + " because " + r.AccelWhy
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
