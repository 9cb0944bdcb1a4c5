// Package weak starts one command without a cgroup and ends what it leaves behind,
// as far as that can be done: tier E.
//
// The calling process becomes the one that orphans below it are given to, so that
// every descendant of the command stays below it, whatever it forks, and whatever
// session and group it moves to. [Tree.Kill] takes a pidfd of each, kills through
// it, and goes on until the kernel says that no child is left: then there is no
// descendant either.
//
// What is weaker than a cgroup, and why a program must ask for it by name:
//
//   - A descendant that joins another PID namespace and forks there gives its
//     orphans to the init of that namespace: they are descendants no more, and are
//     neither seen nor killed.
//   - A descendant that has become another user cannot be killed by an ordinary
//     user. It is named, and the tree is not called ended.
//   - If the calling process is killed, everything below it lives on.
//   - There are no limits, no statistics and no freezing, and a process that forks
//     faster than it is found can hold up the end.
//
// It needs Linux 5.4. It is not for a process that has other children: the command's
// orphans could not be told from theirs, and [Start] refuses it. It is not for hosts
// that have a cgroup to give.
package weak
