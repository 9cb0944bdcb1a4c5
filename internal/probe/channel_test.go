package probe

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/supervise"
)

// ears hear what a worker says, as a supervisor does, but for when to take it.
type ears struct {
	mu    sync.Mutex // guards what follows
	calls int
	take  func() supervise.Said
}

func (e *ears) tell(_ supervise.StartInfo, take func() supervise.Said) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	e.take = take
}

// heard takes what was said, and returns how often there was something to take.
func (e *ears) heard(t *testing.T) (supervise.Said, int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.take == nil {
		return supervise.Said{}, 0
	}
	n := e.calls
	said := e.take()
	if said.Main != nil {
		t.Cleanup(func() { _ = said.Main.Close() })
	}
	e.take, e.calls = nil, 0
	return said, n
}

// openChannel opens a channel to the rig's start.
func (r *rig) openChannel(s *NotifyServer, store int) (*ears, supervise.Inherited) {
	r.t.Helper()
	e := &ears{}
	c, err := NewChannel(Channel{Notify: s, Tell: e.tell, Store: store})
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := c.Prepare(r.info)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(got.Done)
	r.t.Cleanup(func() { closeFiles(got.Files) })
	return e, got
}

// send starts a process of the leaf, or elsewhere, that sends messages, and waits until
// they were handled.
func (r *rig) send(s *NotifyServer, group string, messages ...string) *linuxtest.Process {
	r.t.Helper()
	out := newPrinted(r.t)
	p := linuxtest.Command{
		Args: linuxtest.Helper(r.t, "send", messages...), Env: append(os.Environ(), "NOTIFY_SOCKET="+s.Path()),
		Cgroup: group, Stdout: out.write, Stderr: os.Stderr,
	}.Start(r.t)
	out.waitLineFor(r.t, 2*time.Minute, "handled")
	return p
}

// counted returns the counts once the message that is being handled is among them: its
// sender learns of the descriptors' end a moment before.
func (s *NotifyServer) counted() NotifyCounts {
	s.reading.Lock()
	defer s.reading.Unlock()
	return s.Counts()
}

func TestChannelTellsWhatAWorkerSays(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, s := place(t), serveNotify(t)
	e, got := r.openChannel(s, 0)
	if want := []string{"NOTIFY_SOCKET=" + s.Path()}; !slices.Equal(got.Env, want) || len(got.Files) != 0 {
		t.Errorf("inherited %q and %d files, want %q and none", got.Env, len(got.Files), want)
	}
	r.send(s, r.leaf.Path(),
		"1 0 STATUS=half way\nERRNO=2\nEXTEND_TIMEOUT_USEC=60000000", "1 0 RELOADING=1\nMONOTONIC_USEC=12345",
		"1 0 SHOE_SIZE=47\nREADY", "1 0 STOPPING=1")
	said, calls := e.heard(t)
	if extend := said.Extend; extend > time.Minute || extend < 30*time.Second {
		t.Errorf("extended by %v, want most of a minute", extend)
	}
	said.Extend = 0
	if want := (supervise.Said{Status: "half way", Errno: 2, Reloading: true, Stopping: true}); said != want || calls != 1 {
		t.Errorf("told %d times, last %+v; want once, and %+v", calls, said, want)
	}
	r.send(s, r.leaf.Path(), "1 0 READY=1")
	if said, calls = e.heard(t); said.Reloading || said.Extend != 0 || calls != 1 {
		t.Errorf("after READY=1 told %d times, %+v; want that the reload is over", calls, said)
	}
	r.send(s, r.leaf.Path(), "1 0 READY=1\nWATCHDOG=1\nX_PITVISOR_COUNT=7")
	if _, calls = e.heard(t); calls != 0 {
		t.Errorf("told %d times of what changes nothing, want never", calls)
	}
	// A BARRIER=1 has a descriptor that is closed.
	if got, want := s.counted(), (NotifyCounts{Received: 9, Unknown: 1, Invalid: 1, Closed: 3}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

// TestOnlyAProcessOfTheLeafCanBeTheMainProcess, and it is held from then on.
func TestOnlyAProcessOfTheLeafCanBeTheMainProcess(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, s := place(t), serveNotify(t)
	e, _ := r.openChannel(s, 0)
	stranger := r.startIn("", nil, linuxtest.Helper(t, "sit")...)
	r.send(s, r.leaf.Path(), "1 0 MAINPID=1", "1 0 MAINPID="+strconv.Itoa(os.Getpid()), "1 0 MAINPID="+strconv.Itoa(stranger.PID()),
		"1 0 MAINPID=0", "1 0 MAINPID=-7", "1 0 MAINPID=99999999999999999999")
	if said, calls := e.heard(t); calls != 0 {
		t.Errorf("told of %+v, want that strangers are refused", said)
	}
	if got := s.counted(); got.Refused != 3 || got.Invalid != 3 {
		t.Errorf("%d refused and %d invalid, want 3 and 3", got.Refused, got.Invalid)
	}
	r.send(s, "", "1 0 MAINPID={pid}")
	if _, calls := e.heard(t); calls != 0 {
		t.Error("a stranger names a main process")
	}
	below, err := r.leaf.Create("below")
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	main := r.send(s, below.Path(), "1 0 MAINPID={pid}")
	said, calls := e.heard(t)
	if calls != 1 || said.Main == nil || said.Main.PID() != main.PID() {
		t.Fatalf("told %d times, %+v; want process %d", calls, said, main.PID())
	}
	main.Kill(t)
	main.Wait(t, 10*time.Second)
	if exited, err := said.Main.Exited(); err != nil || !exited {
		t.Errorf("Exited = %v, %v; want the end of the process that was named", exited, err)
	}
}

// TestReadyOfTheNamedMainProcess: the first process may have ended, as after daemon(3).
func TestReadyOfTheNamedMainProcess(t *testing.T) {
	r, s := place(t), serveNotify(t)
	e, _ := r.openChannel(s, 0)
	r.prepare(Rules{Notify: true}, Deps{Notify: s}, supervise.Output{})
	first := r.start(nil, linuxtest.Helper(t, "sit")...)
	r.send(s, r.leaf.Path(), "1 0 MAINPID={pid}\nREADY=1")
	first.Kill(t)
	first.Wait(t, 10*time.Second)
	r.ready()
	e.heard(t)
}

func TestStoredDescriptorsComeBackToTheSameWorker(t *testing.T) {
	linuxtest.NoLeaks(t)
	r, s := place(t), serveNotify(t)
	_, got := r.openChannel(s, 3)
	if len(got.Files) != 0 {
		t.Fatalf("%d descriptors at the first start, want none", len(got.Files))
	}
	r.send(s, r.leaf.Path(), "1 1 FDSTORE=1\nFDNAME=db\nFDPOLL=0", "1 1 FDSTORE=1\nFDNAME=a:b\nFDPOLL=0", "1 2 FDSTORE=1\nFDNAME=more\nFDPOLL=0")
	if got, want := s.Stored(r.info.Worker), []string{"db", "stored", "more"}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q: room is for three, and a bad name is none", got, want)
	}
	next := r.info
	next.Start++
	c, err := NewChannel(Channel{Notify: s, Tell: (&ears{}).tell, Store: 3})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Prepare(next)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Done()
	defer closeFiles(again.Files)
	if want := []string{"db", "stored", "more"}; !slices.Equal(again.Names, want) || len(again.Files) != 3 {
		t.Errorf("the next start gets %q and %d files, want %q", again.Names, len(again.Files), want)
	}
	r.send(s, r.leaf.Path(), "1 0 FDSTOREREMOVE=1\nFDNAME=db")
	r.send(s, r.leaf.Path(), "1 1 FDSTORE=1\nFDNAME=hung-up")
	if got, want := s.Stored(r.info.Worker), []string{"stored", "more", "hung-up"}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	// The other end of that one is gone, and it was not to be kept in spite of that.
	files, names, err := s.store.give(r.info.Worker, 3)
	closeFiles(files)
	if want := []string{"stored", "more"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("given %q, %v; want %q", names, err, want)
	}
	s.DropStored(r.info.Worker, 0)
	if n := len(s.Stored(r.info.Worker)); n != 2 {
		t.Errorf("%d are stored after the end of an earlier start, want 2", n)
	}
	s.DropStored(r.info.Worker, 1)
	if n := len(s.Stored(r.info.Worker)); n != 0 {
		t.Errorf("%d are stored after the end of the worker, want none", n)
	}
}

// TestAFileIsStoredOnce, however often it is sent.
func TestAFileIsStoredOnce(t *testing.T) {
	s := serveNotify(t)
	var fds []int
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 3 {
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	if !sameFile(fds[0], fds[1]) {
		linuxtest.Skip(t, "needs kcmp: this kernel, or a sandbox, does not compare open files")
	}
	kept := s.store.keep(supervise.StartInfo{}, 10, &said{store: true}, fds)
	closeAll(fds)
	if kept != 1 {
		t.Errorf("%d copies of one file are stored, want 1", kept)
	}
}

// TestNoDescriptorLeaks: whoever sends them, and however many.
func TestNoDescriptorLeaks(t *testing.T) {
	r, s := place(t), serveNotify(t)
	r.openChannel(s, 2)
	before := openFDs(t)
	t.Run("worker", func(t *testing.T) {
		(&rig{t: t}).send(s, r.leaf.Path(), "50 10 STATUS=x", "50 10 FDSTORE=1\nFDPOLL=0", "10 253 BARRIER=1", "20 3 "+strings.Repeat("x", 5000), "20 2 FDSTORE=0", "20 2 ")
	})
	t.Run("stranger", func(t *testing.T) { (&rig{t: t}).send(s, "", "50 10 FDSTORE=1") })
	if n := openFDs(t) - before; n != 2 {
		t.Errorf("%d descriptors more than before, want the 2 that are stored", n)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestAMillionMessagesAreHeardInBoundedMemory: nothing that counts is lost, and who is
// told is told seldom.
func TestAMillionMessagesAreHeardInBoundedMemory(t *testing.T) {
	r, s := place(t), serveNotify(t)
	e, _ := r.openChannel(s, 0)
	lv, err := NewLive(Live{Count: true}, Deps{Notify: s, Count: func(supervise.StartInfo, uint64) {}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := lv.Prepare(r.info, supervise.Output{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	times := linuxtest.Times(1_000_000, 10_000)
	if linuxtest.Emulated() {
		times = 1000 // old kernels tell only by lists who a sender is
	}
	heap := heapNow()
	r.send(s, r.leaf.Path(),
		strconv.Itoa(times/2)+" 0 STATUS=a\nWATCHDOG=1\nRELOADING=1", strconv.Itoa(times/2)+" 0 STATUS=b\nWATCHDOG=1\nREADY=1",
		"1 0 STOPPING=1")
	if got := s.counted(); got.Received < uint64(times) || got.Ignored != 0 {
		t.Errorf("%d of %d received, %d ignored", got.Received, times, got.Ignored)
	}
	n := s.expect(r.info.Leaf, r.info.LeafID)
	defer s.forget(r.info.LeafID)
	if got := n.beatsSoFar(); got != uint64(times/2*2) {
		t.Errorf("%d heartbeats, want %d", got, times)
	}
	said, calls := e.heard(t)
	if calls != 1 || said.Status != "b" || said.Reloading || !said.Stopping {
		t.Errorf("told %d times, at last %+v; want once, and how it ended", calls, said)
	}
	if grown := heapNow() - heap; grown > 8<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// TestLastWordsAreDrained: who is told of the end first hears what was said before it.
func TestLastWordsAreDrained(t *testing.T) {
	r := place(t)
	s, err := NewNotifyServer(t.TempDir()) // which nobody serves
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e, got := r.openChannel(s, 0)
	linuxtest.NeedKernel(t, 6, 17, "pidfd of a reaped sender with a message")
	p := linuxtest.Command{
		Args: linuxtest.Helper(t, "say", "STATUS=bye\nSTOPPING=1"), Env: append(os.Environ(), got.Env...), Cgroup: r.leaf.Path(),
	}.Start(t)
	p.Wait(t, 10*time.Second)
	got.Settle()
	if said, calls := e.heard(t); calls != 1 || !said.Stopping || said.Status != "bye" {
		t.Errorf("told %d times, %+v; want the last words", calls, said)
	}
}
