package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestLogsByTheSupervisor: a member of the reading group, who may not read the files,
// is told by the supervisor; others are not.
func TestLogsByTheSupervisor(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	w := newWorld(t)
	public(t, w.dir)
	u := w.up(w.config(`[api]
group = "54321"
[pool.web]
command = ["sh", "-c", "echo hello from $PITVISOR_WORKER; echo bad >&2; exec sleep 600"]
size = 2
[pool.web.ready]
stdout = "hello"
`))
	u.ready("web/0", "web/1")
	if err := os.Chmod(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := w.socket()
	as := func(groups []uint32, args ...string) *exec.Cmd {
		argv := append(w.argv("logs", "--socket", socket), args...)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533, Groups: groups}}
		return cmd
	}
	run := func(groups []uint32, args ...string) (stdout, stderr string, code int) {
		cmd := as(groups, args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the exit code tells
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	readers := []uint32{54321}
	if out, errs, code := run(readers, "--stream", "stdout", "web/1"); out != "web/1 | hello from web/1\n" || code != 0 || errs != "" {
		t.Errorf("logs = %d, %q, %q", code, out, errs)
	}
	if out, errs, code := run(readers, "--socket", "", "--run", "pitvisor", "--stream", "stdout", "web/1"); out != "web/1 | hello from web/1\n" || code != 0 || errs != "" {
		t.Errorf("logs --run = %d, %q, %q", code, out, errs)
	}
	if out, _, code := run(readers, "--json", "-n", "1", "--stream", "stderr"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"message":"bad"`) || code != 0 {
		t.Errorf("logs --json = %d, %q", code, out)
	}
	if out, errs, code := run(readers, "none"); out != "" || code == 0 || !strings.Contains(errs, `no worker fits "none"`) {
		t.Errorf("logs none = %d, %q, %q", code, out, errs)
	}
	if out, errs, code := run(nil); out != "" || code != exitUnknown || !strings.Contains(errs, "may not use GET /v1/logs") {
		t.Errorf("a stranger's = %d, %q, %q", code, out, errs)
	}
	cmd := as(readers, "-f", "-n", "2", "--stream", "stderr")
	read, write := pipe(t)
	defer func() { _ = read.Close() }()
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	lines := bufio.NewReader(read)
	for range 2 {
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasSuffix(line, "bad\n") {
			t.Fatalf("line %q, %v", line, err)
		}
	}
	u.send(unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the follower: %v", err)
	}
	if code := u.wait(); code != 0 {
		t.Errorf("exit code = %d", code)
	}
}
