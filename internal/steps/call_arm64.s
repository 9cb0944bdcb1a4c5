#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 135
#define SIG_SETMASK 2

// func call(number, a, b, c uintptr, first *Step, masks *[2]uint64) int
TEXT ·call(SB),NOSPLIT,$0-56
	// masks[0] blocks everything; masks[1] gets what was blocked before.
	MOVD	masks+40(FP), R10
	MOVD	$SIG_SETMASK, R0
	MOVD	R10, R1
	ADD	$8, R10, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC

	MOVD	a+8(FP), R0
	MOVD	b+16(FP), R1
	MOVD	c+24(FP), R2
	MOVD	first+32(FP), R9
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	number+0(FP), R8
	SVC
	CBZ	R0, next

	MOVD	R0, R11
	MOVD	$SIG_SETMASK, R0
	ADD	$8, R10, R1
	MOVD	ZR, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC
	MOVD	R11, ret+48(FP)
	RET

	// The clone. R9 is its step, R11 the last result; a system call changes R0 only.
next:
	MOVD	Step_Call(R9), R8
	MOVD	(Step_Args+0*8)(R9), R0
	MOVD	(Step_Args+1*8)(R9), R1
	TBNZ	$63, R8, operation
	MOVD	(Step_Args+2*8)(R9), R2
	MOVD	(Step_Args+3*8)(R9), R3
	MOVD	(Step_Args+4*8)(R9), R4
	MOVD	(Step_Args+5*8)(R9), R5
	SVC
	MOVD	R0, R11
	TBNZ	$63, R0, fail
then:
	MOVD	Step_Then(R9), R9
	B	next
fail:
	MOVD	Step_Fail(R9), R9
	B	next
operation:
	CMP	$const_Same, R8
	BEQ	same
	BLT	more
	MOVD	R1, (R0)
	B	then
same:
	MOVBU	(R0), R2
	CMP	R1, R2
	BEQ	then
	B	fail
more:
	CMP	$const_Count, R8
	BEQ	count
	CMP	$const_Decimal, R8
	BEQ	decimal
	MOVD	R11, (R0)
	B	then
count:
	MOVD	(R0), R2
	SUBS	$1, R2, R2
	MOVD	R2, (R0)
	BNE	then
	B	fail
	// R0 goes to the end of the digits, and back as each is written.
decimal:
	MOVD	$10, R1
	MOVD	R11, R2
length:
	ADD	$1, R0
	UDIV	R1, R2, R2
	CBNZ	R2, length
	MOVD	R11, R2
digit:
	SUB	$1, R0
	UDIV	R1, R2, R3
	MSUB	R1, R2, R3, R4
	ADD	$'0', R4
	MOVB	R4, (R0)
	MOVD	R3, R2
	CBNZ	R2, digit
	B	then
