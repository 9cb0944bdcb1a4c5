package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/pitvisor/pitvisor/linuxtest/confine"
)

func runDelegated(ctx context.Context, args []string) (bool, error) {
	var o siteOptions
	var d confine.Delegated
	f := flag.NewFlagSet("delegated", flag.ContinueOnError)
	f.IntVar(&d.User, "uid", 0, "`number` of the user and its group (default nobody's, or the caller's own)")
	o.define(f)
	if err := o.parse(f, args); err != nil {
		return false, err
	}
	if d.User < 0 {
		return false, fmt.Errorf("-uid %d is no user", d.User)
	}
	if os.Geteuid() != 0 && d.User != 0 && d.User != os.Geteuid() {
		return false, errors.New("-uid: only root can run a program as somebody else")
	}
	run := func(ctx context.Context, _ string, p confine.Program, out io.Writer) (confine.Result, error) {
		return d.Run(ctx, p, out)
	}
	return o.visit(ctx, []site{{lane: "delegated", name: "delegated", run: run}})
}
