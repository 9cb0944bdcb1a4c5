// Package oneshot runs one command in a run of its own: nothing that the command
// starts outlives it, and what it would have left behind is named.
//
//	<root>/run-<id>/        the run; its owner is the calling process
//	         job/           limits
//	           0.1/         the leaf that the command is born in
//
// A [guardian] outside of the run ends it if the caller is killed. One goroutine, the
// caller's, holds everything in one poll loop: the command's pidfd, signals with their
// senders, lifelines, and one timer.
//
// It needs what spawn and registry need. It does not parse arguments, print, or write
// reports, and it is not for more than one command: that is package supervise.
package oneshot
