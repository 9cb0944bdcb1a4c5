// oneshot is the floor of one command: the least that a program must do which runs one command in a run of its own and
// leaves nothing behind, in C.
//
//	oneshot ROOT FILE|- COMMAND...
//
// It makes the cgroups ROOT/run-<pid>/job/0.1, takes the lock of the run and writes one attribute to it, starts the
// command right inside the leaf (clone3 with VM, VFORK, INTO_CGROUP and PIDFD), waits for it by its pidfd, kills what it
// left, removes the cgroups and exits with the command's code (128+n for signal n). FILE gets a durable line at the
// start and at the end. It forwards no signals, has no guardian and reports nothing.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "floor.h"

static char run_name[32];
static int rootfd, runfd, leaffd, pidfd = -1, record = -1;
static char **command;
extern char **environ;

static int make(int parent, const char *name)
{
	int fd;

	if (mkdirat(parent, name, 0755) < 0 || (fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		die(name);
	return fd;
}

static void make_run(const char *root)
{
	rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rootfd < 0)
		die(root);
	snprintf(run_name, sizeof run_name, "run-%d", getpid());
	runfd = make(rootfd, run_name);
	if (flock(runfd, LOCK_EX | LOCK_NB) < 0)
		die("lock the run");
	if (fsetxattr(runfd, "user.bench.run", run_name, strlen(run_name), XATTR_CREATE) < 0)
		die("label the run");
	close(make(runfd, "job"));
	leaffd = make(runfd, "job/0.1");
}

static void write_record(const char *event, int code)
{
	char line[128];
	int n;

	if (record < 0)
		return;
	n = snprintf(line, sizeof line, "{\"event\":\"%s\",\"run\":\"%s\",\"code\":%d}\n", event, run_name, code);
	if (write(record, line, n) != n || fdatasync(record) < 0)
		die("record");
}

// child runs on its own small stack, but in the parent's memory, until the exec.
static int child(void *error)
{
	execve(command[0], command, environ);
	*(volatile int *)error = errno;
	return 127;
}

static void start(void)
{
	static char stack[64 * 1024] __attribute__((aligned(16)));
	volatile int error = 0;
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = sizeof stack,
		.cgroup = leaffd,
	};

	if (clone3_call(&args, child, (void *)&error) < 0)
		die("clone3");
	if (error) {
		errno = error;
		die(command[0]);
	}
}

static int reap(void)
{
	siginfo_t info;

	while (waitid(P_PIDFD, pidfd, &info, WEXITED) < 0)
		if (errno != EINTR)
			die("waitid");
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void remove_run(void)
{
	if (unlinkat(runfd, "job/0.1", AT_REMOVEDIR) < 0) {
		if (errno != EBUSY)
			die("remove the leaf");
		kill_cgroup(leaffd);
		if (unlinkat(runfd, "job/0.1", AT_REMOVEDIR) < 0)
			die("remove the leaf");
	}
	if (unlinkat(runfd, "job", AT_REMOVEDIR) < 0 || unlinkat(rootfd, run_name, AT_REMOVEDIR) < 0)
		die("remove the run");
}

int main(int argc, char **argv)
{
	int code;

	if (argc < 4) {
		fprintf(stderr, "usage: oneshot ROOT FILE|- COMMAND...\n");
		return 2;
	}
	if (strcmp(argv[2], "-") != 0 && (record = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		die(argv[2]);
	command = argv + 3;
	make_run(argv[1]);
	write_record("start", 0);
	start();
	code = reap();
	remove_run();
	write_record("end", code);
	return code;
}
