// Package supervise keeps pools of workers as asked: it starts each worker in
// a leaf cgroup of its own, proves it ready, restarts it with a backoff, and
// stops everything for good. While it runs pools come and go, change their size,
// and replace their workers by new ones that must be ready first.
//
// A [Supervisor] works inside one [registry.Run]. Deciding is pure: machine.go
// tells the life of a worker, crew.go that of a pool. One goroutine owns the state
// of all workers and carries the decisions out with a fixed number of helper
// goroutines. An idle worker costs one pidfd and a small struct: no goroutine, no
// timer, no wake-up, unless it has a liveness rule or an age.
//
// Everything that happens is an [Event]: Options.Observe gets each as it comes, and
// [Supervisor.Events] reads on from any number.
//
// It does not read configuration, print, log, check ports or files, or serve
// an API; it neither takes over the workers of another run nor sweeps stale
// runs.
package supervise
