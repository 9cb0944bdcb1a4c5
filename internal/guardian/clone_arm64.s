#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 135
#define SYS_clone 220
#define SIG_SETMASK 2

// func clone(flags, stack uintptr, pidfd *int32, first *step, masks *[2]uint64) int
TEXT ·clone(SB),NOSPLIT,$0-48
	// masks[0] blocks everything; masks[1] gets what was blocked before.
	MOVD	masks+32(FP), R10
	MOVD	$SIG_SETMASK, R0
	MOVD	R10, R1
	ADD	$8, R10, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC

	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1
	MOVD	pidfd+16(FP), R2
	MOVD	first+24(FP), R9
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, next

	MOVD	R0, R11
	MOVD	$SIG_SETMASK, R0
	ADD	$8, R10, R1
	MOVD	ZR, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC
	MOVD	R11, ret+40(FP)
	RET

	// The clone. R9 is its step; a system call changes R0 only.
next:
	MOVD	step_call(R9), R8
	MOVD	(step_args+0*8)(R9), R0
	MOVD	(step_args+1*8)(R9), R1
	TBNZ	$63, R8, operation
	MOVD	(step_args+2*8)(R9), R2
	MOVD	(step_args+3*8)(R9), R3
	MOVD	(step_args+4*8)(R9), R4
	MOVD	(step_args+5*8)(R9), R5
	SVC
	TBNZ	$63, R0, fail
then:
	MOVD	step_then(R9), R9
	B	next
fail:
	MOVD	step_fail(R9), R9
	B	next
operation:
	CMP	$const_opSame, R8
	BEQ	same
	BLT	count
	MOVD	R1, (R0)
	B	then
same:
	MOVBU	(R0), R2
	CMP	R1, R2
	BEQ	then
	B	fail
count:
	MOVD	(R0), R2
	SUBS	$1, R2, R2
	MOVD	R2, (R0)
	BNE	then
	B	fail
