package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestCrashInRollouts: restarts, reloads and other sizes are under way, with a listening
// socket that the workers of both generations have. The next one listens, and has the
// pools that the file says.
func TestCrashInRollouts(t *testing.T) {
	w := newWorld(t)
	address := freePort(t)
	s := &underWay{ready: append(names("web", 2), names("api", 3)...), life: 300 * time.Millisecond}
	text := func(version string) string {
		return webConfig(t, address, version, 2, "") + strings.Replace(sleepers("api", 3), "1000", "1"+version, 1)
	}
	s.config = func(cycle int) string { return text(fmt.Sprint(100 * cycle)) }
	s.begin = func(u *upProc, cycle int) verdict {
		version := 100 * cycle
		ends := []func(){
			w.acting(func(ctx context.Context, c *api.Client) {
				asked(c.Restart(ctx, api.Selected{Select: []string{"web"}, Wait: true}))
			}),
			w.acting(func(ctx context.Context, c *api.Client) {
				size := 1 + rand.IntN(5)
				asked(c.Scale(ctx, api.Scale{Pool: "api", Size: &size, Wait: rand.IntN(2) == 0}))
			}),
			w.acting(func(ctx context.Context, c *api.Client) {
				version++
				w.config(text(fmt.Sprint(version)))
				asked(c.Reload(ctx, api.Reload{Wait: rand.IntN(2) == 0}))
			}),
		}
		return verdict{
			crashed: func(*wreck) {
				for _, dead := range ends {
					dead()
				}
			},
			gone: func(*upProc) {
				if got := askOnce(t, address); got != fmt.Sprintf("%d http", 100*(cycle+1)) {
					t.Errorf("cycle %d: it answers %q", cycle, got)
				}
				w.await(nil, s.ready...)
			},
		}
	}
	s.crash(t, w, 6)
}

// shortOfProcessors is three pools, of which each does another thing when programs wait
// for a processor. The first one makes them wait, once each of it has read a line from
// the FIFO that is filled in.
const shortOfProcessors = `
[pool.busy]
command = ["/bin/sh", "-c", "echo here; read _ <%s; exec taskset 1 /bin/sh -c 'while :; do :; done'"]
size = 3
ready.stdout = "here"
pressure = { action = "freeze", where = "run", cpu = 90, for = "3s", calm_for = "10min" }
[pool.held]
command = ["/bin/sh", "-c", "echo here; exec sleep 1000"]
size = 2
ready.stdout = "here"
backoff = { min = "1ms", max = "1ms" }
pressure = { action = "hold-starts", where = "run", cpu = 90, for = "3s", calm_for = "10min" }
[pool.shrunk]
command = ["/bin/sh", "-c", "echo here; exec sleep 1000"]
size = 4
ready.stdout = "here"
pressure = { action = "shrink", where = "run", cpu = 90, for = "3s", calm_for = "10min" }
`

// TestCrashUnderPressure: workers are frozen, held or stopped by the policies of their
// pools when the supervisor is killed. All are gone, and the next one has them all.
func TestCrashUnderPressure(t *testing.T) {
	needTriggers(t)
	linuxtest.NeedCommand(t, "taskset")
	w := newWorld(t)
	s := &underWay{life: 500 * time.Millisecond}
	s.ready = slices.Concat(names("busy", 3), names("held", 2), names("shrunk", 4))
	fifo := w.fifo("go")
	s.config = func(int) string { return fmt.Sprintf(shortOfProcessors, fifo.Name()) }
	s.begin = func(u *upProc, _ int) verdict {
		for range 3 {
			letGo(t, fifo)
		}
		u.said("workers are frozen: some programs of the run waited for cpu ", 1)
		u.said("starts are held: some programs of the run waited for cpu ", 1)
		if _, stderr, code := w.tool("kill", "held/0"); code != exitOK {
			t.Fatalf("kill = %d\n%s", code, stderr)
		}
		w.waitFor("held/0", func(x *api.Worker) bool { return x.Held })
		w.waitFor("busy/2", func(x *api.Worker) bool { return x.Frozen })
		return verdict{crashed: func(left *wreck) {
			if left.frozen < 3 {
				t.Errorf("%d cgroups were frozen at the crash, want those of three workers", left.frozen)
			}
		}}
	}
	s.crash(t, w, 2)
}
