package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

func TestStatus(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 3), sleepers(t, "job", 1))
	s := r.ready()
	if len(s.Workers) != 4 || len(s.Pools) != 2 || !reflect.DeepEqual(s.Pools[0], api.Pool{Name: "web", Size: 3, Up: 3, Ready: 3}) {
		t.Errorf("status = %+v", s)
	}
	if s.Run.ID != r.run.ID().String() || s.Run.Name != "test" || s.Run.Config != "/etc/test.toml" || s.Run.Cgroup != r.run.Dir().Path() {
		t.Errorf("run = %+v", s.Run)
	}
	for _, c := range []struct {
		selector string
		want     int
	}{{"web", 3}, {"web/1", 1}, {"web/*", 3}, {"*", 4}, {"j*", 1}, {"web/[01]", 2}, {"web/2.1", 1}, {"w?b/2", 1}} {
		got, err := r.Status(r.ctx(), c.selector)
		if err != nil || len(got.Workers) != c.want {
			t.Errorf("Status(%s) = %+v, %v, want %d workers", c.selector, got, err, c.want)
		}
		if err == nil && strings.HasPrefix(c.selector, "web") && !reflect.DeepEqual(got.Pools, s.Pools[:1]) {
			t.Errorf("Status(%s) has pools %+v, want %+v: a pool is summed up as a whole", c.selector, got.Pools, s.Pools[:1])
		}
	}
	for selector, want := range map[string]*api.Error{
		"wbe":     {Status: 404, Code: api.CodeNotFound},
		"web/9":   {Status: 404, Code: api.CodeNotFound},
		"web/1.2": {Status: 409, Code: api.CodeConflict},
		"4711":    {Status: 400, Code: api.CodeBadRequest},
		"a/b/c":   {Status: 400, Code: api.CodeBadRequest},
		"web/[":   {Status: 400, Code: api.CodeBadRequest},
		"web/1.x": {Status: 400, Code: api.CodeBadRequest},
		"1:x":     {Status: 400, Code: api.CodeBadRequest},
	} {
		_, err := r.Status(r.ctx(), selector)
		var e *api.Error
		if !errors.Is(err, want) || !errors.As(err, &e) || e.Cure == "" {
			t.Errorf("Status(%s) = %v, want %+v with a cure", selector, err, want)
		}
	}
	_, err := r.Status(r.ctx(), "wbe")
	if !strings.Contains(err.Error(), `"wbe"`) || !strings.Contains(err.(*api.Error).Cure, `"web"`) {
		t.Errorf("a typing error gives %q, %q", err, err.(*api.Error).Cure)
	}
}

// TestEmptyPool: a pool that has nobody is there, and may be asked about.
func TestEmptyPool(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 2), sleepers(t, "job", 1))
	r.ready()
	none := 0
	if _, err := r.Scale(r.ctx(), api.Scale{Pool: "web", Size: &none, Wait: true}); err != nil {
		t.Fatal(err)
	}
	for _, selector := range []string{"web", "w*", "web/*"} {
		if s, err := r.Status(r.ctx(), selector); err != nil || len(s.Workers) != 0 || !reflect.DeepEqual(s.Pools, []api.Pool{{Name: "web"}}) {
			t.Errorf("status of %s = %+v, %v", selector, s, err)
		}
	}
	if s, err := r.Status(r.ctx(), "*"); err != nil || len(s.Workers) != 1 || len(s.Pools) != 2 {
		t.Errorf("status of all = %+v, %v", s, err)
	}
	for _, selector := range []string{"web/0", "web.1"} {
		if s, err := r.Status(r.ctx(), selector); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("status of %s = %+v, %v", selector, s, err)
		}
	}
	_, err := r.Stop(r.ctx(), api.Stop{Selected: api.Selected{Select: []string{"web"}}})
	var e *api.Error
	if !errors.As(err, &e) || e.Status != 404 || e.Cause != `pool "web" has no workers` || !strings.Contains(e.Cure, "pitvisor scale web=1") {
		t.Errorf("stop = %+v", err)
	}
}

func TestInspect(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 2))
	r.ready()
	in, err := r.Inspect(r.ctx(), "web/1")
	if err != nil {
		t.Fatal(err)
	}
	if in.Worker.Worker != "web/1" || in.Command.Path != "/bin/web" || in.Leaf == nil || len(in.Processes) != 1 {
		t.Fatalf("inspection = %+v", in)
	}
	if p := in.Processes[0]; p.PID != in.Worker.PID || p.Name == "" {
		t.Errorf("process = %+v, worker %+v", p, in.Worker)
	}
	if !strings.HasSuffix(in.Leaf.Path, "/web/1.1") || in.Leaf.CPUNanoseconds == nil {
		t.Errorf("leaf = %+v", in.Leaf)
	}
	var kinds []string
	for _, e := range in.Events {
		kinds = append(kinds, e.Kind)
		if e.Worker != "web/1" {
			t.Errorf("event of another: %+v", e)
		}
	}
	if got := strings.Join(kinds, " "); got != "starting up ready" {
		t.Errorf("events = %s", got)
	}
	for _, path := range []string{"/v1/workers/web/2", "/v1/workers/none/0"} {
		refused(t, r.call("GET "+path), 404, api.CodeNotFound)
	}
	for _, path := range []string{"/v1/workers/web/-1", "/v1/workers/web/x"} {
		refused(t, r.call("GET "+path), 400, api.CodeBadRequest)
	}
}

// TestWrongCalls: what is not understood is refused, with the way out.
func TestWrongCalls(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	for text, want := range map[string]int{
		"GET /v1/statsu":                                    404,
		"GET /":                                             404,
		"GET /v1/workers/web":                               404,
		"POST /v1/status {}":                                405,
		"DELETE /v1/events":                                 405,
		"GET /v1/kill":                                      405,
		"GET /v1/status?selct=web":                          400,
		"GET /v1/status?a=%zz":                              400,
		"GET /v1/events?since=-1":                           400,
		"GET /v1/events?since=1&since=2":                    400,
		"GET /v1/events?since=99999":                        409,
		"GET /v1/events?kind=redy":                          400,
		"GET /v1/events?follow=maybe":                       400,
		"GET /v1/history?limit=0":                           400,
		"POST /v1/kill {}":                                  400,
		"POST /v1/kill":                                     400,
		"POST /v1/kill {\"select\":[\"web\"]} x":            400,
		"POST /v1/kill {\"select\":[\"web\"],\"now\":true}": 400,
		"POST /v1/kill {\"select\":[\"web\"],\"signal\":\"HUP\"}":             400,
		"POST /v1/signal {\"select\":[\"web\"],\"signal\":\"HOPP\"}":          400,
		"POST /v1/signal {\"select\":[\"web/7\"],\"signal\":\"HUP\"}":         404,
		"POST /v1/kill {\"select\":[\"" + strings.Repeat("x", 70000) + "\"]}": 413,
		"GET /metrics": 404,
	} {
		code := map[int]string{404: api.CodeNotFound, 409: api.CodeConflict}[want]
		if code == "" {
			code = api.CodeBadRequest
		}
		got := r.call(text)
		refused(t, got, want, code)
		if t.Failed() {
			t.Fatalf("call was %.200s", text)
		}
	}
	req, _ := http.NewRequest("POST", "http://pitvisor/v1/kill", strings.NewReader(`{"select":["web"]}`))
	transport := unixTransport(r.socket)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil || resp.StatusCode != 415 {
		t.Errorf("without Content-Type: %v, %v, want 415", resp, err)
	}
	_ = resp.Body.Close()
}

// TestRights: who may do what, by the kernel's word.
func TestRights(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	const readers = 54321
	r := begin(t, func(o *Options) { o.ReaderGID = readers }, sleepers(t, "web", 1))
	r.ready()
	calls := []string{"GET /v1/whoami", "GET /v1/status", `POST /v1/signal {"select":["web"],"signal":"CONT"}`, "GET /v1/nothing"}
	roles := func(got []asked) (role string) {
		var c api.Caller
		if err := json.Unmarshal([]byte(got[0].Body), &c); err != nil || got[0].Status != 200 {
			t.Errorf("whoami = %+v", got[0])
		}
		return c.Role
	}
	got := r.as(0, nil, calls...)
	if roles(got) != roleOwner || got[1].Status != 200 || got[2].Status != 200 || got[3].Status != 404 {
		t.Errorf("root gets %+v", got)
	}
	got = r.as(stranger, []uint32{readers}, calls...)
	if roles(got) != roleReader || got[1].Status != 200 || got[3].Status != 404 {
		t.Errorf("a reader gets %+v", got)
	}
	refused(t, got[2], 403, api.CodeForbidden)
	got = r.as(stranger, nil, calls...)
	if roles(got) != roleStranger {
		t.Errorf("a stranger gets %+v", got[0])
	}
	for _, a := range got[1:] {
		if e := refused(t, a, 403, api.CodeForbidden); !strings.HasSuffix(e.Cure, "as a member of group 54321") || !strings.Contains(e.Cause, "uid 65533") {
			t.Errorf("a stranger is told %+v", e)
		}
	}
}

// TestWorkersTalkAboutTheirOwnRun: a worker is known by its cgroup, whatever its
// number; the same program outside of the run is a stranger.
func TestWorkersTalkAboutTheirOwnRun(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	linuxtest.NeedKernel(t, 6, 5, "SO_PEERPIDFD")
	file := filepath.Join(publicDir(t), "answers")
	calls := []string{"GET /v1/whoami", "GET /v1/status", `POST /v1/kill {"select":["*"]}`, "GET /v1/history?limit=1"}
	pool := func(tb testing.TB, socket string) supervise.PoolSpec {
		argv := linuxtest.Helper(tb, "ask", append([]string{socket, file, "stay"}, calls...)...)
		return supervise.PoolSpec{Name: "own", Size: 1, Command: supervise.Command{
			Path: argv[0], Args: argv, Credential: &spawn.Credential{UID: stranger, GID: stranger},
		}}
	}
	socket := filepath.Join(publicDir(t), "own.sock")
	r := beginAt(t, socket, func(o *Options) {
		own := o.Run.ID().String()
		o.History = func(limit int) ([]api.Record, error) {
			all := []api.Record{{Run: own, Kind: "first"}, {Run: own, Kind: "second"}, {Run: "of somebody else", Kind: "third"}}
			return all[max(0, len(all)-cmp.Or(limit, len(all))):], nil
		}
	}, pool(t, socket))
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, err := os.Stat(file)
		return err == nil, "the worker has not asked yet"
	})
	got := readAsked(t, file)
	var who api.Caller
	if err := json.Unmarshal([]byte(got[0].Body), &who); err != nil || who.Role != roleWorker || who.Worker != "own/0" || who.UID != stranger {
		t.Errorf("whoami = %+v", got[0])
	}
	if got[1].Status != 200 {
		t.Errorf("status = %+v", got[1])
	}
	refused(t, got[2], 403, api.CodeForbidden)
	var kept api.History
	if err := json.Unmarshal([]byte(got[3].Body), &kept); err != nil || len(kept.Records) != 1 || kept.Records[0].Kind != "second" {
		t.Errorf("history = %+v, want the newest record of its own run", got[3])
	}
	refused(t, r.as(stranger, nil, "GET /v1/status")[0], 403, api.CodeForbidden)

	// A worker of another run is a stranger here.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	other := beginAt(t, filepath.Join(publicDir(t), "other.sock"), nil, pool(t, socket))
	linuxtest.Wait(t, patience, func() (bool, string) {
		_, err := os.Stat(file)
		return err == nil, "the worker has not asked yet"
	})
	refused(t, readAsked(t, file)[1], 403, api.CodeForbidden)
	other.ready()
}

func TestSignal(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 2))
	s := r.ready()
	done, err := r.Signal(r.ctx(), api.Action{Select: []string{"web/0"}, Signal: "KILL"})
	if err != nil || len(done.Workers) != 1 || done.Workers[0] != (api.Outcome{Worker: "web/0", Start: 1, Processes: 1}) {
		t.Fatalf("signal = %+v, %v", done, err)
	}
	after, err := r.WaitFor(r.ctx(), func(s *api.Status) bool { return s.Workers[0].Start == 2 && s.Workers[0].Ready })
	if err != nil {
		t.Fatal(err)
	}
	if after.Workers[1].PID != s.Workers[1].PID || after.Workers[1].Start != 1 {
		t.Errorf("the other worker was touched: %+v", after.Workers[1])
	}
	// The start that has ended is not taken for the one that runs.
	_, err = r.Kill(r.ctx(), api.Action{Select: []string{"web/0.1"}})
	if !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("kill of an earlier start = %v", err)
	}
	if end := firstExit(r, "web/0"); end == nil || end.Signal != "SIGKILL" {
		t.Errorf("exit = %+v", end)
	}
}

// firstExit is how the first start of a worker ended.
func firstExit(r *rig, worker string) *api.Exit {
	for e, err := range r.Events(r.ctx(), api.EventOptions{All: true, NoWait: true, Select: []string{worker}}) {
		if err != nil {
			r.Fatal(err)
		}
		if e.Exit != nil {
			return e.Exit
		}
	}
	return nil
}

// TestProcessesAreNamedWithTheirInode: PID:INODE selects the very process, and one
// with the same number that is another does not.
func TestProcessesAreNamedWithTheirInode(t *testing.T) {
	linuxtest.NeedPidfs(t)
	r := begin(t, nil, sleepers(t, "web", 1))
	pid := r.ready().Workers[0].PID
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	wrong := id
	wrong.Inode++
	done, err := r.Signal(r.ctx(), api.Action{Select: []string{wrong.String()}, Signal: "KILL"})
	if err != nil || done.Workers[0].Error == "" || done.Workers[0].Processes != 0 {
		t.Errorf("signal to %s = %+v, %v, want it refused", wrong, done, err)
	}
	if exited, err := p.Exited(); err != nil || exited {
		t.Fatalf("it has ended: %v", err)
	}
	if s, err := r.Status(r.ctx(), id.String()); err != nil || len(s.Workers) != 1 {
		t.Errorf("status of %s = %+v, %v", id, s, err)
	}
	if s, err := r.Status(r.ctx(), wrong.String()); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("status of %s = %+v, %v, want it refused", wrong, s, err)
	}
	for _, path := range []string{"/v1/events", "/v1/history"} {
		refused(t, r.call("GET "+path+"?select="+id.String()), 400, api.CodeBadRequest)
	}
	done, err = r.Signal(r.ctx(), api.Action{Select: []string{id.String()}, Signal: "KILL"})
	if err != nil || done.Workers[0].Error != "" {
		t.Errorf("signal to %s = %+v, %v", id, done, err)
	}
	if err := p.Wait(r.ctx()); err != nil {
		t.Error(err)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	r := begin(t, nil, sleepers(t, "web", 2))
	r.ready()
	action := api.Action{Select: []string{"web/1"}}
	done, err := r.Freeze(r.ctx(), action)
	if err != nil || done.Workers[0].Error != "" || done.Workers[0].Processes != 1 {
		t.Fatalf("freeze = %+v, %v", done, err)
	}
	in, err := r.Inspect(r.ctx(), "web/1")
	if err != nil || !in.Leaf.Frozen || !in.Worker.Frozen {
		t.Errorf("inspect of a frozen worker = %+v, %v", in, err)
	}
	if s, err := r.Status(r.ctx()); err != nil || s.Workers[0].Frozen || !s.Workers[1].Frozen {
		t.Errorf("status = %+v, %v", s, err)
	}
	if done, err = r.Thaw(r.ctx(), action); err != nil || done.Workers[0].Error != "" {
		t.Fatalf("thaw = %+v, %v", done, err)
	}
	if in, err := r.Inspect(r.ctx(), "web/1"); err != nil || in.Leaf.Frozen || in.Worker.Frozen {
		t.Errorf("inspect of a thawed worker = %+v, %v", in, err)
	}
	// What is frozen can be killed, and its next start is not frozen.
	if _, err = r.Freeze(r.ctx(), action); err != nil {
		t.Fatal(err)
	}
	if done, err = r.Kill(r.ctx(), action); err != nil || done.Workers[0].Error != "" {
		t.Fatalf("kill = %+v, %v", done, err)
	}
	s, err := r.WaitFor(r.ctx(), func(s *api.Status) bool { return s.Workers[1].Start == 2 && s.Workers[1].Ready })
	if err != nil || s.Workers[1].Frozen {
		t.Errorf("the next start = %+v, %v", s, err)
	}
}

// TestActionsNeedAProcess: a worker without one says so, and does not hold up others.
func TestActionsNeedAProcess(t *testing.T) {
	argv := linuxtest.Helper(t, "exit", "0")
	done := supervise.PoolSpec{Name: "done", Size: 1, Restart: supervise.RestartNever, Command: supervise.Command{Path: argv[0], Args: argv}}
	r := begin(t, nil, done, sleepers(t, "web", 1))
	if _, err := r.WaitFor(r.ctx(), func(s *api.Status) bool { return s.Workers[0].State == api.StateCompleted && s.Workers[1].Ready }); err != nil {
		t.Fatal(err)
	}
	out, err := r.Signal(r.ctx(), api.Action{Select: []string{"*"}, Signal: "CONT", All: true})
	if err != nil || len(out.Workers) != 2 || !strings.Contains(out.Workers[0].Error, "completed") || out.Workers[1].Error != "" {
		t.Errorf("signal = %+v, %v", out, err)
	}
}

// TestToken: TCP is open only for who has the token.
func TestToken(t *testing.T) {
	for _, c := range []struct {
		token, sent string
		want        int
	}{{"", "", 401}, {"", "x", 401}, {"secret", "", 401}, {"secret", "secre", 401}, {"secret", "secret", 200}} {
		r := begin(t, func(o *Options) { o.Token = c.token }, sleepers(t, "web", 1))
		r.ready()
		client, stop := r.tcp()
		client.Token = c.sent
		_, err := client.Status(r.ctx())
		var e *api.Error
		switch {
		case c.want == 200 && err != nil:
			t.Errorf("token %q sent as %q: %v", c.token, c.sent, err)
		case c.want != 200 && (!errors.As(err, &e) || e.Status != c.want || e.Code != api.CodeToken):
			t.Errorf("token %q sent as %q: %v, want %d", c.token, c.sent, err, c.want)
		}
		stop()
	}
}

// TestTooFast: one user who calls without end is slowed down, and others are not.
func TestTooFast(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	r := begin(t, nil, sleepers(t, "web", 1))
	r.ready()
	many := make([]string, callsOfOther*burst+50)
	for i := range many {
		many[i] = "GET /v1/whoami"
	}
	got := r.as(stranger, nil, many...)
	limited := 0
	for _, a := range got {
		if a.Status == 429 {
			refused(t, a, 429, api.CodeTooMany)
			limited++
		}
	}
	// A slow machine makes the calls slower than the bound: then nothing is to be limited.
	t.Logf("%d of %d calls were refused", limited, len(got))
	g := newGate(func(uid int) bool { return uid == 0 })
	now := r.run.Info().Started
	for i := range callsOfOther*burst + 1 {
		if err := g.call(7, now); (err != nil) != (i == callsOfOther*burst) {
			t.Fatalf("call %d at once = %v", i, err)
		}
	}
	if err := g.call(8, now); err != nil {
		t.Errorf("another user: %v", err)
	}
	if err := g.call(0, now); err != nil {
		t.Errorf("root: %v", err)
	}
}

// TestTooManyConnections: one user cannot take all descriptors.
func TestTooManyConnections(t *testing.T) {
	g := newGate(func(uid int) bool { return uid == 0 })
	for i := range connsOfOther + 1 {
		if err := g.enter(7); (err != nil) != (i == connsOfOther) {
			t.Fatalf("connection %d = %v", i, err)
		}
	}
	if err := g.enter(0); err != nil {
		t.Error(err)
	}
	g.leave(7)
	if err := g.enter(7); err != nil {
		t.Error(err)
	}
}

func TestUsersAreForgotten(t *testing.T) {
	g := newGate(func(uid int) bool { return false })
	r := begin(t, nil, sleepers(t, "web", 1))
	now := r.run.Info().Started
	for uid := range 5 * maxUsers {
		if err := g.call(uid, now); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.rates) > maxUsers {
		t.Errorf("%d users are remembered", len(g.rates))
	}
	r.ready()
}

// tcp serves on a port as well.
func (r *rig) tcp() (*api.Client, func()) {
	l := listenTCP(r.TB)
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	c := api.NewClient("http://" + l.Addr().String())
	return c, func() {
		c.Close()
		_ = l.Close()
		<-served
	}
}
