// Package supervise keeps pools of workers as asked: it starts each worker in
// a leaf cgroup of its own, proves it ready, restarts it with a backoff, and
// stops everything for good.
//
// A [Supervisor] works inside one [registry.Run]. Deciding is pure
// (machine.go); one goroutine owns the state of all workers and carries the
// decisions out with a fixed number of helper goroutines. An idle worker costs
// one pidfd and a small struct: no goroutine, no timer, no wake-up.
//
// It does not read configuration, print, log, check ports or files, or serve
// an API; it neither takes over the workers of another run nor sweeps stale
// runs.
package supervise
