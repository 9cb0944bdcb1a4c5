// Package guardian keeps a process that empties a run when the process that started
// the guardian has ended, in whatever way: also by SIGKILL, of which a program cannot
// take notice itself. It then kills the run by its cgroup, waits until the kernel
// says that nothing is left, and removes the directories that it was told of.
//
// The guardian is a second process with the memory of the first: a clone that has
// neither a stack nor a Go runtime of its own, and carries out a list of system calls
// that was made before. It costs a page of memory and what the kernel needs for a
// process, and no exec. It is not in the run, has a process group of its own, no standard
// files and not the run's lock; all signals are blocked in it, so that only SIGKILL
// and SIGSTOP by somebody of the same user or root reach it. What the run can do as
// another user does not.
//
// As the two share their memory, the kernel's OOM killer ends both if it chooses one,
// and so does a core dump of the first before Linux 5.16; an oom_score_adj set for
// one is set for both. When the guardian is gone too, what is left is a stale run: its
// lock is free, and the next sweep ends it. The same is true of what does not die or
// cannot be removed within a minute, and of cgroups that the command has made in its own.
//
// Where there is no cgroup.kill (before Linux 5.14) or it may not be written, where a
// sandbox forbids such a clone, and on other processors than amd64 and arm64, the
// guardian is the program itself, executed once more ([Main]), which costs some
// milliseconds and megabytes.
//
// [Witness] is a process of the same make with another purpose.
//
// The package does not find out what is left in a run, and it is not a supervisor: it
// restarts nothing, and it is not restarted.
package guardian
