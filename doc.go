// Package pitvisor is the root of a Linux supervisor for pools of workers. Every
// run has a cgroup of its own, every process is held by a pidfd, stale runs are
// swept whole, and nothing is ever signalled by a PID number. The program is
// cmd/pitvisor, the parts are packages below. The root itself is not for
// importing: it holds no code, only the tests of the rules that all others keep.
package pitvisor
