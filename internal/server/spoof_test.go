package server

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestCgroupOfTheSameNameIsNoWorker: whoever has a cgroup to work in can give it the
// names of a run, a pool and a leaf. That makes nobody a worker.
func TestCgroupOfTheSameNameIsNoWorker(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	linuxtest.NeedClone3(t)
	linuxtest.NeedKernel(t, 6, 5, "SO_PEERPIDFD")
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	leaf := filepath.Join(linuxtest.Cgroup(t), r.run.Dir().Name(), "web", "0.1")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(leaf)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	file := filepath.Join(publicDir(t), "answers")
	argv := linuxtest.Helper(t, "ask", r.socket, file, "go", "GET /v1/whoami", "GET /v1/status")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: stranger, Gid: stranger},
		UseCgroupFD: true, CgroupFD: int(dir.Fd()),
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ask: %v\n%s", err, out)
	}
	got := readAsked(t, file)
	var who api.Caller
	if err := json.Unmarshal([]byte(got[0].Body), &who); err != nil || who.Role != roleStranger {
		t.Errorf("whoami = %+v", got[0])
	}
	refused(t, got[1], 403, api.CodeForbidden)
}
