package linuxtest

import (
	"testing"
)

// Helper returns the command line of a helper program: the test binary itself,
// told to run the named mode. The first element is a path that every user of the
// machine may execute. See [ModeNames] for the built-in modes; a package adds
// its own through [Main]. An unknown mode fails the test.
//
// A helper that is never told to stop ends by itself after [HelperLife].
func Helper(tb testing.TB, mode string, args ...string) []string {
	tb.Helper()
	current.needMain(tb)
	if _, ok := current.modes[mode]; !ok {
		tb.Fatalf("linuxtest: no helper mode %q", mode)
	}
	return append([]string{current.exe, helperPrefix + mode}, args...)
}
