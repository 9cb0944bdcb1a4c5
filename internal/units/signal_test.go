package units

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Every signal has a name, and that is read back as the same one.
func TestSignalNamesAreReadBack(t *testing.T) {
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if got, ok := Signal(SignalName(sig)); !ok || got != sig {
			t.Errorf("Signal(%q) = %d, %v, want %d", SignalName(sig), got, ok, sig)
		}
	}
	for sig, want := range map[unix.Signal]string{15: "SIGTERM", 33: "33", 34: "SIGRTMIN", 37: "SIGRTMIN+3", 64: "SIGRTMIN+30"} {
		if got := SignalName(sig); got != want {
			t.Errorf("SignalName(%d) = %q, want %q", sig, got, want)
		}
	}
}
