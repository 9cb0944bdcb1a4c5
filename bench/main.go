// Command bench measures pitvisor against floors (the least that any supervisor must do, in C and in Go) and against
// the supervisors that Debian has, and writes docs/benchmarks.md.
//
//	go run ./bench            all rows, about a quarter of an hour
//	go run ./bench -quick     every row in small, about two minutes; writes no documentation
//	go run ./bench -gate      one command, pool start and stop, ten rounds or more, against the main floors
//
// All contenders are measured in the same way and from outside: time until every worker reported itself through a FIFO,
// CPU time of a cgroup that holds the supervisor with everything it started, alternated rounds, ratios within a round.
// It needs a writable cgroup v2 (root, or -cgroup with a delegated one), uses only its own subtree of it, and leaves
// nothing behind. It is not for measuring the workers, the network or an application.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

type options struct {
	rounds   int
	quick    bool
	gate     bool
	peers    bool
	install  bool
	only     *regexp.Regexp
	cgroup   string
	pitvisor string
	out      string
	docs     string
	limit    time.Duration
}

func main() {
	spawn.HelperMain()
	if len(os.Args) > 1 && os.Args[1] == staleOwnerMode {
		exit(staleOwner(os.Args[2:]))
	}
	// Whatever fds we were born with are not for those that we measure.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // an old kernel: then they are inherited
	opts, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, opts.limit, fmt.Errorf("the time limit of %v is over", opts.limit))
	defer cancel()
	exit(benchmark(ctx, opts))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 0, "measured rounds of each noisy row (0: 5, with -quick 2, with -gate 10)")
	flags.BoolVar(&o.quick, "quick", false, "small sizes and few rounds, as a smoke test")
	flags.BoolVar(&o.gate, "gate", false, "only one command and pool start and stop, only the main floors (and bwrap, crun), at least 10 rounds")
	flags.BoolVar(&o.peers, "peers", true, "also measure s6, runit, supervisor, bwrap, crun and others")
	flags.BoolVar(&o.install, "install", false, "with -quick or -only: also fetch peers that are missing, with apt-get")
	flags.StringVar(&only, "only", "", "regular expression: only the sections with such a name")
	flags.StringVar(&o.cgroup, "cgroup", "", "cgroup to work below (default: pitvisor-bench below the cgroup v2 mount)")
	flags.StringVar(&o.pitvisor, "pitvisor", filepath.Join("bin", "pitvisor"), "the program; it and ../libexec/pitvisor/pitvisor are built where they are not there")
	flags.StringVar(&o.out, "out", "out", "directory for the JSON and for scratch files")
	flags.StringVar(&o.docs, "docs", filepath.Join("docs", "benchmarks.md"), "the report; not written with -quick, -only or -gate")
	flags.DurationVar(&o.limit, "limit", 25*time.Minute, "give up after this time")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.quick || o.gate || only != "" {
		o.docs = ""
	} else {
		o.install = true
	}
	switch {
	case o.gate:
		o.rounds = max(o.rounds, 10)
	case o.rounds > 0:
	case o.quick:
		o.rounds = 2
	default:
		o.rounds = 5
	}
	return o, nil
}
