package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// paper is a run's output that the test itself writes.
type paper struct {
	testing.TB
	dir string
}

// withPaper gives a server the output of its run.
func withPaper(tb testing.TB) (*paper, func(*Options)) {
	p := &paper{TB: tb}
	return p, func(o *Options) {
		p.dir = filepath.Join(tb.TempDir(), o.Run.ID().String())
		if err := os.MkdirAll(p.dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		o.Logs = p.dir
	}
}

// print appends to a stream, as a worker does.
func (p *paper) print(worker, stream, text string) {
	p.Helper()
	pool, slot, _ := strings.Cut(worker, "/")
	n := 0
	if _, err := fmt.Sscan(slot, &n); err != nil {
		p.Fatal(err)
	}
	dir := filepath.Join(p.dir, pool)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, logfile.LiveName(n, stream)), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		p.Fatal(err)
	}
}

// said are the lines of a query as "worker stream text".
func (r *rig) said(o api.LogOptions) []string {
	r.Helper()
	var all []string
	for l, err := range r.Logs(r.ctx(), o) {
		if err != nil {
			r.Fatalf("%+v: %v", o, err)
		}
		all = append(all, fmt.Sprintf("%s %s %s", l.Worker(), l.Stream, l.Text()))
	}
	return all
}

// TestLogs: selection, streams, the newest, times, and any bytes.
func TestLogs(t *testing.T) {
	p, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 2))
	r.ready()
	p.print("web/0", "stdout", "one\ntwo\n")
	p.print("web/1", "stderr", "bad\n")
	p.print("old/0", "stdout", "gone\nnot finished")
	p.print("bin/0", "stdout", "\xff\x00\x01\n")
	if got := r.said(api.LogOptions{Select: []string{"web"}}); !slices.Equal(got, []string{"web/0 stdout one", "web/0 stdout two", "web/1 stderr bad"}) {
		t.Errorf("of web: %q", got)
	}
	for want, o := range map[string]api.LogOptions{
		"[web/1 stderr bad]":                            {Stream: "stderr"},
		"[web/0 stdout two web/1 stderr bad]":           {Select: []string{"web"}, Tail: 2},
		"[old/0 stdout gone old/0 stdout not finished]": {Select: []string{"old/*"}},
		"[bin/0 stdout \xff\x00\x01]":                   {Select: []string{"bin/0"}},
		"[]":                                            {Since: time.Now().Add(time.Hour)},
		"[web/0 stdout one web/0 stdout two]":           {Select: []string{"web/0"}, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)},
		"[] ":                                           {Until: time.Now().Add(-time.Hour)},
	} {
		if got := fmt.Sprint(r.said(o)); got != strings.TrimSpace(want) {
			t.Errorf("%+v: %q, want %q", o, got, want)
		}
	}
	for query, want := range map[string]int{
		"select=none": 404, "n=1001": 400, "n=-1": 400, "stream=x": 400, "since=10m": 400, "until=x": 400, "follow=1": 400, "select=4711:1": 400,
		"follow=true&until=2026-01-01T00:00:00Z": 400, "lines=5": 400, "select=web/7": 404, "n=0": 200,
	} {
		if got := r.call("GET /v1/logs?" + query); got.Status != want {
			t.Errorf("%s = %d %s, want %d", query, got.Status, got.Body, want)
		}
	}
	bare := begin(t, nil, sleepers(t, "web", 1))
	refused(t, bare.call("GET /v1/logs"), 404, api.CodeNotFound)
}

// TestLogsOfOneStart: the newest lines are those of the start that is asked for, and of the time.
func TestLogsOfOneStart(t *testing.T) {
	p, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 1))
	r.ready()
	p.print("old/0", "stdout", "a1\nb1\nc1\na2\nb2\nc2\n")
	times := "s 0 1000000 1\n@ 3 1000000\n@ 6 2000000\n@ 9 3000000\ns 9 4000000 2\n@ 12 4000000\n@ 15 5000000\n@ 18 6000000\n"
	if err := os.WriteFile(filepath.Join(p.dir, "old", logfile.TimesName(0, "stdout")), []byte(times), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		o    api.LogOptions
		want string
	}{
		{api.LogOptions{Select: []string{"old/0.1"}, Tail: 2}, "[old/0 stdout b1 old/0 stdout c1]"},
		{api.LogOptions{Select: []string{"old/0.2"}, Tail: 1}, "[old/0 stdout c2]"},
		{api.LogOptions{Select: []string{"old/0.1"}}, "[old/0 stdout a1 old/0 stdout b1 old/0 stdout c1]"},
		{api.LogOptions{Select: []string{"old/0"}, Tail: 2, Until: time.Unix(5, 0)}, "[old/0 stdout c1 old/0 stdout a2]"},
		{api.LogOptions{Select: []string{"old/0.1", "old/0.2"}, Tail: 4}, "[old/0 stdout c1 old/0 stdout a2 old/0 stdout b2 old/0 stdout c2]"},
	} {
		if got := fmt.Sprint(r.said(one.o)); got != one.want {
			t.Errorf("%+v: %s, want %s", one.o, got, one.want)
		}
	}
}

// follow reads lines into a channel until the stream ends.
func (r *rig) follow(ctx context.Context, o api.LogOptions) (lines <-chan string, end <-chan error) {
	out, done := make(chan string, 1000), make(chan error, 1)
	go func() {
		defer close(done)
		for l, err := range r.Logs(ctx, o) {
			if err != nil {
				done <- err
				return
			}
			out <- fmt.Sprintf("%s %s", l.Worker(), l.Text())
		}
	}()
	return out, done
}

func (r *rig) next(lines <-chan string, end <-chan error, want string) {
	r.Helper()
	select {
	case got := <-lines:
		if got != want {
			r.Errorf("line %q, want %q", got, want)
		}
	case err := <-end: // what came before is in the channel
		if len(lines) == 0 || err != nil {
			r.Fatalf("the stream has ended: %v, want %q", err, want)
		}
		if got := <-lines; got != want {
			r.Errorf("line %q, want %q", got, want)
		}
	case <-time.After(patience):
		r.Fatalf("no line, want %q", want)
	}
}

// TestLogsFollow: what is printed from now on, of workers and pools that come later
// too, and the last line when the supervisor ends.
func TestLogsFollow(t *testing.T) {
	p, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 1))
	r.ready()
	p.print("web/0", "stdout", "old\nlast\n")
	lines, end := r.follow(context.Background(), api.LogOptions{Follow: true, Tail: 1})
	r.next(lines, end, "web/0 last")
	for i := range 5 {
		p.print("web/0", "stdout", fmt.Sprintf("line %d\n", i))
		r.next(lines, end, fmt.Sprintf("web/0 line %d", i))
		p.print(fmt.Sprintf("new/%d", i), "stderr", "hello\n")
		r.next(lines, end, fmt.Sprintf("new/%d hello", i))
	}
	p.print("web/0", "stdout", "without an end")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.server.Shutdown(ctx)
	r.next(lines, end, "web/0 without an end")
	if err := <-end; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestLogsResume: a reader that goes on again and again has every line once.
func TestLogsResume(t *testing.T) {
	p, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 1))
	r.ready()
	const all = 300
	go func() {
		for i := range all {
			p.print(fmt.Sprintf("web/%d", i%3), "stdout", fmt.Sprintf("%d\n", i))
		}
	}()
	seen := map[string]int{}
	cursor := &api.LogCursor{}
	for round := 0; len(seen) < all; round++ {
		if r.ctx().Err() != nil || round > 1000 {
			t.Fatalf("%d lines after %d rounds", len(seen), round)
		}
		n := 0
		for l, err := range r.Logs(r.ctx(), api.LogOptions{Follow: true, Cursor: cursor}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[string(l.Text())]++
			if n++; n == 40 || len(seen) == all {
				break
			}
		}
	}
	for i := range all {
		if n := seen[fmt.Sprint(i)]; n != 1 {
			t.Errorf("line %d came %d times", i, n)
		}
	}
}

// TestLogsSlowReader: it loses its stream, and nothing of it is left.
func TestLogsSlowReader(t *testing.T) {
	p, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 1))
	r.ready()
	r.server.slow = 50 * time.Millisecond
	p.print("web/0", "stdout", strings.Repeat(strings.Repeat("x", 1000)+"\n", 10_000))
	var d net.Dialer
	for _, query := range []string{"", "?follow=true", "?follow=true&n=1000"} {
		c, err := d.DialContext(t.Context(), "unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /v1/logs%s HTTP/1.1\r\nHost: x\r\n\r\n", query); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(n int) (bool, string) {
		return r.server.readers.Load() == 0, fmt.Sprintf("%d readers of %d are left", r.server.readers.Load(), n)
	}
	linuxtest.Wait(t, patience, func() (bool, string) { return gone(3) })
	if got := r.said(api.LogOptions{Tail: 1}); len(got) != 1 {
		t.Errorf("another reader has %d lines", len(got))
	}
}

// TestLogsRights: readers and owners, and nobody else; and not too many.
// TestLogsOfACallerWhoHasLeft: who has sent another request, and goes while nobody
// prints anything, holds no place.
func TestLogsOfACallerWhoHasLeft(t *testing.T) {
	_, logs := withPaper(t)
	r := begin(t, logs, sleepers(t, "web", 1))
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		if _, err := c.Write([]byte("GET /v1/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if _, err := c.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	ask()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		n := r.server.readers.Load()
		return n == 0, fmt.Sprintf("%d readers of lines are left", n)
	})
}

func TestLogsRights(t *testing.T) {
	linuxtest.NeedRoot(t, "to become another user")
	const readers = 54321
	p, logs := withPaper(t)
	r := begin(t, func(o *Options) { logs(o); o.ReaderGID = readers }, sleepers(t, "web", 1))
	r.ready()
	p.print("web/0", "stdout", "secret\n")
	refused(t, r.as(stranger, nil, "GET /v1/logs")[0], 403, api.CodeForbidden)
	if got := r.as(stranger, []uint32{readers}, "GET /v1/logs")[0]; got.Status != 200 || !strings.Contains(got.Body, "secret") {
		t.Errorf("a reader = %+v", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ends []<-chan error
	for range mostReaders {
		lines, end := r.follow(ctx, api.LogOptions{Follow: true})
		r.next(lines, end, "web/0 secret")
		ends = append(ends, end)
	}
	refused(t, r.call("GET /v1/logs"), 503, api.CodeTooMany)
	cancel()
	for _, end := range ends {
		<-end
	}
}

// TestLinesGoOn: a browser that comes back sends the time of its last line, with the address as
// it was at first; what that says of the beginning is past then.
func TestLinesGoOn(t *testing.T) {
	last := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	early, late := last.Add(-time.Hour), last.Add(-time.Second)
	for _, c := range []struct {
		query string
		since time.Time
	}{
		{"follow=true", last.Add(-resumeOverlap)},
		{"n=5&follow=true", last.Add(-resumeOverlap)},
		{"since=" + early.Format(time.RFC3339), last.Add(-resumeOverlap)},
		{"since=" + late.Format(time.RFC3339), late},
	} {
		r, err := http.NewRequest(http.MethodGet, "http://pitvisor/v1/logs?"+c.query, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Last-Event-ID", last.Format(time.RFC3339Nano))
		q, err := (&call{r: r, query: r.URL.Query()}).logQuery()
		if err != nil || !q.Since.Equal(c.since) || q.Tail != -1 {
			t.Errorf("%s goes on at %v with %d lines, %v; want %v and all", c.query, q.Since, q.Tail, err, c.since)
		}
	}
}
