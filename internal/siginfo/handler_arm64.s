#include "go_asm.h"
#include "textflag.h"

#define SYS_write 64
#define SYS_getpid 172

// The handler; see handler_amd64.s. R1 is the siginfo_t, and the link register leads
// to the vDSO, which calls sigreturn. A system call changes R0 only.
TEXT handle<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	R1, R9
	MOVD	$·state(SB), R10

	MOVD	$SYS_getpid, R8
	SVC
	MOVW	shared_pid(R10), R11
	CMPW	R11, R0
	BNE	return

	ADD	$shared_inside, R10, R12
enter:
	LDAXRW	(R12), R13
	ADDW	$1, R13
	STLXRW	R13, (R12), R14
	CBNZ	R14, enter
	DMB	$0xb	// inner shareable: the load comes after the store
	ADD	$shared_pipe, R10, R13
	LDARW	(R13), R13
	SUBSW	$1, R13, R13
	BLT	out

	MOVD	$SYS_write, R8
	MOVW	R13, R0
	MOVD	R9, R1
	MOVD	$const_recordSize, R2
	SVC
	CMP	$const_recordSize, R0
	BEQ	out

	MOVW	0(R9), R14	// si_signo
	MOVD	$1, R15
	LSLW	R14, R15, R15
	ADD	$shared_lost, R10, R11
	MOVW	8(R9), R14	// si_code
	CMPW	$0, R14
	BLE	mark
	ADD	$4, R11
mark:
	LDAXRW	(R11), R14
	ORRW	R15, R14
	STLXRW	R14, (R11), R16
	CBNZ	R16, mark
	MOVD	$SYS_write, R8
	MOVW	R13, R0
	MOVD	R9, R1
	MOVD	$const_recordSize, R2
	SVC
	CMP	$const_recordSize, R0
	BNE	out
unmark:
	LDAXRW	(R11), R14
	BICW	R15, R14
	STLXRW	R14, (R11), R16
	CBNZ	R16, unmark
out:
	LDAXRW	(R12), R13
	SUBW	$1, R13
	STLXRW	R13, (R12), R14
	CBNZ	R14, out
return:
	RET

// func entries() (handler, restorer uintptr)
TEXT ·entries(SB),NOSPLIT,$0-16
	MOVD	$handle<>(SB), R0
	MOVD	R0, handler+0(FP)
	MOVD	ZR, restorer+8(FP)
	RET
