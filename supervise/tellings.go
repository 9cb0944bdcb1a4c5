package supervise

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/pidfd"
)

// maxExtend bounds by how much all of a worker's wishes can make one phase of its life,
// its start or its stop, longer than its pool says.
const maxExtend = 24 * time.Hour

// Said is what a worker has said about itself since it was taken last, in the words of
// sd_notify(3). What it does not say again stays as it is.
type Said struct {
	Status    string // STATUS=; kept when it is empty
	Errno     int    // ERRNO=; kept when it is 0
	Reloading bool   // RELOADING=1, and no READY=1 since
	Stopping  bool   // STOPPING=1

	// Extend is EXTEND_TIMEOUT_USEC=: how much longer than now the phase under way may
	// take; 0 is nothing.
	Extend time.Duration

	// Main is the process that MAINPID= names, or nil. It must be one of the worker's
	// own: whoever calls Tell has looked. The supervisor closes it.
	Main *pidfd.Process
}

// Tell is told that a worker has said something, which take returns. take is called once,
// from another goroutine and perhaps later, or never if that start or the supervisor has
// ended; so whoever collects what is said may call Tell once for all that comes meanwhile.
// What comes from an earlier start does not count. It may be called from Observe, too.
func (s *Supervisor) Tell(id WorkerID, start uint64, take func() Said) {
	s.inbox.post(message{do: func() {
		p := s.poolNamed(id.Pool)
		if p == nil || id.Slot < 0 || id.Slot >= len(p.slots) {
			return
		}
		s.hear(p.slots[id.Slot], start, take)
	}})
}

// hear takes what a worker says. A spawner's answer may come after the first words.
func (s *Supervisor) hear(i int32, start uint64, take func() Said) {
	c := &s.slots[i]
	switch {
	case c.start != start:
	case c.state == StateStarting:
		s.early[i] = func() { s.hear(i, start, take) }
	case c.lives() && c.extra != nil:
		s.believe(i, take())
	}
}

// hearEarly takes what a worker said before its process was known.
func (s *Supervisor) hearEarly(i int32) {
	if again := s.early[i]; again != nil {
		delete(s.early, i)
		again()
	}
}

// believe acts on what a worker says.
func (s *Supervisor) believe(i int32, said Said) {
	c := &s.slots[i]
	was := c.extra.said
	if said.Status == "" {
		said.Status = was.Status
	}
	if said.Errno == 0 {
		said.Errno = was.Errno
	}
	if said.Main != nil {
		s.follow(i, said.Main)
		said.Main = nil
	}
	extend := said.Extend
	said.Extend = 0
	said.Stopping = said.Stopping || was.Stopping
	c.extra.said = said
	if extend > 0 {
		s.step(i, input{kind: inExtend, start: c.start, at: s.now(), extend: extend})
	}
	if said.Reloading != was.Reloading {
		s.tellReloading(c, was.Reloading)
	}
	if said.Stopping && !was.Stopping {
		s.step(i, input{kind: inStopping, start: c.start, at: s.now()})
	}
}

// reloadTold is how often at most a worker's reloads are events: one that does nothing
// else must not push out what others have to say.
const reloadTold = time.Second

// tellReloading makes events of a reload's begin and its end, or of neither.
func (s *Supervisor) tellReloading(c *slot, over bool) {
	x, kind := c.extra, EventReloading
	switch {
	case over && !x.reloadTold:
		return
	case over:
		kind = EventReloaded
	case s.now()-x.reloadAt < reloadTold && x.reloadAt != 0:
		return
	}
	e := Event{
		Worker: c.id(), Start: c.start, Kind: kind, From: c.shown, To: c.shown, Ready: c.ready, PID: int(c.pid), Port: int(c.port),
	}
	if over {
		e.Elapsed = s.now() - x.reloadAt
	} else {
		x.reloadAt = s.now()
	}
	x.reloadTold = !over
	s.emit(e)
}

// follow makes another process the main process of a worker. Where the worker's life is
// its leaf's, that only changes who is shown.
func (s *Supervisor) follow(i int32, p *pidfd.Process) {
	c := &s.slots[i]
	if s.watchMain(i, p) != nil {
		_ = p.Close() // a pidfd; nothing to lose. What it had goes on
		return
	}
	if before := c.extra.main.Swap(p); before != nil {
		_ = before.Close() // which takes it out of the poller
	}
	c.pid = int32(p.PID())
	s.emit(Event{
		Worker: c.id(), Start: c.start, Kind: EventMain, From: c.shown, To: c.shown, Ready: c.ready, PID: int(c.pid), Port: int(c.port),
	})
	s.noteWorker(i)
}

func (s *Supervisor) watchMain(i int32, p *pidfd.Process) error {
	c := &s.slots[i]
	if c.rev.policy.leaf {
		return nil
	}
	if err := s.poller.Add(p.FD(), unix.EPOLLIN|unix.EPOLLONESHOT, pollToken(i, c.start)|mainToken); err != nil {
		return fmt.Errorf("watch process of %v: %w", c.id(), err)
	}
	return nil
}

// isEndOf says whether what the poller saw is the end of the process that the worker's
// life is tied to.
func (c *slot) isEndOf(main bool) bool {
	named := c.extra.mainProcess()
	if !main || named == nil {
		return named == nil && !main
	}
	exited, err := named.Exited()
	return exited || err != nil
}

// unsettledEnd says whether the worker may have said something before its end that is not
// known yet, and lets it be found out first.
func (s *Supervisor) unsettledEnd(m *message) bool {
	c := &s.slots[m.i]
	if m.settled || c.extra == nil || c.extra.words == nil {
		return false
	}
	s.chores.push(order{kind: ordSettle, settle: c.extra.words, then: *m})
	return true
}

// settleEnd waits for the last words, and then lets the engine see the end.
func (s *Supervisor) settleEnd(o order) {
	o.settle()
	o.then.settled = true
	s.inbox.post(o.then)
}

// isGone says whether the process has ended that the worker's life is tied to.
func (c *slot) isGone() bool {
	p := c.mainHandle()
	if p == nil || c.rev.policy.leaf {
		return p == nil
	}
	exited, err := p.Exited()
	return exited || err != nil
}

// mainHandle returns the process that stands for the worker; nil if none is known.
func (c *slot) mainHandle() *pidfd.Process {
	if named := c.extra.mainProcess(); named != nil {
		return named
	}
	if c.proc == nil {
		return nil
	}
	return c.proc.Handle()
}

// mainProcess is the process that the worker has named as its main process, or nil.
func (x *extra) mainProcess() *pidfd.Process {
	if x == nil {
		return nil
	}
	return x.main.Load()
}

// closeMain gives the named main process up.
func (x *extra) closeMain() {
	if p := x.main.Swap(nil); p != nil {
		_ = p.Close() // a pidfd; nothing to lose
	}
}
