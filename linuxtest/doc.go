// Package linuxtest is the Linux that a test of process code needs, or a skip
// that says why it is not there.
//
// It gives a test a cgroup of its own, helper programs that misbehave on
// purpose, a process with a chosen PID, a way to kill a program at a chosen
// system call, and assertions that speak about kernel objects: identities,
// cgroups, ports, files. [Main] runs a package's tests and then fails loudly if
// anything is left: a process, a cgroup, a file descriptor, a goroutine, a
// temporary file. A skip is counted, printed with its reason, and fatal when
// PITVISOR_STRICT=1.
//
// A package opts in with three lines:
//
//	func TestMain(m *testing.M) {
//		linuxtest.Main(m)
//	}
//
// Everything is Linux only and made for tests that run one after the other:
// leaks cannot be told apart between parallel tests.
//
// The package is not for production code, and not a supervisor: it may scan
// /proc and guess, which a supervisor must not.
package linuxtest
