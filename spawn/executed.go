package spawn

import (
	"math"

	"golang.org/x/sys/unix"
)

// Executed says whether the process has executed its program. [Start] succeeds too
// for a child that was killed on its way there, which nothing but its exit would
// tell.
//
// Start returns when the program runs or the child is past saving, so a child that
// is not exiting has executed. That costs two system calls and makes [Process.Reap]
// cheaper. Only of an exiting one, before Linux 6.9 of any, it reads the flags in
// /proc. After the reaping it says what the exit says.
func (p *Process) Executed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return !p.exit.BeforeExec
	}
	if p.autokill {
		return p.executed // known from the beginning, and its number is not its own
	}
	p.executed = p.executed || alive(p.handle.FD()) || !p.diedBeforeExec()
	return p.executed
}

// alive says whether the process is known not to be exiting: asked for a descriptor
// that it cannot have, the kernel says EBADF, and ESRCH of one that is exiting. Those
// without pidfs, before Linux 6.9, say EBADF of both.
func alive(pidfd int) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pidfd, &fs); err != nil || fs.Type != unix.PID_FS_MAGIC {
		return false
	}
	_, err := unix.PidfdGetfd(pidfd, math.MaxInt32, 0)
	return err == unix.EBADF
}
