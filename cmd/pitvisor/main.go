// Command pitvisor keeps pools of workers on Linux. Every run has its own
// cgroup, every worker is held by a pidfd, stale runs are swept whole, and
// nothing is ever signalled by a PID number.
//
// This package holds arguments, wiring, all printing and the exit codes; it is
// not the place for logic that another program or test would want.
package main

import (
	"os"

	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/spawn"
)

func main() {
	spawn.BecomeHelper() // it was started as one
	guardian.Main()      // likewise
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
