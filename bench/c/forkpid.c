// forkpid PID COMMAND...: runs a command as the process with exactly that pid (clone3 with set_tid), so that the reuse
// of a pid is forced and not hoped for. Exits 0 once the process exists, 1 if the pid is not free, 2 if not permitted.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	pid_t want = atoi(argv[1]);
	struct clone_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = (uint64_t)(uintptr_t)&want,
		.set_tid_size = 1,
	};
	long pid = syscall(SYS_clone3, &args, sizeof args);

	if (pid == 0) {
		setsid();
		execv(argv[2], argv + 2);
		_exit(111);
	}
	if (pid < 0) {
		fprintf(stderr, "forkpid: clone3 with pid %d: %s\n", want, strerror(errno));
		return errno == EEXIST ? 1 : 2;
	}
	return 0;
}
