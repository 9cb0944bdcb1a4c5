#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 14
#define SIG_SETMASK 2

// func call(number, a, b, c uintptr, first *Step, masks *[2]uint64) int
TEXT ·call(SB),NOSPLIT,$0-56
	// masks[0] blocks everything; masks[1] gets what was blocked before.
	MOVQ	masks+40(FP), R12
	MOVL	$SIG_SETMASK, DI
	MOVQ	R12, SI
	LEAQ	8(R12), DX
	MOVL	$8, R10
	MOVL	$SYS_rt_sigprocmask, AX
	SYSCALL

	MOVQ	a+8(FP), DI
	MOVQ	b+16(FP), SI
	MOVQ	c+24(FP), DX
	MOVQ	first+32(FP), BX
	XORL	R10, R10
	XORL	R8, R8
	MOVQ	number+0(FP), AX
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
	MOVQ	R13, ret+48(FP)
	RET

	// The clone. BX is its step, R13 the last result; a system call changes AX, CX
	// and R11 only.
next:
	MOVQ	Step_Call(BX), AX
	MOVQ	(Step_Args+0*8)(BX), DI
	MOVQ	(Step_Args+1*8)(BX), SI
	TESTQ	AX, AX
	JLT	operation
	MOVQ	(Step_Args+2*8)(BX), DX
	MOVQ	(Step_Args+3*8)(BX), R10
	MOVQ	(Step_Args+4*8)(BX), R8
	MOVQ	(Step_Args+5*8)(BX), R9
	SYSCALL
	MOVQ	AX, R13
	TESTQ	AX, AX
	JLT	fail
then:
	MOVQ	Step_Then(BX), BX
	JMP	next
fail:
	MOVQ	Step_Fail(BX), BX
	JMP	next
operation:
	CMPQ	AX, $const_Same
	JEQ	same
	JLT	more
	MOVQ	SI, (DI)
	JMP	then
same:
	MOVBQZX	(DI), AX
	CMPQ	AX, SI
	JEQ	then
	JMP	fail
more:
	CMPQ	AX, $const_Count
	JEQ	count
	CMPQ	AX, $const_Decimal
	JEQ	decimal
	MOVQ	R13, (DI)
	JMP	then
count:
	SUBQ	$1, (DI)
	JNE	then
	JMP	fail
	// DI goes to the end of the digits, and back as each is written.
decimal:
	MOVL	$10, SI
	MOVQ	R13, AX
length:
	ADDQ	$1, DI
	XORL	DX, DX
	DIVQ	SI
	TESTQ	AX, AX
	JNE	length
	MOVQ	R13, AX
digit:
	SUBQ	$1, DI
	XORL	DX, DX
	DIVQ	SI
	ADDL	$'0', DX
	MOVB	DX, (DI)
	TESTQ	AX, AX
	JNE	digit
	JMP	then
