// writer BYTES LINES: writes so many bytes to stdout, in lines of 100 and so many lines a write. It reports its pid when
// it is ready, waits until nobody has the FIFO $BENCH_GATE open for writing, reports again when it has written
// everything, and then does nothing, for ever.
#include <string.h>

#include "report.h"

enum { LINE = 100, MOST = 100 };

int main(int argc, char **argv)
{
	static char block[LINE * MOST];
	const char *gate = getenv("BENCH_GATE");
	char nothing;

	if (argc != 3 || !gate)
		return 2;
	long rest = atol(argv[1]), lines = atol(argv[2]);
	if (lines < 1 || lines > MOST)
		return 2;
	memset(block, 'b', sizeof block);
	for (int i = 1; i <= MOST; i++)
		block[LINE * i - 1] = '\n';
	int fd = open(gate, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 111;
	report();
	if (read(fd, &nothing, 1) != 0)
		return 111;
	while (rest > 0) {
		long n = LINE * lines < rest ? LINE * lines : rest;
		ssize_t done = write(1, block, n);
		if (done < 0)
			return 111;
		rest -= done;
	}
	report();
	for (;;)
		pause();
}
