// Package cgroup works on one open cgroup v2 directory: it creates and removes,
// freezes and kills, locks and labels cgroups, and finds the cgroup that the program
// may use as its root.
//
// A [Dir] is a directory descriptor, and every operation goes through it. After
// rmdir and mkdir of the same name an open Dir still means the old cgroup, and
// every operation on it gives [ErrGone]: nothing here can hit a cgroup that
// merely has the same path.
//
// The package needs a mounted cgroup2 file system, at /sys/fs/cgroup or, on a
// hybrid host, elsewhere. It needs Linux 5.14 for cgroup.kill; with 5.7 it works
// through a slower fallback (see [Dir.KillEach]).
//
// It is not for cgroup v1, not for limits and statistics (package resource), not
// for starting processes, and not for systemd's units. It does not log, and it never takes a process number to signal.
package cgroup
