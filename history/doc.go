// Package history keeps what happened in runs - starts, exits, causes - in a file, for people to read.
//
// The file is a bbolt database with the newest 10,000 records. It may be shared by several programs, it
// may be deleted at any time, and one that is damaged is set aside. Nobody waits for it.
//
// It is not for deciding anything, clean-up least of all: a record may be missing, and what a run is
// now only its cgroup tells (package registry).
package history
