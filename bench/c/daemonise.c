// daemonise is a worker that leaves a daemon behind: fork, setsid, fork again; the grandchild ignores every polite
// signal and never ends by itself. Worker and grandchild report their pids. $BENCH_IGNORE_TERM makes the worker deaf, too.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"

static void daemon_body(void)
{
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	report();
	for (;;)
		pause();
}

int main(void)
{
	pid_t child = fork();

	if (child < 0)
		return 111;
	if (child == 0) {
		setsid();
		pid_t grandchild = fork();
		if (grandchild == 0)
			daemon_body();
		_exit(grandchild < 0 ? 111 : 0);
	}
	if (getenv("BENCH_IGNORE_TERM"))
		signal(SIGTERM, SIG_IGN);
	waitpid(child, 0, 0);
	report();
	for (;;)
		pause();
}
