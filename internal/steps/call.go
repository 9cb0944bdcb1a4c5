//go:build amd64 || arm64

package steps

import "golang.org/x/sys/unix"

// call blocks the signals of masks[0] and makes the system call with this number, which
// is clone or clone3: a handler of this program must never run in the new process. The
// new process carries out the steps from first on. call returns as the system call
// does: the number of the process, or an errno below 0. The new process runs nothing
// but these few instructions of assembly and system calls: it uses no stack, does not
// look at the g that it shares with the calling thread, and can neither allocate nor be
// instrumented.
//
//go:noescape
func call(number, a, b, c uintptr, first *Step, masks *[2]uint64) int

// Clone is the system call clone, with flags that have CLONE_VM and CLONE_PIDFD. It
// returns the number of the new process, or the bare errno.
func (t *Table) Clone(first *Step, flags uintptr, pidfd *int32) (pid int, err error) {
	stack := Address(&t.mapping[0]) + uintptr(len(t.mapping))&^15 // never used
	return t.start(unix.SYS_CLONE, flags, stack, Address(pidfd), first)
}

// Clone3 is the system call clone3, with flags that have CLONE_VM unless the table is of
// [NewShared]. args is in the table.
// With CLONE_VFORK it returns when the new process has executed a program or ended.
func (t *Table) Clone3(first *Step, args *CloneArgs) (pid int, err error) {
	return t.start(unix.SYS_CLONE3, Address(args), unix.CLONE_ARGS_SIZE_VER2, 0, first)
}

func (t *Table) start(number, a, b, c uintptr, first *Step) (int, error) {
	t.masks[0] = ^uint64(0)
	r := call(number, a, b, c, first, t.masks)
	if r < 0 {
		return 0, unix.Errno(-r)
	}
	return r, nil
}
