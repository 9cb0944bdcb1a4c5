// Package pidfd holds one process by file descriptor: to signal it, wait for
// it, ask the kernel about it, and to find the very same process again later,
// also from another program, without ever trusting a PID number.
//
// A pidfd names a process and not a number, so nothing here can hit a stranger
// that inherited a PID. PIDs appear in this package for printing, and as the
// hint from which a pidfd is opened; a caller that opens by PID must hold other
// proof of who that is, such as an [Identity] or being its parent.
//
// It needs Linux 5.4. Each function says what newer kernels add, and answers
// [ErrNotSupported] rather than guessing where the kernel cannot tell.
//
// It is not for reaping: that is for whoever started the process, package
// spawn. It does not know of cgroups, and does not act on groups of processes.
package pidfd
