package main

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Pools run on when stdout can not be written, and it is said once.
func TestAFullStdoutIsTold(t *testing.T) {
	w := newWorld(t)
	config := w.config("[pool.web]\ncommand = [\"sh\", \"-c\", \"printf 'one\\ntwo\\n'; exec sleep 600\"]\n")
	argv := []string{"/bin/sh", "-c", `exec "$@" >/dev/full`, "sh"}
	u := startUp(t, append(argv, w.argv("up", "-f", config, "--log-format", "text")...))
	const words = "is not shown any more, the files have it: write /dev/stdout: no space left on device"
	u.waitLog("stdout that is full", func(log []logLine) bool {
		return slices.ContainsFunc(log, func(l logLine) bool { return strings.Contains(l.raw, words) })
	})
	u.send(unix.SIGTERM)
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	if n := strings.Count(strings.Join(u.logText(), "\n"), words); n != 1 {
		t.Errorf("told %d times", n)
	}
	if out, stderr, code := w.tool("logs", "--raw"); out != "one\ntwo\n" {
		t.Errorf("logs = %q, %q, exit %d", out, stderr, code)
	}
}
