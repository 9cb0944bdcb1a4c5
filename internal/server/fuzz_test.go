package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/supervise"
)

// recorder records an answer, a stream too.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// stub is a supervisor that says yes to everything.
type stub struct{ *fake }

func (stub) ids() ([]supervise.WorkerID, error) { return []supervise.WorkerID{{Pool: "web"}}, nil }

func (s stub) Start(context.Context, supervise.Selector) ([]supervise.WorkerID, error) {
	return s.ids()
}

func (s stub) Stop(context.Context, supervise.Selector) ([]supervise.WorkerID, error) {
	return s.ids()
}

func (s stub) Kill(context.Context, supervise.Selector) ([]supervise.WorkerID, error) {
	return s.ids()
}

func (stub) Restart(context.Context, supervise.Selector) ([]*supervise.Progress, error) {
	return nil, nil
}

func (stub) Visit(supervise.WorkerID, uint64) (*supervise.Visit, error) {
	return nil, supervise.ErrNoProcess
}

func (stub) Strike(context.Context, supervise.WorkerID, uint64, unix.Signal, bool, string) error {
	return nil
}
func (stub) Scale(context.Context, string, int) error       { return nil }
func (stub) Wait(context.Context, supervise.Selector) error { return nil }

// stubbed is a server of a stub with five workers that have no process.
func stubbed(held, events int) *Server {
	f := &fake{held: held, more: make(chan struct{})}
	for i := range 5 {
		f.workers = append(f.workers, supervise.WorkerStatus{Worker: supervise.WorkerID{Pool: "web", Slot: i}, Start: 1})
	}
	f.happen(events)
	return New(Options{
		Supervisor: stub{f}, Log: slog.New(slog.DiscardHandler), Token: "x",
		Reload: func(context.Context) (Reloaded, error) { return Reloaded{}, nil },
	})
}

func callStub(s *Server, method, target string, body []byte) (*httptest.ResponseRecorder, error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, err
	}
	req := &http.Request{
		Method: method, URL: u, Header: http.Header{"Authorization": {"Bearer x"}, "Content-Type": {textJSON}},
		Body: http.NoBody, Host: "x", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if body != nil {
		req.Body = nopCloser{bytes.NewReader(body)}
	}
	s.gate.rates = map[int]rate{} // how often is not the question here
	w := recorder{httptest.NewRecorder()}
	s.ServeHTTP(w, req)
	return w.ResponseRecorder, nil
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

// FuzzBodies gives any bytes to every route that takes a body: each answer is a good
// one or says what is wrong with the body, and never blames the supervisor.
func FuzzBodies(f *testing.F) {
	for i, body := range []string{
		`{"select":["web"]}`, `{"select":["web/3.1"],"signal":"HUP","all":true}`, `{"pool":"web","size":3}`, `{"select":["*"],"wait":true,"timeout_ns":5}`,
		`{}`, `[]`, `null`, `{"select":null}`, `{"select":["web"],"now":1}`, "{\"select\":[\"\\u0000\"]}", strings.Repeat("[", 1000), `{"size":1e400}`, `{"select":["1:2"]}`,
	} {
		f.Add(uint8(i), []byte(body))
	}
	s := stubbed(100, 10)
	var posts []route
	for _, r := range table() {
		if r.method == http.MethodPost {
			posts = append(posts, r)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		r := &posts[int(which)%len(posts)]
		w, err := callStub(s, r.method, r.path, body)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != 200 && (w.Code >= 500 || !slices.Contains(r.statuses(), w.Code)) {
			t.Errorf("%s %q = %d %s", r.path, body, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %q answers %q", r.path, body, w.Body)
		}
	})
}

// FuzzPaths gives any path and query to the server.
func FuzzPaths(f *testing.F) {
	for _, path := range []string{"/v1/status?select=web", "/v1/workers/web/0", "/v1/workers//", "/v1/events?since=1&follow=false", "/v1/status?%zz", "/%00", "//", "/v1/workers/web/99999999999999999999"} {
		f.Add(path)
	}
	s := stubbed(100, 10)
	f.Fuzz(func(t *testing.T, path string) {
		if strings.Contains(path, "/events") && !strings.Contains(path, "follow=false") || strings.Contains(path, "/workers/web/") {
			return // has no end, or needs cgroups
		}
		w, err := callStub(s, http.MethodGet, path, nil)
		if err != nil || w.Header().Get("Content-Type") == textLines || w.Header().Get("Content-Type") == textEvents {
			return
		}
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q = %d %s", path, w.Code, w.Body)
		}
	})
}

// FuzzResume takes a stream up anywhere: what comes is what follows, each once and in
// order, and a gap says exactly what is missing.
func FuzzResume(f *testing.F) {
	f.Add(uint16(8), uint16(20), "0")
	f.Add(uint16(8), uint16(20), "12")
	f.Add(uint16(300), uint16(299), "1")
	f.Add(uint16(5), uint16(5), "18446744073709551615")
	f.Add(uint16(5), uint16(5), "-1")
	f.Fuzz(func(t *testing.T, held, events uint16, since string) {
		s := stubbed(int(held%512)+1, int(events%1024))
		w, err := callStub(s, http.MethodGet, "/v1/events?follow=false&since="+url.QueryEscape(since), nil)
		if err != nil {
			t.Fatal(err)
		}
		newest := s.o.Supervisor.LastEvent()
		from, ok := parseSince(since)
		if since == "" {
			from, ok = newest, true
		}
		if !ok || from > newest {
			if w.Code != 400 && w.Code != 409 {
				t.Errorf("since %q = %d", since, w.Code)
			}
			return
		}
		if err := follows(w.Body.String(), from, newest); err != nil {
			t.Errorf("held %d, %d events, since %q: %v", held, events, since, err)
		}
	})
}

func parseSince(text string) (n uint64, ok bool) {
	err := json.Unmarshal([]byte(strings.TrimLeft(text, "0")+map[bool]string{true: "0", false: ""}[strings.Trim(text, "0") == "" && text != ""]), &n)
	return n, err == nil && strings.Trim(text, "0123456789") == "" && text != ""
}

// follows holds a stream against the numbers that are to come.
func follows(lines string, from, newest uint64) error {
	next := from + 1
	for line := range strings.Lines(lines) {
		var e api.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return err
		}
		switch {
		case e.Missing != nil && e.Missing.From == next && e.Missing.To >= next:
			next = e.Missing.To + 1
		case e.Missing == nil && e.Seq == next:
			next++
		default:
			return fmt.Errorf("%s comes where %d should", line, next)
		}
	}
	if next != newest+1 {
		return fmt.Errorf("ends before %d, newest is %d", next, newest)
	}
	return nil
}
