package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// notifications listens where systemd would, and returns what has come.
func notifications(t *testing.T) (socket string, next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // short: socket names are
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = os.RemoveAll(dir)
	})
	return socket, func() string {
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("no message to systemd: %v", err)
		}
		return string(buf[:n])
	}
}

// waitMessage reads until a message has the line.
func waitMessage(t *testing.T, next func() string, line string) {
	t.Helper()
	for !strings.Contains("\n"+next()+"\n", "\n"+line+"\n") {
	}
}

func TestSystemdIsToldReadyWatchdogAndStopping(t *testing.T) {
	w := newWorld(t)
	linuxtest.NeedCommand(t, "env")
	socket, next := notifications(t)
	config := w.config(`
[pool.web]
command = ["/bin/sh", "-c", "echo notify=$NOTIFY_SOCKET watchdog=$WATCHDOG_USEC; exec sleep 1000"]
size = 2
[pool.web.ready]
stdout = "notify="
`)
	argv := append([]string{"env", "NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=200000"}, w.argv("up", "-f", config, "--log-format", "json")...)
	u := startUp(t, argv)
	waitMessage(t, next, "READY=1")
	waitMessage(t, next, "WATCHDOG=1")
	waitMessage(t, next, "WATCHDOG=1")
	u.send(unix.SIGTERM)
	waitMessage(t, next, "STOPPING=1")
	if code := u.wait(); code != exitOK {
		t.Errorf("exit code = %d, want %d", code, exitOK)
	}
	for _, line := range u.lines() {
		if strings.Contains(line, "notify=/") || strings.Contains(line, "watchdog=2") {
			t.Errorf("a worker got what systemd meant for the supervisor: %s", line)
		}
	}
}
