// limit is the floor: the least that any supervisor of a pool must do, in one thread of C.
//
//	limit cgroup|nocg     DIR COUNT COMMAND...
//	limit journal=FILE    DIR COUNT COMMAND...
//
// For each worker it makes a cgroup DIR/run/<slot>.<start>, starts the command right inside it (clone3 with VM, VFORK,
// INTO_CGROUP and PIDFD), and holds it by its pidfd in one epoll. A worker that exits is started again in a new cgroup.
// SIGINT or SIGTERM stops everything by one cgroup.kill, waits until nothing is populated and removes all cgroups.
// journal also appends a record per start and makes each batch of at most 64 durable; nocg makes no cgroup at all.
// It prints JSON lines with monotonic timestamps. x86-64 only. No limits, no back-off, no readiness, no registry.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

enum { BATCH = 64, SIGNALS = UINT32_MAX };

struct worker {
	int pidfd;
	pid_t pid;
	unsigned start;
};

static struct worker *workers;
static unsigned count;
static int runfd = -1, epfd, sigfd, nullfd, journal = -1;
static int with_cgroups;
static char **command;
static char pending[BATCH * 64];
static size_t pending_bytes;
static unsigned pending_records;
extern char **environ;

static void say(const char *event)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	printf("{\"event\":\"%s\",\"workers\":%u,\"ns\":%" PRId64 "}\n", event, count,
	       (int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
	fflush(stdout);
}

static void flush_journal(void)
{
	if (journal < 0 || pending_records == 0)
		return;
	if (write(journal, pending, pending_bytes) != (ssize_t)pending_bytes || fdatasync(journal) < 0)
		die("journal");
	pending_bytes = pending_records = 0;
}

static void record(unsigned slot)
{
	if (journal < 0)
		return;
	pending_bytes += snprintf(pending + pending_bytes, 64, "start %u.%u pid %d\n", slot, workers[slot].start,
				  workers[slot].pid);
	if (++pending_records == BATCH)
		flush_journal();
}

// child runs on its own small stack, but in the parent's memory, until the exec.
static int child(void *error)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, 0);
	setsid();
	dup2(nullfd, 0);
	dup2(nullfd, 1);
	dup2(nullfd, 2);
	execve(command[0], command, environ);
	*(volatile int *)error = errno;
	return 127;
}

static void leaf_name(char *name, size_t size, unsigned slot)
{
	snprintf(name, size, "%u.%u", slot, workers[slot].start);
}

static void start(unsigned slot)
{
	static char stack[64 * 1024] __attribute__((aligned(16)));
	struct worker *w = &workers[slot];
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = slot };
	char name[32];
	int leaf = -1, pidfd = -1;
	volatile int error = 0;

	w->start++;
	if (with_cgroups) {
		leaf_name(name, sizeof name, slot);
		if (mkdirat(runfd, name, 0755) < 0 || (leaf = openat(runfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
			die("make cgroup");
	}
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | (with_cgroups ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = sizeof stack,
		.cgroup = with_cgroups ? (uint64_t)leaf : 0,
	};
	long pid = clone3_call(&args, child, (void *)&error);
	if (pid < 0)
		die("clone3");
	if (leaf >= 0)
		close(leaf);
	if (error) {
		errno = error;
		die(command[0]);
	}
	w->pidfd = pidfd;
	w->pid = pid;
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, pidfd, &event) < 0)
		die("epoll_ctl");
	record(slot);
}

static void reap(struct worker *w)
{
	siginfo_t info;

	while (waitid(P_PIDFD, w->pidfd, &info, WEXITED) < 0)
		if (errno != EINTR)
			die("waitid");
	close(w->pidfd);
	w->pidfd = -1;
}

static void remove_leaf(unsigned slot)
{
	char name[32];
	int leaf;

	leaf_name(name, sizeof name, slot);
	if (unlinkat(runfd, name, AT_REMOVEDIR) == 0)
		return;
	if (errno != EBUSY || (leaf = openat(runfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		die("remove cgroup");
	kill_cgroup(leaf);
	close(leaf);
	if (unlinkat(runfd, name, AT_REMOVEDIR) < 0)
		die("remove cgroup");
}

static void exited(unsigned slot)
{
	reap(&workers[slot]);
	if (with_cgroups)
		remove_leaf(slot);
	start(slot);
	flush_journal();
}

static void stop_all(int dir)
{
	say("stopping");
	if (with_cgroups)
		kill_cgroup(runfd);
	else
		for (unsigned i = 0; i < count; i++)
			syscall(SYS_pidfd_send_signal, workers[i].pidfd, SIGKILL, 0, 0);
	for (unsigned i = 0; i < count; i++) {
		reap(&workers[i]);
		if (with_cgroups)
			remove_leaf(i);
	}
	if (with_cgroups && unlinkat(dir, "run", AT_REMOVEDIR) < 0)
		die("remove run");
	say("gone");
}

static void setup(int dir)
{
	struct rlimit files;
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = SIGNALS };
	sigset_t stops;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	sigprocmask(SIG_BLOCK, &stops, 0);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	sigfd = signalfd(-1, &stops, SFD_CLOEXEC);
	nullfd = open("/dev/null", O_RDWR | O_CLOEXEC);
	workers = calloc(count, sizeof *workers);
	if (epfd < 0 || sigfd < 0 || nullfd < 0 || !workers || epoll_ctl(epfd, EPOLL_CTL_ADD, sigfd, &event) < 0)
		die("set up");
	if (!with_cgroups)
		return;
	if (mkdirat(dir, "run", 0755) < 0 || (runfd = openat(dir, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		die("make run");
}

static void loop(int dir)
{
	struct epoll_event events[BATCH];

	for (;;) {
		int n = epoll_wait(epfd, events, BATCH, -1);
		for (int i = 0; i < n; i++) {
			if (events[i].data.u32 == SIGNALS) {
				stop_all(dir);
				return;
			}
			exited(events[i].data.u32);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: limit cgroup|nocg|journal=FILE DIR COUNT COMMAND...\n");
		return 2;
	}
	with_cgroups = strcmp(argv[1], "nocg") != 0;
	if (strncmp(argv[1], "journal=", 8) == 0 &&
	    (journal = open(argv[1] + 8, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		die(argv[1]);
	int dir = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		die(argv[2]);
	count = atoi(argv[3]);
	command = argv + 4;
	setup(dir);
	for (unsigned i = 0; i < count; i++)
		start(i);
	flush_journal();
	say("started");
	loop(dir);
	return 0;
}
