package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

// journalWorld runs pitvisor where the journal is a socket of the test, in a
// mount namespace of its own. It prints what came, quoted, a message a line.
func journalWorld(args []string) int {
	const dir = "/run/systemd/journal"
	err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	var listener *net.UnixConn
	if err == nil {
		listener, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitSelf
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<20)
		for {
			n, err := listener.Read(buf)
			if err != nil {
				return
			}
			if n > 0 { // else somebody looked whether we are there
				fmt.Printf("%q\n", bytes.ReplaceAll(buf[:n], bytes.Repeat([]byte("x"), 100), nil))
			}
		}
	}()
	code := run(args, os.Stderr, os.Stderr)
	_ = listener.SetReadDeadline(time.Now().Add(time.Second)) // what was sent is in the socket already
	<-done
	_ = listener.Close()
	return code
}

// Each line of a pool with journal = true comes to the journal with its fields.
func TestOutputToTheJournal(t *testing.T) {
	linuxtest.NeedAdmin(t, "to make a mount namespace")
	w := newWorld(t)
	path := w.config(`
[pool.web]
command = ["/bin/sh", "-c", "echo out; echo err >&2; echo '<4>careful' >&2; head -c 70000 /dev/zero | tr '\\0' x; printf '\\377 not finished'"]
restart = "never"
journal = true
[pool.quiet]
command = ["/bin/echo", "not for the journal"]
restart = "never"
`)
	argv := linuxtest.Helper(t, "journal-world", w.argv("up", "-f", path, "-q")[len(linuxtest.Helper(t, "pitvisor")):]...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("up: %v\n%s", err, stderr.String())
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool { return !strings.Contains(l, "PITVISOR_POOL") })
	want := []string{
		`PRIORITY=6\nMESSAGE=out\n`, `PRIORITY=3\nMESSAGE=err\n`, `PRIORITY=4\nMESSAGE=careful\n`,
		`PRIORITY=6\nMESSAGE=xxxx`, `PITVISOR_STREAM=stdout`, `PITVISOR_WORKER=web/0\n`, `PITVISOR_START=1\n`, `SYSLOG_IDENTIFIER=web\n`, `\xff not finished\n`,
	}
	for _, text := range want {
		if !strings.Contains(strings.Join(lines, "\n"), text) {
			t.Errorf("the journal got\n%s\nwithout %s", strings.Join(lines, "\n"), text)
		}
	}
	if strings.Contains(string(out), "not for the journal") || len(lines) != 5 {
		t.Errorf("the journal got %d messages:\n%s\nwant 5 of web alone", len(lines), out)
	}
}

// Lines that the journal refuses are counted, and the count comes with the next one that it takes.
func TestJournalThatRefuses(t *testing.T) {
	var got []map[string]string
	var warned []error
	refuse := true
	cfg := &config.Config{Pools: []config.Pool{{Spec: supervise.PoolSpec{Name: "web"}, Journal: true}}}
	j := &journalLines{
		inForce: func() *config.Config { return cfg },
		warn:    func(err error) { warned = append(warned, err) },
		send: func(_ string, _ journal.Priority, fields map[string]string) error {
			if refuse {
				return errors.New("refused")
			}
			got = append(got, fields)
			return nil
		},
	}
	for range 3 {
		j.line(capture.Line{Worker: "web/0", Stream: capture.Stdout, Text: []byte("text")})
	}
	refuse = false
	for range 2 {
		j.line(capture.Line{Worker: "web/0", Stream: capture.Stdout, Text: []byte("text"), Lost: 7})
	}
	cfg = &config.Config{Pools: []config.Pool{{Spec: supervise.PoolSpec{Name: "web"}}}} // reloaded
	j.line(capture.Line{Worker: "web/0", Stream: capture.Stdout, Text: []byte("text")})
	if len(warned) != 1 || len(got) != 2 || got[0]["PITVISOR_LOST_LINES"] != "3" || got[1]["PITVISOR_LOST_LINES"] != "" || got[0]["PITVISOR_LOST_BYTES"] != "7" {
		t.Errorf("warnings %v, lines %v; want one warning and 3 lines told as lost once", warned, got)
	}
}
