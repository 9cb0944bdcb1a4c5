// Package steps makes processes that share the memory of the caller, or have a copy of it,
// and carry out a table of system calls that was made before, and nothing else: no Go code
// runs in them. That is cheap, and what a clone of a Go program can do safely.
//
// It is not for waiting for such a process, nor for anything that needs more than the
// results of system calls to go on. Where there is no assembly for the processor, there
// are tables, but nothing to start.
package steps

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Step is one system call, or one of five things to do with memory. The assembly that
// carries steps out knows nothing else.
type Step struct {
	Call       uintptr // the number of the system call, or an operation
	Args       [6]uintptr
	Then, Fail uintptr // address of the next step: after a result of 0 or more, and after an error
}

// The operations. Where nothing else is said, Then is the next step.
const (
	Set   = -1 // the word at Args[0] becomes Args[1]
	Same  = -2 // Then if the byte at Args[0] is Args[1], else Fail
	Count = -3 // the word at Args[0] is lessened by 1: Then unless it is 0, else Fail
	Keep  = -4 // the word at Args[0] becomes the result of the last system call

	// Decimal writes that result, which is none below 0, in digits from Args[0] on, and no
	// zero byte behind them.
	Decimal = -5
)

// CloneArgs is struct clone_args of the kernel.
type CloneArgs struct {
	Flags, PidFD, ChildTID, ParentTID, ExitSignal, Stack, StackSize, TLS, SetTID, SetTIDSize, Cgroup uint64
}

// Table holds steps and all that they work on, in a mapping of its own. It is not Go's
// memory: whatever becomes of the program, nothing may free it while the process
// lives, and no pointer in it is known to the garbage collector.
type Table struct {
	mapping []byte
	steps   []Step
	used    int // of the steps
	masks   *[2]uint64
	free    []byte
}

// New makes a table for so many steps and so many bytes of memory and strings.
func New(count, room int) (*Table, error) { return newTable(count, room, unix.MAP_PRIVATE) }

// NewShared makes a table that is also carried out by a process with memory of its own,
// without CLONE_VM, and tells what came of it as ever.
func NewShared(count, room int) (*Table, error) { return newTable(count, room, unix.MAP_SHARED) }

func newTable(count, room, kind int) (*Table, error) {
	begin := count * int(unsafe.Sizeof(Step{}))
	size := begin + int(unsafe.Sizeof([2]uint64{})) + room
	mapping, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, kind|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	t := &Table{
		mapping: mapping,
		steps:   unsafe.Slice((*Step)(unsafe.Pointer(&mapping[0])), count),
		free:    mapping[begin:],
	}
	t.masks = Room[[2]uint64](t)
	return t, nil
}

// Room takes memory for a T out of a table. A T may not need more than eight bytes of
// alignment, and no string may have been made before it.
func Room[T any](t *Table) *T {
	p := (*T)(unsafe.Pointer(&t.free[0]))
	t.free = t.free[(unsafe.Sizeof(*p)+7)&^7:]
	return p
}

// Words takes memory for n words, as Room does, and at least for one.
func (t *Table) Words(n int) []uintptr {
	words := unsafe.Slice((*uintptr)(unsafe.Pointer(&t.free[0])), n)
	t.free = t.free[max(n, 1)*int(unsafe.Sizeof(uintptr(0))):]
	return words
}

// Text returns the address of a string, with a zero byte behind it.
func (t *Table) Text(s string) uintptr {
	at := Address(&t.free[0])
	t.free = t.free[copy(t.free, s)+1:]
	return at
}

// Add appends a step, which leads to the one that will be added next.
func (t *Table) Add(call int, args ...uintptr) *Step {
	s := &t.steps[t.used]
	t.used++
	s.Call = uintptr(call)
	copy(s.Args[:], args)
	s.Then, s.Fail = t.Next(), t.Next()
	return s
}

// Next is the address of the step that will be added next.
func (t *Table) Next() uintptr {
	return Address(&t.steps[0]) + uintptr(t.used)*unsafe.Sizeof(Step{})
}

// Steps are those that were added.
func (t *Table) Steps() []Step { return t.steps[:t.used] }

// OldMask is where the signals stand that were blocked in the caller, when the steps
// are carried out.
func (t *Table) OldMask() uintptr { return Address(&t.masks[1]) }

// Mapping is all of the table, for who frees it when its process has ended.
func (t *Table) Mapping() []byte { return t.mapping }

// Free frees a table that nobody carries out.
func (t *Table) Free() error { return unix.Munmap(t.mapping) }

// Address is a pointer into a table, as a number for the kernel.
func Address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }
