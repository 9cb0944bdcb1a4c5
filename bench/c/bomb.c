// bomb becomes a tree of argv[1] (at most 200) processes. All but the first are in sessions of their own and deaf to
// every polite signal; $BENCH_IGNORE_TERM makes the first deaf to SIGTERM. The number is bounded by one counter that all
// of them share, so it can never run away. Each reports its pid.
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "report.h"

enum { MOST = 200 };

static void deafen(void)
{
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
}

static void explode(atomic_int *left)
{
	while (atomic_fetch_sub(left, 1) > 0) {
		pid_t child = fork();
		if (child < 0)
			break;
		if (child == 0) {
			setsid();
			deafen();
			report();
		}
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int size = argc > 1 ? atoi(argv[1]) : MOST;
	atomic_int *left = mmap(0, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (left == MAP_FAILED)
		return 111;
	atomic_store(left, (size < MOST ? size : MOST) - 1);
	if (getenv("BENCH_IGNORE_TERM"))
		signal(SIGTERM, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	report();
	explode(left);
}
