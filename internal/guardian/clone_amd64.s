#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 14
#define SYS_clone 56
#define SIG_SETMASK 2

// func clone(flags, stack uintptr, pidfd *int32, first *step, masks *[2]uint64) int
TEXT ·clone(SB),NOSPLIT,$0-48
	// masks[0] blocks everything; masks[1] gets what was blocked before.
	MOVQ	masks+32(FP), R12
	MOVL	$SIG_SETMASK, DI
	MOVQ	R12, SI
	LEAQ	8(R12), DX
	MOVL	$8, R10
	MOVL	$SYS_rt_sigprocmask, AX
	SYSCALL

	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	MOVQ	pidfd+16(FP), DX
	MOVQ	first+24(FP), BX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JEQ	next

	MOVQ	AX, R13
	MOVL	$SIG_SETMASK, DI
	LEAQ	8(R12), SI
	XORL	DX, DX
	MOVL	$8, R10
	MOVL	$SYS_rt_sigprocmask, AX
	SYSCALL
	MOVQ	R13, ret+40(FP)
	RET

	// The clone. BX is its step; a system call changes AX, CX and R11 only.
next:
	MOVQ	step_call(BX), AX
	MOVQ	(step_args+0*8)(BX), DI
	MOVQ	(step_args+1*8)(BX), SI
	TESTQ	AX, AX
	JLT	operation
	MOVQ	(step_args+2*8)(BX), DX
	MOVQ	(step_args+3*8)(BX), R10
	MOVQ	(step_args+4*8)(BX), R8
	MOVQ	(step_args+5*8)(BX), R9
	SYSCALL
	TESTQ	AX, AX
	JLT	fail
then:
	MOVQ	step_then(BX), BX
	JMP	next
fail:
	MOVQ	step_fail(BX), BX
	JMP	next
operation:
	CMPQ	AX, $const_opSame
	JEQ	same
	JLT	count
	MOVQ	SI, (DI)
	JMP	then
same:
	MOVBQZX	(DI), AX
	CMPQ	AX, SI
	JEQ	then
	JMP	fail
count:
	SUBQ	$1, (DI)
	JNE	then
	JMP	fail
