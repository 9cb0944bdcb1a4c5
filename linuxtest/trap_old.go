//go:build amd64 || 386 || ppc64le || s390x

package linuxtest

import "golang.org/x/sys/unix"

// archCalls are the calls that newer architectures do not have.
func archCalls() []trapCall {
	return []trapCall{
		{"mkdir", unix.SYS_MKDIR, 0, -1},
		{"rmdir", unix.SYS_RMDIR, 0, -1},
		{"unlink", unix.SYS_UNLINK, 0, -1},
		{"rename", unix.SYS_RENAME, 1, -1},
		{"renameat", unix.SYS_RENAMEAT, 3, -1},
		{"vfork", unix.SYS_VFORK, -1, -1},
	}
}
