// Command pitvisor-linuxtest runs Go tests, and any other static program, where
// they meet a real Linux: on Debian's kernels in QEMU, in containers, and as an
// ordinary user in a delegated cgroup.
//
//	pitvisor-linuxtest vm [flags] PACKAGES... [-- TEST FLAGS...]
//	pitvisor-linuxtest vm [flags] -- PROGRAM [ARGS...]
//	pitvisor-linuxtest systemd [flags] PACKAGES... [-- TEST FLAGS...]
//	pitvisor-linuxtest systemd [flags] -- PROGRAM [ARGS...]
//	pitvisor-linuxtest container|delegated [flags] PACKAGES... [-- TEST FLAGS...]
//	pitvisor-linuxtest container|delegated [flags] -- PROGRAM [ARGS...]
//	pitvisor-linuxtest kernels
//	pitvisor-linuxtest probe [flags]
//	go test -json PACKAGES... | pitvisor-linuxtest record -json FILE [flags]
//	pitvisor-linuxtest matrix [flags] FILES...
//	pitvisor-linuxtest root [flags] SUITE
//
// See docs/testing.md. For vm it needs no KVM and no root; qemu-system-x86, apt and
// e2fsprogs of Debian or Ubuntu, and the keys of Debian's archive. It is the init
// of its guests as well, so it must be built with CGO_ENABLED=0 where that matters.
//
// Exit code 0 when everything passed, 1 when not, 2 for a wrong call.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/pitvisor/pitvisor/linuxtest/confine"
	"github.com/pitvisor/pitvisor/linuxtest/vm"
	"golang.org/x/sys/unix"
)

const usage = `usage:
  pitvisor-linuxtest vm [flags] PACKAGES... [-- TEST FLAGS...]
	builds the test binaries of Go packages and runs them on each kernel
  pitvisor-linuxtest vm [flags] -- PROGRAM [ARGS...]
	runs one static program on each kernel
  pitvisor-linuxtest vm -help
  pitvisor-linuxtest systemd [flags] PACKAGES... [-- TEST FLAGS...]
	runs each test of Go packages in a booted Debian with systemd as PID 1
  pitvisor-linuxtest systemd [flags] -- PROGRAM [ARGS...]
	runs one static program there
  pitvisor-linuxtest systemd -help
  pitvisor-linuxtest container|delegated [flags] PACKAGES... [-- TEST FLAGS...]
  pitvisor-linuxtest container|delegated [flags] -- PROGRAM [ARGS...]
	runs them on this host's kernel in containers of several kinds, or as an
	ordinary user in a delegated cgroup
  pitvisor-linuxtest kernels
	names the kernels
  pitvisor-linuxtest probe [-lane NAME] [-system TEXT] [-json FILE]
	reports what the kernel can do here
  go test -json PACKAGES... | pitvisor-linuxtest record -json FILE [-lane NAME] [-system TEXT] [-skips FILE]
	makes a report of tests that run here, and passes what it reads on
  pitvisor-linuxtest matrix [-data FILE] [-o FILE] FILES...
	makes tables of reports
  pitvisor-linuxtest root [-install PACKAGES] [-cache DIRECTORY] [-update] SUITE
	prepares the root file system of a Debian such as trixie, and prints its directory
`

// errUsage is a wrong call, which has been explained.
var errUsage = errors.New("wrong call")

func main() {
	vm.Main()
	confine.Main()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	verbs := map[string]func(context.Context, []string) (bool, error){
		"vm": runVM, "systemd": runSystemd, "probe": runProbe, "record": runRecord, "matrix": runMatrix,
		"root": runRoot, "container": runContainer, "delegated": runDelegated,
	}
	if verb := verbs[args[0]]; verb != nil {
		ok, err := verb(ctx, args[1:])
		switch {
		case errors.Is(err, errUsage):
			return 2
		case err != nil:
			fmt.Fprintf(os.Stderr, "pitvisor-linuxtest: %v\n", err)
			return 1
		case !ok:
			return 1
		}
		return 0
	}
	switch args[0] {
	case "kernels":
		for _, name := range vm.Names() {
			fmt.Println(name)
		}
		return 0
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "pitvisor-linuxtest: no command %q\n%s", args[0], usage)
	return 2
}
