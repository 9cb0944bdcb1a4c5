#include "textflag.h"

#define SYS_prlimit64 261
#define RLIMIT_NOFILE 7

// func read(limit *Limit)
TEXT ·read(SB),NOSPLIT,$0-8
	MOVD	ZR, R0
	MOVD	$RLIMIT_NOFILE, R1
	MOVD	ZR, R2
	MOVD	limit+0(FP), R3
	MOVD	$SYS_prlimit64, R8
	SVC
	RET
