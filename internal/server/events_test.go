package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// bare is a server of nothing but events, which the test makes.
type bare struct {
	testing.TB
	*api.Client
	sup    *fake
	server *Server
	socket string
}

// fake is a supervisor of nothing but events and a status, which the test makes.
type fake struct {
	Supervisor // nil: what is not there is not to be called

	mu      sync.Mutex // guards what follows
	held    int
	events  []supervise.Event
	seq     uint64
	more    chan struct{}
	ended   bool
	workers []supervise.WorkerStatus
}

func (f *fake) Pools() []supervise.PoolStatus {
	return []supervise.PoolStatus{{Name: "web", Size: len(f.workers), Labels: map[string]string{"env": "prod"}}}
}

func (f *fake) Status() []supervise.WorkerStatus { return slices.Clone(f.workers) }

func (f *fake) LastEvent() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seq
}

func (f *fake) EventsAfter(seq uint64, buf []supervise.Event) (int, uint64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lost uint64
	if first := f.seq - uint64(len(f.events)) + 1; seq+1 < first {
		lost, seq = first-seq-1, first-1
	}
	n := copy(buf, f.events[len(f.events)-int(f.seq-seq):])
	if n == int(f.seq-seq) && f.ended {
		return n, lost, nil
	}
	return n, lost, f.more
}

func (f *fake) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended = true
		close(f.more)
	}
}

// happen makes n events, of the workers web/0 to web/4 in turn.
func (f *fake) happen(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.seq++
		f.events = append(f.events, supervise.Event{
			Seq: f.seq, At: time.Unix(int64(f.seq), 0), Kind: supervise.EventStarting + supervise.EventKind(f.seq%2), Start: 1 + f.seq/10,
			Worker: supervise.WorkerID{Pool: "web", Slot: int(f.seq % 5)}, From: supervise.StateDown, To: supervise.StateStarting,
		})
	}
	if len(f.events) > f.held {
		f.events = f.events[len(f.events)-f.held:]
	}
	close(f.more)
	f.more = make(chan struct{})
}

func beginBare(tb testing.TB, held int) *bare {
	tb.Helper()
	if held == 0 {
		held = 1 << 20
	}
	b := &bare{TB: tb, sup: &fake{held: held, more: make(chan struct{})}, socket: filepath.Join(tb.TempDir(), "s")}
	b.server = New(Options{Supervisor: b.sup, Log: slog.New(slog.DiscardHandler)})
	l, err := Listen(context.Background(), b.socket)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(l) }()
	b.Client = api.NewClient(b.socket)
	tb.Cleanup(func() {
		b.Client.Close()
		b.sup.end()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		b.server.Shutdown(ctx)
		<-served
	})
	return b
}

// collect reads a stream to its end.
func (b *bare) collect(o api.EventOptions) ([]api.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all []api.Event
	for e, err := range b.Events(ctx, o) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func numbers(events []api.Event) (n []uint64) {
	for _, e := range events {
		n = append(n, e.Seq)
	}
	return n
}

func upTo(from, to uint64) (n []uint64) {
	for i := from; i <= to; i++ {
		n = append(n, i)
	}
	return n
}

func TestEventsResume(t *testing.T) {
	b := beginBare(t, 0)
	b.sup.happen(600) // more than are written at a time
	for _, since := range []uint64{0, 1, 255, 256, 599, 600} {
		got, err := b.collect(api.EventOptions{Since: since, All: true, NoWait: true})
		if err != nil || !slices.Equal(numbers(got), upTo(since+1, 600)) {
			t.Errorf("since %d: %d events, %v", since, len(got), err)
		}
	}
	if _, err := b.collect(api.EventOptions{Since: 601, NoWait: true}); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("since the future = %v", err)
	}
}

func TestEventsGap(t *testing.T) {
	b := beginBare(t, 8)
	b.sup.happen(20)
	for since, gap := range map[uint64]*api.Gap{0: {From: 1, To: 12}, 11: {From: 12, To: 12}, 12: nil, 15: nil} {
		got, err := b.collect(api.EventOptions{Since: since, All: true, NoWait: true})
		if err != nil {
			t.Fatal(err)
		}
		if gap != nil {
			if first := got[0]; first.Kind != api.EventGap || first.Seq != gap.To || *first.Missing != *gap {
				t.Errorf("since %d begins with %+v, want the gap %+v", since, first, gap)
			}
			got = got[1:]
		}
		if !slices.Equal(numbers(got), upTo(max(13, since+1), 20)) {
			t.Errorf("since %d = %v", since, numbers(got))
		}
	}
}

func TestEventsAreFiltered(t *testing.T) {
	b := beginBare(t, 0)
	b.sup.happen(40)
	got, err := b.collect(api.EventOptions{All: true, NoWait: true, Select: []string{"web/3"}, Kinds: []string{"up"}})
	if err != nil || len(got) != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, e := range got {
		if e.Worker != "web/3" || e.Kind != "up" {
			t.Errorf("event %+v", e)
		}
	}
	if got, err = b.collect(api.EventOptions{All: true, NoWait: true, Select: []string{"web/3.2"}}); err != nil || len(got) != 2 {
		t.Errorf("of one start: %+v, %v", got, err)
	}
}

// TestEventsAsTheyCome: a stream tells what happens, and that the supervisor ends.
func TestEventsAsTheyCome(t *testing.T) {
	b := beginBare(t, 0)
	b.sup.happen(4)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []api.Event
	for e, err := range b.Events(ctx, api.EventOptions{Since: 3}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
		switch {
		case e.Kind == api.EventEnd:
		case e.Seq == 4:
			b.sup.happen(1)
		default:
			b.sup.end()
		}
	}
	if len(got) != 3 || got[2].Kind != api.EventEnd || got[2].Seq != 5 {
		t.Errorf("got %+v", got)
	}
}

// TestServerSentEvents: as a browser reads them that comes back, with Last-Event-ID and the
// address as it was at first.
func TestServerSentEvents(t *testing.T) {
	b := beginBare(t, 0)
	b.sup.happen(3)
	transport := unixTransport(b.socket)
	defer transport.CloseIdleConnections()
	req, _ := http.NewRequest("GET", "http://pitvisor/v1/events?since=0&follow=false", nil)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", "1")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%v, %v", resp.Header, err)
	}
	blocks := strings.Split(strings.TrimSuffix(string(data), "\n\n"), "\n\n")
	if len(blocks) != 2 {
		t.Fatalf("%d events:\n%s", len(blocks), data)
	}
	lines := strings.Split(blocks[0], "\n")
	var e api.Event
	if lines[0] != "id: 2" || lines[1] != "event: starting" || json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &e) != nil || e.Seq != 2 {
		t.Errorf("event is\n%s", blocks[0])
	}
}

// TestSlowReader: a client that never reads loses its stream; the supervisor and
// other readers do not wait for it.
func TestSlowReader(t *testing.T) {
	b := beginBare(t, 64)
	b.server.slow = 50 * time.Millisecond
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	head := bufio.NewReaderSize(conn, 16)
	if line, err := head.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	linuxtest.Wait(t, patience, func() (bool, string) {
		streams := b.server.lines.enter(0)
		if streams > 0 {
			b.sup.happen(2000) // until its buffers are full and the ring has gone round
		}
		return streams == 0, "the stream is still there"
	})
	// Whatever was on its way can be read, and then the connection is closed.
	if _, err := io.Copy(io.Discard, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("the end of the stream: %v", err)
	}
	got, err := b.collect(api.EventOptions{All: true, NoWait: true})
	if err != nil || got[0].Kind != api.EventGap || len(got) != 65 {
		t.Errorf("another reader gets %d events, %v", len(got), err)
	}
}

// TestOvertakenReader: a reader that the ring has gone round is told, and has to ask
// again.
func TestOvertakenReader(t *testing.T) {
	b := beginBare(t, 8)
	b.sup.happen(1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []api.Event
	var last error
	for e, err := range b.Events(ctx, api.EventOptions{All: true}) {
		if last = err; err != nil {
			break
		}
		got = append(got, e)
		if len(got) == 1 {
			b.sup.happen(100)
		}
		if e.Kind == api.EventGap || e.Seq == 101 {
			break
		}
	}
	if last != nil || len(got) == 0 {
		t.Fatalf("%+v, %v", got, last)
	}
	if end := got[len(got)-1]; end.Kind == api.EventGap && end.Missing.To != 93 {
		t.Errorf("gap = %+v", end.Missing)
	}
}

// TestEventOnTheWire holds every field of an event.
func TestEventOnTheWire(t *testing.T) {
	e := supervise.Event{
		Seq: 7, At: time.Unix(1, 0).UTC(), Worker: supervise.WorkerID{Pool: "web", Slot: 3}, Start: 2, Kind: supervise.EventStartFailed,
		From: supervise.StateUp, To: supervise.StateKilling, PID: 11, Port: 80, Leftover: 1, Escalated: true, Elapsed: time.Second,
		Exit:    &spawn.Exit{Code: -1, Signal: 9},
		Failure: &supervise.StartFailure{Phase: supervise.PhaseReadiness, Cause: supervise.CauseTimeout, Stderr: []string{"x"}, Err: io.EOF},
		Err:     io.ErrUnexpectedEOF,
	}
	data, err := json.Marshal(wireEvent(&e))
	want := `{"seq":7,"at":"1970-01-01T00:00:01Z","kind":"start-failed","worker":"web/3","pool":"web","slot":3,"start":2,"from":"up","to":"killing",` +
		`"ready":false,"pid":11,"port":80,"exit":{"code":-1,"signal":"SIGKILL","text":"SIGKILL"},` +
		`"failure":{"phase":"readiness","cause":"timeout","elapsed_ns":0,"stderr":["x"],"error":"EOF"},"escalated":true,"leftover":1,` +
		`"elapsed_ns":1000000000,"error":"unexpected EOF"}`
	if err != nil || string(data) != want {
		t.Errorf("event = %s, %v\nwant    %s", data, err, want)
	}
}

// TestStatusIsEncodedAsJSON holds the encoder by hand against encoding/json.
func TestStatusIsEncodedAsJSON(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler)})
	for _, w := range []supervise.WorkerStatus{
		{Worker: supervise.WorkerID{Pool: "web", Slot: 3}, State: supervise.StateUp, Ready: true, Start: 4, PID: 5, Failures: 6, Port: 7, Since: time.Unix(8, 9)},
		{Worker: supervise.WorkerID{Pool: "a_b-1"}, State: supervise.StateBackoff, Since: time.Unix(8, 0).UTC(), Cause: "exited: \"<x>\"\n\u2028 \xff"},
		{Worker: supervise.WorkerID{Pool: "web"}, Surge: true, Leaving: true, Stopped: true, Replaced: true, Frozen: true, Held: true},
		{Worker: supervise.WorkerID{Pool: "web"}, Text: "half \"way\"", Errno: 2, Reloading: true, Announced: true},
		{},
	} {
		for _, frozen := range []bool{false, true} {
			want, err := json.Marshal(wireWorker(&w, frozen))
			if got := appendWorker(nil, &w, frozen); err != nil || string(got) != string(want) {
				t.Errorf("encoded %s\nwant    %s", got, want)
			}
		}
	}
	if s.look([]supervise.WorkerStatus{{}}).holds(&supervise.WorkerStatus{}) {
		t.Error("nothing is frozen")
	}
}

// TestWaitOfAnother: who waits for workers of a supervisor in whose place another has come
// does not wait for those of that one.
func TestWaitOfAnother(t *testing.T) {
	first := begin(t, nil, sleepers(t, "web", 1))
	first.ready()
	asked := 0
	_, err := first.WaitFor(first.ctx(), func(*api.Status) bool {
		if asked++; asked == 1 {
			first.server.Shutdown(first.ctx())
			second := beginAt(t, first.socket, nil, sleepers(t, "web", 1))
			second.ready()
		}
		return asked > 1
	})
	if !errors.Is(err, api.ErrEnded) {
		t.Errorf("after %d questions: %v, want that the supervisor has ended", asked, err)
	}
}

// TestStreamsOfAnother: a cursor of one supervisor is refused by another, whatever its number.
func TestStreamsOfAnother(t *testing.T) {
	first, second := begin(t, nil, sleepers(t, "web", 1)), begin(t, nil, sleepers(t, "web", 1))
	for _, r := range []*rig{first, second} {
		r.ready()
	}
	begun := &api.EventCursor{}
	for _, err := range first.Events(first.ctx(), api.EventOptions{All: true, NoWait: true, Cursor: begun}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	status, err := first.Status(first.ctx())
	if err != nil {
		t.Fatal(err)
	}
	for name, cursor := range map[string]*api.EventCursor{"of a stream": begun, "of a status": status.Cursor()} {
		for _, r := range []*rig{first, second} {
			var got error
			for e, err := range r.Events(r.ctx(), api.EventOptions{NoWait: true, Cursor: cursor}) {
				if got = err; err == nil {
					t.Errorf("%s: event %d came twice", name, e.Seq)
				}
			}
			if refused := errors.Is(got, &api.Error{Code: api.CodeOtherRun}); refused != (r == second) {
				t.Errorf("%s: of the second %v, %v", name, r == second, got)
			}
		}
	}
}
