package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
)

// openFiles lists the descriptors of a process.
func openFiles(tb testing.TB, pid int) []string {
	tb.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// statusField reads one line of /proc/<pid>/status.
func statusField(pid int, field string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// trapsSignals is ready when the main process ignores or catches a signal, which
// is when its trap has been set.
func trapsSignals(ctx context.Context, _ StartInfo, p *pidfd.Process, _ *cgroup.Dir) (ReadyInfo, error) {
	return ReadyInfo{}, poll(ctx, func() bool {
		for _, field := range []string{"SigIgn", "SigCgt"} {
			mask, err := strconv.ParseUint(statusField(p.PID(), field), 16, 64)
			if err == nil && mask&(1<<(unix.SIGTERM-1)) != 0 {
				return true
			}
		}
		return false
	})
}

// portRule is ready at once, on a port.
func portRule(context.Context, StartInfo, *pidfd.Process, *cgroup.Dir) (ReadyInfo, error) {
	return ReadyInfo{Port: 4711}, nil
}

// poll asks every millisecond until ctx is done.
func poll(ctx context.Context, cond func() bool) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// switches sums the voluntary context switches of all our threads: how often
// anything in this process has woken up and gone to sleep again.
func switches(tb testing.TB) int {
	tb.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0
	for _, task := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if value, ok := bytes.CutPrefix(line, []byte("voluntary_ctxt_switches:")); ok {
				n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
				if err != nil {
					tb.Fatal(err)
				}
				sum += n
			}
		}
	}
	return sum
}
