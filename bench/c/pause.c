// pause is the worker of every benchmark: it reports its pid by one line in a FIFO and then does nothing, for ever.
// $BENCH_IGNORE_TERM makes it deaf to SIGTERM.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "report.h"

int main(void)
{
	if (getenv("BENCH_IGNORE_TERM"))
		signal(SIGTERM, SIG_IGN);
	report();
	for (;;)
		pause();
}
