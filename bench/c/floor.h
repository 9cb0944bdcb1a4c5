// floor is what the floors in C share: clone3 with a stack of the child's own, and the end of a cgroup. x86-64 only.
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "clone3_call knows how to call clone3 with a child stack on x86-64 only"
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static long clone3_call(struct clone_args *args, int (*body)(void *), void *arg)
{
	register int (*fn)(void *) __asm__("r12") = body;
	register void *fn_arg __asm__("r13") = arg;
	long ret = SYS_clone3;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %[arg], %%rdi\n\t"
			 "call *%[fn]\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov $60, %%eax\n\t"
			 "syscall\n"
			 "1:"
			 : "+a"(ret)
			 : "D"(args), "S"(sizeof *args), [fn] "r"(fn), [arg] "r"(fn_arg)
			 : "rcx", "r11", "memory");
	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	return ret;
}

static int read_populated(int events)
{
	char text[256];
	ssize_t n = pread(events, text, sizeof text - 1, 0);

	if (n <= 0)
		die("read cgroup.events");
	text[n] = 0;
	return strstr(text, "populated 1") != 0;
}

// kill_cgroup returns when the cgroup holds no process. cgroup.events is rate limited, hence the growing time-outs.
static void kill_cgroup(int dir)
{
	int events = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	int kill = openat(dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);

	if (events < 0 || kill < 0 || write(kill, "1", 1) != 1)
		die("cgroup.kill");
	for (long ns = 200000; read_populated(events); ns = ns < 25000000 ? 2 * ns : 50000000) {
		struct pollfd p = { .fd = events, .events = POLLPRI };
		struct timespec wait = { .tv_nsec = ns };
		ppoll(&p, 1, &wait, 0);
	}
	close(events);
	close(kill);
}
