package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// runRoot prepares a root file system and prints its directory.
func runRoot(ctx context.Context, args []string) (bool, error) {
	f := flag.NewFlagSet("root", flag.ContinueOnError)
	install := f.String("install", "systemd,dbus", "Debian `packages`, separated by commas, beside a shell, coreutils and dpkg")
	cache := f.String("cache", "", "`directory` of root file systems (default pitvisor-linuxtest in the user's cache)")
	update := f.Bool("update", false, "ask for newer packages now; otherwise that is done once a week")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\nflags of root:\n", usage)
		f.PrintDefaults()
	}
	if f.Parse(args) != nil {
		return false, errUsage
	}
	if f.NArg() != 1 {
		f.Usage()
		return false, errUsage
	}
	c := vm.Cache{Dir: *cache, Update: *update, Log: func(line string) { fmt.Fprintln(os.Stderr, line) }}
	t, err := c.Tree(ctx, f.Arg(0), list(*install)...)
	if err != nil {
		return false, err
	}
	var versions []string
	for _, name := range list(*install) {
		versions = append(versions, name+" "+t.Version(name))
	}
	fmt.Fprintf(os.Stderr, "%s: %d packages, with %s\n", t.Suite, len(t.Packages), strings.Join(versions, ", "))
	fmt.Println(t.Dir)
	return true, nil
}
