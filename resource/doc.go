// Package resource limits what the processes of a cgroup may use and reads what
// they have used.
//
// It works on an open [cgroup.Dir], so neither can hit another cgroup that has
// the same name by now. A limit needs its controller in cgroup v2; one that this
// host has not is an error that names the controller and the cure, and a statistic
// that it has not is nil, never zero.
//
// It is not for limits of a single process, which are package spawn's rlimits, and
// not for cgroup v1. It links containerd/cgroups, which takes longer to initialise
// than all of package cgroup: what only starts and ends processes should not
// import it.
package resource
