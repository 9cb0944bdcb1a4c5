// Package runverb is the verb `pitvisor run`: its flags, its wiring, what it prints,
// and its exit codes. The slim program that people call and the one with all verbs
// share it.
//
// It does not link what only few runs need; the program that does hands it in with
// [Extras]. It is not for running commands from Go: that is package oneshot.
package runverb
