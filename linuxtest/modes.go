package linuxtest

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// HelperLife is how long a helper lives that nothing ends: longer than a test,
// short enough that a machine is clean again soon.
const HelperLife = 2 * time.Minute

// ModeNames lists the built-in helper modes with their arguments.
func ModeNames() []string {
	var names []string
	for name := range builtinModes() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func builtinModes() Modes {
	modes := Modes{
		"run":         modeRun,
		"exit":        modeExit,
		"ignore-term": modeIgnoreTerm,
		"slow-term":   modeSlowTerm,
	}
	return modes
}

// complain reports why a helper could not do its work, and the exit code for it.
func complain(err error) int {
	fmt.Fprintf(os.Stderr, "linuxtest: helper: %v\n", err)
	return 125
}

// live waits until a signal comes or the helper's time is over.
func live(signals <-chan os.Signal) os.Signal {
	timer := time.NewTimer(HelperLife)
	defer timer.Stop()
	select {
	case s := <-signals:
		return s
	case <-timer.C:
		return nil
	}
}

// run: lives and dies of TERM by default.
func modeRun([]string) int {
	live(nil)
	return 0
}

// exit CODE [SECONDS]: ends with the code, at once or later.
func modeExit(args []string) int {
	code, err := strconv.Atoi(arg(args, 0, "0"))
	if err != nil {
		return complain(err)
	}
	if err := pause(arg(args, 1, "0s")); err != nil {
		return complain(err)
	}
	return code
}

// ignore-term: lives on after TERM, INT and HUP.
func modeIgnoreTerm([]string) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	fmt.Println("ready")
	live(nil)
	return 0
}

// slow-term DURATION [CODE]: ends that long after TERM.
func modeSlowTerm(args []string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	fmt.Println("ready")
	live(signals)
	if err := pause(arg(args, 0, "1s")); err != nil {
		return complain(err)
	}
	code, err := strconv.Atoi(arg(args, 1, "0"))
	if err != nil {
		return complain(err)
	}
	return code
}

// arg is the i-th argument or what stands in for it.
func arg(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}

// pause lets the time of a helper's argument go by.
func pause(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	timer := time.NewTimer(min(d, HelperLife))
	defer timer.Stop()
	<-timer.C
	return nil
}
