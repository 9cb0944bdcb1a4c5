package server

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/supervise"
)

func size(n int) *int { return &n }

// TestLifecycle: stop, start, restart and scale of real workers, each waited for.
func TestLifecycle(t *testing.T) {
	web := sleepers(t, "web", 2)
	web.Labels = map[string]string{"env": "prod"}
	r := begin(t, nil, web, sleepers(t, "job", 1))
	before := r.ready()

	changed, err := r.Stop(r.ctx(), api.Stop{Selected: api.Selected{Select: []string{"web/1"}, Wait: true}})
	if err != nil || !slices.Equal(changed.Workers, []string{"web/1"}) {
		t.Fatalf("stop = %+v, %v", changed, err)
	}
	s, err := r.Status(r.ctx(), "web")
	if err != nil || s.Workers[1].State != api.StateDown || !s.Workers[1].Stopped || s.Workers[0].State != api.StateUp {
		t.Errorf("after the stop: %+v, %v", s, err)
	}

	if changed, err = r.Start(r.ctx(), api.Selected{Select: []string{"env=prod"}, Wait: true}); err != nil || len(changed.Workers) != 2 {
		t.Fatalf("start = %+v, %v", changed, err)
	}
	s, err = r.Status(r.ctx(), "web")
	if err != nil || !s.Workers[1].Ready || s.Workers[1].Start != 2 || s.Workers[0].PID != before.Workers[0].PID {
		t.Errorf("after the start: %+v, %v", s, err)
	}

	changed, err = r.Restart(r.ctx(), api.Selected{Select: []string{"web"}, Wait: true})
	if err != nil || len(changed.Rollouts) != 1 || changed.Rollouts[0].Pool != "web" || changed.Rollouts[0].Error != "" {
		t.Fatalf("restart = %+v, %v", changed, err)
	}
	s, err = r.Status(r.ctx())
	if err != nil || s.Workers[len(s.Workers)-1].PID != before.Workers[2].PID {
		t.Errorf("the other pool was touched: %+v, %v", s, err)
	}
	for _, w := range s.Workers[:2] {
		if !w.Ready || w.PID == before.Workers[0].PID || w.PID == before.Workers[1].PID {
			t.Errorf("after the restart: %+v", w)
		}
	}

	for _, n := range []int{4, 0, 1} {
		if changed, err = r.Scale(r.ctx(), api.Scale{Pool: "web", Size: size(n), Wait: true}); err != nil || !slices.Equal(changed.Scaled, []string{"web"}) {
			t.Fatalf("scale to %d = %+v, %v", n, changed, err)
		}
		s, err = r.WaitFor(r.ctx(), func(s *api.Status) bool { return len(s.Workers) == n+1 && s.Pools[0].Ready == n })
		if err != nil || s.Pools[0].Size != n {
			t.Errorf("after scale to %d: %+v, %v", n, s, err)
		}
	}
}

// TestStopNow: without the grace.
func TestStopNow(t *testing.T) {
	web := sleepers(t, "web", 1)
	web.Stop = supervise.Stop{Signal: 18, Grace: patience} // CONT ends nobody
	r := begin(t, nil, web)
	r.ready()
	if _, err := r.Stop(r.ctx(), api.Stop{Selected: api.Selected{Select: []string{"web/0.1"}, Wait: true}, Now: true}); err != nil {
		t.Fatal(err)
	}
	s, err := r.Status(r.ctx())
	if err != nil || s.Workers[0].State != api.StateDown {
		t.Errorf("status = %+v, %v", s, err)
	}
}

// TestControlIsRefused: what cannot be done is said, and nothing is changed.
func TestControlIsRefused(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	for text, want := range map[string]int{
		`POST /v1/stop {}`:                                             400,
		`POST /v1/stop {"select":["4711:12"]}`:                         404,
		`POST /v1/stop {"select":["none"]}`:                            404,
		`POST /v1/stop {"select":["web/0.9"]}`:                         409,
		`POST /v1/stop {"select":["web"],"wait":true,"timeout_ns":-1}`: 400,
		`POST /v1/restart {"select":["web/5"]}`:                        404,
		`POST /v1/scale {"pool":"web"}`:                                400,
		`POST /v1/scale {"size":3}`:                                    400,
		`POST /v1/scale {"pool":"wbe","size":3}`:                       404,
		`POST /v1/scale {"pool":"we*","size":3}`:                       404,
		`POST /v1/reload {}`:                                           409,
		`POST /v1/reload []`:                                           400,
	} {
		code := map[int]string{404: api.CodeNotFound, 409: api.CodeConflict, 400: api.CodeBadRequest}[want]
		if refused(t, r.call(text), want, code); t.Failed() {
			t.Fatalf("call was %s", text)
		}
	}
	for _, n := range []int{-1, 1 << 30} {
		if _, err := r.Scale(r.ctx(), api.Scale{Pool: "web", Size: size(n)}); !errors.Is(err, &api.Error{Code: api.CodeBadRequest}) {
			t.Errorf("scale to %d = %v", n, err)
		}
	}
}

// TestReload passes on what the supervisor was made to do, and why not.
func TestReload(t *testing.T) {
	var fault error
	r := begin(t, func(o *Options) {
		o.Reload = func(context.Context) (Reloaded, error) {
			return Reloaded{Changes: supervise.Changes{Added: []string{"new"}, Scaled: []string{"web"}}, Sockets: true, Later: []string{"log.keep"}}, fault
		}
	}, sleepers(t, "web", 1))
	r.ready()
	changed, err := r.Reload(r.ctx(), api.Reload{})
	if err != nil || !slices.Equal(changed.Added, []string{"new"}) || !slices.Equal(changed.Scaled, []string{"web"}) ||
		!changed.Sockets || !slices.Equal(changed.Later, []string{"log.keep"}) {
		t.Errorf("reload = %+v, %v", changed, err)
	}
	fault = badRequest("mend it", "pitvisor.toml:1:1: is wrong")
	if _, err := r.Reload(r.ctx(), api.Reload{}); !errors.Is(err, &api.Error{Code: api.CodeBadRequest}) || err.Error() != "pitvisor.toml:1:1: is wrong" {
		t.Errorf("reload of a bad file = %v", err)
	}
}

// TestWaitTimesOut: the waiting ends, what was begun goes on.
func TestWaitTimesOut(t *testing.T) {
	slow := sleepers(t, "web", 1)
	slow.Stop = supervise.Stop{Signal: 18, Grace: patience}
	r := begin(t, nil, slow)
	r.ready()
	_, err := r.Stop(r.ctx(), api.Stop{Selected: api.Selected{Select: []string{"*"}, Wait: true, Timeout: time.Millisecond}})
	if !errors.Is(err, &api.Error{Code: api.CodeTimeout, Status: 504}) {
		t.Errorf("stop = %v", err)
	}
	s, err := r.Status(r.ctx())
	if err != nil || s.Workers[0].State != api.StateStopping {
		t.Errorf("status = %+v, %v", s, err)
	}
}
