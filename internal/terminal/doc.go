// Package terminal leaves the controlling terminal as it was found, and lets the
// program be a good job of the shell that started it.
//
// A command that shares the program's session and process group gets the terminal's
// keys, reads and writes as if it had been started by the shell itself. What is left
// to the program is to clean up when the command was killed in the middle: the modes
// that an editor has set, or a foreground process group that is no more; and to stop
// when the command stops, so that the shell takes over.
//
// The package does not pass bytes on, makes no pseudoterminal, and is not a library
// for editing lines. It never touches a terminal that somebody else works on: what a
// program in the background finds is not its own to change.
package terminal
