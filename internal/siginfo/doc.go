// Package siginfo catches signals together with what the kernel says about them:
// who sent each, and whether it was the terminal. os/signal drops that, and so
// cannot tell a Ctrl-C, which the terminal gives to a whole process group, from a
// signal that somebody sent to this process alone.
//
// A caught signal is handled outside the Go runtime by a few instructions, which
// write the kernel's 128 bytes into a pipe: it costs no goroutine and no thread, and
// a loop that polls other descriptors polls this one too. Linux on amd64 and arm64;
// elsewhere os/signal does it, and the sender is not known.
//
// While a signal is caught, os/signal must be used for other signals only: the one
// that sets the action of a signal last has it. A program that catches SIGTSTP, say,
// is not stopped by it; how to do that then is package terminal's business. The
// package does not send signals, and it is not for the signals that the runtime
// lives on (faults, SIGURG, SIGPROF).
package siginfo
