#include "go_asm.h"
#include "textflag.h"

#define SYS_write 1
#define SYS_rt_sigreturn 15
#define SYS_getpid 39

// The handler. The kernel calls it on the thread's signal stack with all signals
// blocked: DI is the signal, SI its siginfo_t. It may use every register, since
// sigreturn restores all of them (the result and the errno of an interrupted call
// with them); it uses no stack and nothing of Go: no g, no TLS, no call.
TEXT handle<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVQ	SI, R12
	LEAQ	·state(SB), BX

	// A child has this memory and this handler until it executes something, but
	// other files: what it gets is not ours.
	MOVL	$SYS_getpid, AX
	SYSCALL
	CMPL	AX, shared_pid(BX)
	JNE	return

	MOVL	$1, AX
	LOCK
	XADDL	AX, shared_inside(BX)
	MOVL	shared_pipe(BX), R13
	SUBL	$1, R13
	JLT	out

	MOVL	$SYS_write, AX
	MOVL	R13, DI
	MOVQ	R12, SI
	MOVL	$const_recordSize, DX
	SYSCALL
	CMPQ	AX, $const_recordSize
	JEQ	out

	// The pipe is full. Leave a mark, and try again: if it is still full the reader
	// has not yet looked for marks.
	MOVL	0(R12), CX	// si_signo
	MOVL	$1, R15
	SHLL	CX, R15
	LEAQ	shared_lost(BX), R14
	CMPL	8(R12), $0	// si_code
	JLE	mark
	ADDQ	$4, R14
mark:
	LOCK
	ORL	R15, (R14)
	MOVL	$SYS_write, AX
	MOVL	R13, DI
	MOVQ	R12, SI
	MOVL	$const_recordSize, DX
	SYSCALL
	CMPQ	AX, $const_recordSize
	JNE	out
	NOTL	R15
	LOCK
	ANDL	R15, (R14)
out:
	LOCK
	DECL	shared_inside(BX)
return:
	RET

// Where the handler returns to: x86-64 has no such code in the vDSO.
TEXT restore<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVQ	$SYS_rt_sigreturn, AX
	SYSCALL
	INT	$3

// func entries() (handler, restorer uintptr)
TEXT ·entries(SB),NOSPLIT,$0-16
	LEAQ	handle<>(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	restore<>(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET
