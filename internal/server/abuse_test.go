package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

// randomCalls are calls that somebody might make, some of them nonsense.
func randomCalls(rnd *rand.Rand, n int) []string {
	targets := []string{`"web/0"`, `"web/1"`, `"web"`, `"crash"`, `"*"`, `"crash/1"`, `"web/0.1"`, `"none"`, `"4711:1"`, `""`, `"we*","crash/*"`}
	target := func() string { return targets[rnd.IntN(len(targets))] }
	kinds := []func() string{
		func() string { return "GET /v1/status" },
		func() string { return "GET /v1/status?select=web" },
		func() string { return "GET /v1/workers/web/" + strconv.Itoa(rnd.IntN(5)) },
		func() string { return "GET /v1/events?follow=false&since=" + strconv.Itoa(rnd.IntN(50)) },
		func() string { return "GET /v1/history" },
		func() string { return "GET /v1/whoami" },
		func() string { return `POST /v1/signal {"select":[` + target() + `],"signal":"CONT"}` },
		func() string { return `POST /v1/signal {"select":[` + target() + `],"signal":"KILL","all":true}` },
		func() string { return `POST /v1/kill {"select":[` + target() + `]}` },
		func() string { return `POST /v1/freeze {"select":[` + target() + `]}` },
		func() string { return `POST /v1/thaw {"select":[` + target() + `]}` },
		func() string { return `POST /v1/stop {"select":[` + target() + `]}` },
		func() string { return `POST /v1/stop {"select":[` + target() + `],"now":true}` },
		func() string { return `POST /v1/start {"select":[` + target() + `]}` },
		func() string { return `POST /v1/restart {"select":[` + target() + `]}` },
		func() string { return `POST /v1/scale {"pool":"web","size":` + strconv.Itoa(rnd.IntN(5)) + `}` },
		func() string { return `POST /v1/start {"select":[` + target() + `],"wait":true,"timeout_ns":1000000}` },
		func() string { return "POST /v1/kill {" },
		func() string {
			return "GET /v1/logs?n=" + strconv.Itoa(rnd.IntN(20)) + "&select=" + strings.Trim(target(), `"`)
		},
		func() string {
			return `POST /v1/exec {"worker":` + strings.Split(target(), ",")[0] + `,"command":["true"]}`
		},
		func() string { return `POST /v1/reload {}` },
	}
	calls := make([]string, n)
	for i := range calls {
		calls[i] = kinds[rnd.IntN(len(kinds))]()
	}
	return calls
}

// apiCalls is how many calls TestRandomCalls makes; PITVISOR_API_CALLS says another
// number.
func apiCalls(t *testing.T) int {
	text := os.Getenv("PITVISOR_API_CALLS")
	if text == "" {
		return linuxtest.Times(10_000, 400)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRandomCalls: several users call at random while workers crash. Each answer is as
// documented, strangers change nothing, and in the end every worker is back.
func TestRandomCalls(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	const readers = 54321
	data, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc object
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	argv := linuxtest.Helper(t, "exit", "3", "20ms")
	crash := supervise.PoolSpec{
		Name: "crash", Size: 3, Command: supervise.Command{Path: argv[0], Args: argv},
		Backoff: supervise.Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond},
	}
	specs := func(n int) []supervise.PoolSpec {
		web := sleepers(t, "web", 3)
		web.Command.Env = []string{fmt.Sprintf("ROUND=%d", n/20)} // now and then everybody is replaced
		web.Labels = map[string]string{"round": strconv.Itoa(n)}
		return []supervise.PoolSpec{web, crash}
	}
	_, logs := withPaper(t)
	var r *rig
	r = begin(t, func(o *Options) {
		logs(o)
		o.ReaderGID = readers
		o.Reload = func(ctx context.Context) (Reloaded, error) {
			changes, err := r.sup.Reload(ctx, specs(0))
			return Reloaded{Changes: changes}, err
		}
	}, specs(0)...)
	r.server.slow = time.Second
	r.ready("web")
	before := heap(t)
	bad := stir(r, specs)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	n := apiCalls(t)
	var group sync.WaitGroup
	users := []func(calls []string) []asked{
		func(calls []string) (all []asked) {
			for _, text := range calls {
				all = append(all, r.call(text))
			}
			return all
		},
		func(calls []string) []asked { return r.as(0, nil, calls...) },
		func(calls []string) []asked { return r.as(stranger, nil, calls...) },
		func(calls []string) []asked { return r.as(stranger, []uint32{readers}, calls...) },
	}
	for i, user := range users {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		group.Go(func() {
			for left := n / len(users); left > 0; left -= 100 { // an argument list is bounded
				calls := randomCalls(rnd, min(left, 100))
				for j, got := range user(calls) {
					checkRandom(t, doc, i >= 2, calls[j], got)
				}
			}
		})
	}
	group.Wait()
	bad.calm()
	for _, text := range []string{`POST /v1/thaw {"select":["*"]}`, `POST /v1/scale {"pool":"web","size":3}`, `POST /v1/start {"select":["*"]}`} {
		if got := r.call(text); got.Status != 200 {
			t.Errorf("%s = %+v", text, got)
		}
	}
	s, err := r.WaitFor(r.ctx(), func(s *api.Status) bool { return s.Pools[0].Ready == 3 && len(s.Workers) == 3 }, "web")
	if err != nil {
		t.Errorf("the pool did not come back: %v, %+v", err, s)
	}
	// A reader sees the end of its stream a moment before the server is through with it.
	linuxtest.Wait(t, patience, func() (bool, string) {
		r.server.lines.mu.Lock()
		defer r.server.lines.mu.Unlock()
		left := r.server.lines.readers
		return left == 0 && r.server.lines.ring == nil, fmt.Sprintf("%d streams are left", left)
	})
	linuxtest.Wait(t, patience, func() (bool, string) {
		n := r.server.readers.Load()
		return n == 0, fmt.Sprintf("%d readers of lines are left", n)
	})
	r.quiet()
	if after := heap(t); after > before+64<<20 {
		t.Errorf("the heap has %d MiB, had %d", after>>20, before>>20)
	}
}

// checkRandom holds one answer against what may come.
func checkRandom(t *testing.T, doc object, unprivileged bool, text string, got asked) {
	method, rest, _ := strings.Cut(text, " ")
	path, _, _ := strings.Cut(rest, " ")
	path, _, _ = strings.Cut(path, "?")
	if strings.HasPrefix(path, "/v1/workers/") {
		path = "/v1/workers/{pool}/{slot}"
	}
	if err := documented(doc, method, path, got); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	if unprivileged && method == "POST" && got.Status != 403 && got.Status != 429 {
		t.Errorf("%s by somebody who may not = %d", text, got.Status)
	}
}

// subscribe opens n streams, and returns how many events each has read so far.
func subscribe(tb testing.TB, socket string, n int) (counts func() []int, stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	got := make([]int, n)
	var mu sync.Mutex
	var group, begun sync.WaitGroup
	for i := range n {
		begun.Add(1)
		group.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://pitvisor/v1/events?since=0", nil)
			transport := unixTransport(socket)
			defer transport.CloseIdleConnections()
			resp, err := transport.RoundTrip(req)
			begun.Done()
			if err != nil {
				tb.Errorf("stream %d: %v", i, err)
				return
			}
			defer resp.Body.Close()
			buf := make([]byte, 16<<10)
			for {
				n, err := resp.Body.Read(buf)
				mu.Lock()
				got[i] += strings.Count(string(buf[:n]), "\n")
				mu.Unlock()
				if err != nil {
					if err != io.EOF && ctx.Err() == nil {
						tb.Errorf("stream %d: %v", i, err)
					}
					return
				}
			}
		})
	}
	begun.Wait()
	return func() []int {
			mu.Lock()
			defer mu.Unlock()
			return append([]int(nil), got...)
		}, func() {
			cancel()
			group.Wait()
		}
}

// TestThousandSubscribers: every one of them gets every event.
func TestThousandSubscribers(t *testing.T) {
	const streams, events = 1000, 500
	b := beginBare(t, 0)
	counts, stop := subscribe(t, b.socket, streams)
	defer stop()
	for range events / 10 {
		b.sup.happen(10)
	}
	linuxtest.Wait(t, 4*patience, func() (bool, string) {
		for i, n := range counts() {
			if n < events {
				return false, fmt.Sprintf("stream %d has %d events", i, n)
			}
		}
		return true, ""
	})
}

// BenchmarkStarts scales a pool up by 50 workers, with nobody and with a thousand
// subscribers. Readers and supervisor share the processors.
func BenchmarkStarts(b *testing.B) {
	for _, streams := range []int{0, 1000} {
		b.Run(strconv.Itoa(streams), func(b *testing.B) {
			pool := sleepers(b, "web", 1)
			pool.Stop = supervise.Stop{} // killed at once
			r := begin(b, nil, pool)
			r.ready()
			_, stop := subscribe(b, r.socket, streams)
			defer stop()
			one, many := 1, 51
			var cpu time.Duration // ours, which tells more than the clock on a machine with others
			for b.Loop() {
				before := cpuTime(b)
				if _, err := r.Scale(context.Background(), api.Scale{Pool: "web", Size: &many, Wait: true}); err != nil {
					b.Fatal(err)
				}
				cpu += cpuTime(b) - before
				b.StopTimer()
				if _, err := r.Scale(context.Background(), api.Scale{Pool: "web", Size: &one, Wait: true}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this process has used of processors.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStatus asks for ten thousand workers over the socket: the bytes alone, and
// decoded by the client.
func BenchmarkStatus(b *testing.B) {
	r := begin(b, func(o *Options) {
		many := &fake{}
		for i := range 10_000 {
			many.workers = append(many.workers, supervise.WorkerStatus{
				Worker: supervise.WorkerID{Pool: "web", Slot: i}, State: supervise.StateUp, Ready: true, Start: 3, PID: 10_000 + i, Port: 30_000 + i%30_000,
				Since: time.Now(),
			})
		}
		o.Supervisor = stub{many}
	}, sleepers(b, "web", 1))
	b.Run("bytes", func(b *testing.B) {
		transport := unixTransport(r.socket)
		transport.DisableKeepAlives = false
		defer transport.CloseIdleConnections()
		before := cpuTime(b)
		for b.Loop() {
			req, _ := http.NewRequest(http.MethodGet, "http://pitvisor/v1/status", nil)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			if err != nil || n < 1e6 {
				b.Fatal(n, err)
			}
			_ = resp.Body.Close()
		}
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	})
	b.Run("decoded", func(b *testing.B) {
		before := cpuTime(b)
		for b.Loop() {
			s, err := r.Status(context.Background())
			if err != nil || len(s.Workers) != 10_000 {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	})
}
