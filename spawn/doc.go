// Package spawn starts one process inside a fresh cgroup leaf and says how it
// ended.
//
// [Start] creates the process inside its leaf: no instruction of the program, and
// none of its children, ever runs outside. Where the kernel or a sandbox refuses
// that system call, and for a few settings on processors other than amd64 and arm64,
// a helper process joins the leaf first and then becomes the program; for this a
// program that uses this package calls [HelperMain] first in main.
//
// A start that fails says why ([Error], [Cause]). A start that succeeds is still
// no proof that the program ran: a process that is killed at the very beginning
// looks started, and only its end tells ([Exit.BeforeExec]).
//
// From Linux 7.1 the kernel can be asked to end a process with this program
// ([Cmd.Autokill]).
//
// It needs Linux 5.7 for clone3 into a cgroup, and 5.4 with the helper.
//
// It is not for keeping processes: it does not restart, it has no list of
// workers, it does not stop anything, and it does not wait for what a program
// leaves behind. Packages supervise and cgroup do that.
package spawn
