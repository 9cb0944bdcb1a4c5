package linuxtest

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lifeModes are about how a process ends and what it does to itself.
func lifeModes() []builtin {
	return []builtin{
		{usage: "run", does: "lives, and dies of TERM", run: func([]string) int { return live(nil) }},
		{usage: "exit CODE [AFTER]", does: "exits with CODE, 143 included", run: modeExit},
		{usage: "fail CODE LINE...", does: "writes the lines to stderr and exits with CODE", run: modeFail},
		{usage: "die SIGNAL [AFTER]", does: "ends itself by a signal given by number", run: modeDie},
		{usage: "ignore-term", does: "prints ready; TERM, INT and HUP do nothing", run: modeIgnoreTerm},
		{usage: "slow-term DURATION [CODE]", does: "prints ready; ends that long after TERM", run: modeSlowTerm},
		{usage: "stop-self", does: "prints stopping, then stops itself with SIGSTOP", run: modeStopSelf},
		{usage: "close-fds", does: "closes every descriptor it has, lives", run: modeCloseFDs},
		{usage: "alloc MB", does: "touches that much memory, prints allocated, lives", run: modeAlloc},
		{usage: "move-cgroup DIR", does: "moves itself to another cgroup, prints moved, lives", run: modeMoveCgroup},
	}
}

func modeExit(args []string) int {
	code, err := number(args, 0, 0)
	if err != nil {
		return complain(err)
	}
	if err := pause(args, 1, "0s"); err != nil {
		return complain(err)
	}
	return code
}

func modeFail(args []string) int {
	code, err := number(args, 0, 1)
	if err != nil {
		return complain(err)
	}
	for _, line := range args[min(1, len(args)):] {
		fmt.Fprintln(os.Stderr, line)
	}
	return code
}

func modeDie(args []string) int {
	n, err := number(args, 0, int(unix.SIGTERM))
	if err != nil {
		return complain(err)
	}
	if err := pause(args, 1, "0s"); err != nil {
		return complain(err)
	}
	// Go has handlers for most signals; the kernel's default is wanted.
	dfl := [4]uint64{}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0); errno != 0 && n != int(unix.SIGKILL) {
		return complain(fmt.Errorf("reset signal %d: %w", n, errno))
	}
	if err := raise(unix.Signal(n)); err != nil {
		return complain(err)
	}
	return live(nil)
}

func modeIgnoreTerm([]string) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	fmt.Println("ready")
	return live(nil)
}

func modeSlowTerm(args []string) int {
	signals := notifyOn(unix.SIGTERM)
	fmt.Println("ready")
	live(signals)
	return modeExit([]string{arg(args, 1, "0"), arg(args, 0, "1s")})
}

func modeStopSelf([]string) int {
	fmt.Println("stopping")
	if err := raise(unix.SIGSTOP); err != nil {
		return complain(err)
	}
	return live(nil)
}

func modeCloseFDs([]string) int {
	if err := unix.CloseRange(0, ^uint(0), 0); err != nil {
		return 125 // there is nowhere left to complain
	}
	return live(nil)
}

func modeAlloc(args []string) int {
	mb, err := number(args, 0, 64)
	if err != nil {
		return complain(err)
	}
	mem, err := unix.Mmap(-1, 0, max(mb, 1)<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return complain(fmt.Errorf("map %d MB: %w", mb, err))
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	fmt.Println("allocated")
	return live(nil)
}

func modeMoveCgroup(args []string) int {
	dir := arg(args, 0, "")
	if !filepath.IsAbs(dir) {
		return complain(fmt.Errorf("cgroup %q: not an absolute path", dir))
	}
	if err := writeGroupFile(dir, "cgroup.procs", "0"); err != nil {
		return complain(err)
	}
	fmt.Println("moved")
	return live(nil)
}
