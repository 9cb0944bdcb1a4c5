// This program uses one processor, and need not find out how many it may.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command front is what is installed as pitvisor: it runs the common forms of
// `pitvisor run` by itself and hands everything else to the program with all verbs,
// ../libexec/pitvisor/pitvisor from where it stands.
//
// It exists because a command of a script must start fast: what a verb does not use
// is not even linked. The program with all verbs can do everything by itself, too.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/guardian"
	"github.com/pitvisor/pitvisor/internal/release"
	"github.com/pitvisor/pitvisor/internal/runverb"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/spf13/pflag"
)

func main() {
	// It does one thing after the other. A second thread at work would only cost wake-ups.
	runtime.GOMAXPROCS(1)
	spawn.BecomeHelper() // it was started as one
	guardian.Main()      // likewise
	if len(os.Args) > 1 && os.Args[1] == "run" {
		if code, done := run(os.Args[2:]); done {
			os.Exit(code)
		}
	}
	fmt.Fprintf(os.Stderr, "pitvisor: %v\n", handOver())
	os.Exit(exit.Self)
}

// run is `pitvisor run` in its common forms; false leaves it to the other program,
// which also explains mistakes.
func run(args []string) (code int, done bool) {
	f := runverb.Default()
	command, none := runverb.None(args)
	if !none {
		set := pflag.NewFlagSet("run", pflag.ContinueOnError)
		set.Usage = func() {}
		f.Define(set)
		f.Global(set)
		if set.Parse(args) != nil || runverb.Settle(set) != nil {
			return 0, false
		}
		command = set.Args()
	}
	v := runverb.Verb{Flags: &f, Version: release.Version(), Stderr: os.Stderr}
	code, err := v.Run(command)
	if errors.Is(err, runverb.ErrNeedsExtras) {
		return 0, false
	}
	return exit.Report(os.Stderr, code, err), true
}

// handOver becomes the program with all verbs. It only returns when that is not
// there.
func handOver() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	full := filepath.Join(filepath.Dir(self), "..", "libexec", "pitvisor", "pitvisor")
	err = syscall.Exec(full, append([]string{"pitvisor"}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("start %s, which has all verbs but the plain run: %w: install both programs of the package", full, err)
}
