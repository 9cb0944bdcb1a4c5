// Package nofile remembers the limit of open files that this program was started with.
// Package syscall raises the soft one at its initialisation, gives the old one to what
// StartProcess starts, and tells nobody else what it was.
//
// It must be initialised before syscall: packages are, in the order of their import
// paths, as soon as all that they import are. So this one imports nothing, not even
// indirectly, and makes the system call itself. It is not for other limits, and changes
// none.
package nofile
