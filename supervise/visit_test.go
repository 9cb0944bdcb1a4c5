package supervise

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
)

// visit prepares a visit that is closed at the end of the test.
func (r *rig) visit(id WorkerID) *Visit {
	r.Helper()
	v, err := r.Visit(id, 0)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { r.leave(v) })
	return v
}

func (r *rig) leave(v *Visit) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := v.Close(ctx); err != nil {
		r.Error(err)
	}
}

// guest runs a script as a guest. out is what it prints.
func (r *rig) guest(v *Visit, script string, env ...string) (p *spawn.Process, out io.Reader) {
	r.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = read.Close() })
	p, err = v.Exec(VisitCommand{Args: []string{"sh", "-c", script}, Env: env, Stdout: write, Stderr: os.Stderr})
	_ = write.Close()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL) // it may have ended
		_, _ = p.Wait(context.Background())
		_ = p.Close()
	})
	return p, read
}

func (r *rig) ended(p *spawn.Process) spawn.Exit {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	exit, err := p.Wait(ctx)
	if err != nil {
		r.Fatal(err)
	}
	return exit
}

// TestVisit: a guest has what the worker has, and is nothing of the worker's.
func TestVisit(t *testing.T) {
	linuxtest.NeedClone3(t)
	web := sleeper("web", 2)
	web.Command.Env = []string{"PATH=" + os.Getenv("PATH"), "WHO={worker}", "LANG=C"}
	web.Command.Dir = "/usr"
	r := begin(t, web)
	r.await("ready", 1, kind(EventReady, "web/1"))
	v, err := r.Visit(WorkerID{"web", 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	p, out := r.guest(v, `echo $WHO $PITVISOR_START $LANG $MORE; pwd; cat /proc/self/cgroup; sleep 600 & exit 3`, "LANG=en", "MORE=x")
	if exit := r.ended(p); exit.Code != 3 {
		t.Errorf("ended with %v", exit)
	}
	if all, _ := r.members("web/1"); len(all) != 2 {
		t.Errorf("processes in the leaf: %v, want the worker and what the guest has left", all)
	}
	r.leave(v)
	said, err := io.ReadAll(out) // until the last process that had it is gone
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(said), "web/1 1 en x\n/usr\n") || !strings.Contains(string(said), "/web/1.1/guest-1\n") {
		t.Errorf("said %q", said)
	}
	if all, _ := r.members("web/1"); len(all) != 1 {
		t.Errorf("processes in the leaf afterwards: %v", all)
	}
	if s := r.Status()[1]; s.State != StateUp || s.Start != 1 {
		t.Errorf("the worker is %+v", s)
	}
}

// TestVisitEnds with the worker's start, and is not counted as left behind by it.
func TestVisitEnds(t *testing.T) {
	linuxtest.NeedClone3(t)
	r := begin(t, sleeper("web", 1))
	r.await("ready", 1, kind(EventReady))
	v := r.visit(WorkerID{"web", 0})
	p, out := r.guest(v, `echo here; exec sleep 600`)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "here\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	if _, err := r.Signal(t.Context(), only("web/0"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := r.ended(p); exit.Signal != unix.SIGKILL {
		t.Errorf("the guest ended with %v", exit)
	}
	e := r.await("exited", 1, kind(EventExited))[0]
	if e.Leftover != 0 {
		t.Errorf("left behind: %d", e.Leftover)
	}
	if _, err := r.Visit(WorkerID{"web", 0}, 1); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a visit to start 1 = %v", err)
	}
	if _, err := r.Visit(WorkerID{"web", 1}, 0); !errors.Is(err, ErrNoMatch) {
		t.Errorf("a visit to nobody = %v", err)
	}
}

// TestVisitOfALeaf: a worker with TrackLeaf ends when its own processes have, though a
// guest is still there; and not before.
func TestVisitOfALeaf(t *testing.T) {
	linuxtest.NeedClone3(t)
	for name, script := range map[string]string{
		"daemon first": `sleep 600 & exit 0`, // the main process ends long before
		"main alone":   `exec sleep 600`,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			spec := sh("web", 1, script)
			spec.Track, spec.Restart = TrackLeaf, RestartNever
			r := begin(t, spec)
			main := r.await("ready", 1, kind(EventReady))[0].PID
			if name == "daemon first" {
				linuxtest.Wait(t, patience, func() (bool, string) {
					_, there := linuxtest.Identify(main)
					return !there, "the main process is still there"
				})
			}
			v := r.visit(WorkerID{"web", 0})
			p, out := r.guest(v, `echo here; exec sleep 600`)
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "here\n" {
				t.Fatalf("said %q, %v", line, err)
			}
			pids, err := v.leaf.Residents()
			if err != nil || len(pids) == 0 {
				t.Fatalf("residents %v, %v", pids, err)
			}
			if status := r.Status()[0]; status.State != StateUp {
				t.Errorf("it is %v", status.State)
			}
			for _, pid := range pids {
				r.kill(pid, unix.SIGKILL)
			}
			r.await("given up", 1, kind(EventGaveUp))
			if exit := r.ended(p); exit.Signal != unix.SIGKILL {
				t.Errorf("the guest ended with %v", exit)
			}
		})
	}
}
