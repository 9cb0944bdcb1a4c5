// Package probe says whether one start of a worker is ready, and later whether it
// is still well: by a line it printed, a file it wrote, a message or newline it
// sent, a port it answers on, or a command that agrees.
//
// A rule holds only for the start it was prepared for. What an earlier start
// left behind, what a process outside the worker's leaf says, and what a
// stranger answers on the worker's port never count.
//
// Each rule is waited for: by inotify, by the runtime's poller, or, where the
// kernel has no event (a port that opens, a command that changes its mind), by
// repeated tries. Nothing is kept for a worker once its attempt is closed.
//
// The package is not for load balancing, and it decides nothing about restarts: that is
// package supervise.
package probe
