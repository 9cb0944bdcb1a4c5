package linuxtest

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// HelperLife is how long a helper lives that nothing ends: longer than a test,
// short enough that a machine is clean again soon.
const HelperLife = 2 * time.Minute

// Helper returns the command line of a helper program: the test binary itself,
// told to run the named mode. The first element is a path that every user of the
// machine may execute. [WriteModes] prints the built-in modes; a package adds its
// own through [Main]. An unknown mode fails the test.
//
// A helper that nothing ends, ends by itself after [HelperLife] at the latest.
func Helper(tb testing.TB, mode string, args ...string) []string {
	tb.Helper()
	current.needMain(tb)
	if _, ok := current.modes[mode]; !ok {
		tb.Fatalf("linuxtest: no helper mode %q", mode)
	}
	return append([]string{current.exe, helperPrefix + mode}, args...)
}

// WriteModes prints the built-in helper modes, one a line, with their arguments
// and what they do. Arguments in brackets may be left out; durations are Go's.
func WriteModes(w io.Writer) {
	for _, m := range builtins() {
		if m.does != "" {
			fmt.Fprintf(w, "%-42s %s\n", m.usage, m.does)
		}
	}
}

// builtin is a helper mode that every package has. Without a description it is
// for linuxtest's own use.
type builtin struct {
	name, usage, does string
	run               Mode
}

func builtins() []builtin {
	all := slices.Concat(lifeModes(), forkModes(), readyModes(), outputModes(), ownModes())
	for i := range all {
		name := all[i].usage
		for j, r := range name {
			if r == ' ' {
				name = name[:j]
				break
			}
		}
		all[i].name = name
	}
	return all
}

func builtinModes() Modes {
	modes := Modes{}
	for _, m := range builtins() {
		modes[m.name] = m.run
	}
	return modes
}

// complain reports why a helper could not do its work, and the exit code for it.
func complain(err error) int {
	fmt.Fprintf(os.Stderr, "linuxtest: helper: %v\n", err)
	return 125
}

// live waits until a signal comes or the helper's time is over.
func live(signals <-chan os.Signal) int {
	timer := time.NewTimer(HelperLife)
	defer timer.Stop()
	select {
	case <-signals:
	case <-timer.C:
	}
	return 0
}

// notifyOn catches the signals of a helper from here on.
func notifyOn(signals ...os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	return c
}

// arg is the i-th argument or what stands in for it.
func arg(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}

// number is arg as a number that is not below 0.
func number(args []string, i, otherwise int) (int, error) {
	if i >= len(args) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(args[i], 10, 31)
	return int(n), err
}

// pause lets the time of a helper's argument go by.
func pause(args []string, i int, otherwise string) error {
	d, err := time.ParseDuration(arg(args, i, otherwise))
	if err != nil {
		return err
	}
	timer := time.NewTimer(min(d, HelperLife))
	defer timer.Stop()
	<-timer.C
	return nil
}

// raise sends a signal to the helper itself.
func raise(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("open the own pidfd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}
