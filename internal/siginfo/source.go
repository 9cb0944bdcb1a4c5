package siginfo

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Info is one signal that has come.
type Info struct {
	Signal unix.Signal
	Code   int32  // si_code: why it was sent; 0, SI_USER, also when that is not known
	PID    int32  // who sent it, for printing; 0 when nobody did or that is not known
	UID    uint32 // of the sender
}

// FromKernel says whether the kernel itself sent the signal and no process did: the
// terminal for its keys, its size and its hang-up, or a child that has changed.
func (i Info) FromKernel() bool { return i.Code > 0 }

// Source gives the caught signals, one after the other. One goroutine uses it at a time.
type Source struct {
	r, w    int // the two ends of the pipe
	release func() error
	lost    [2]uint32 // bit n: signal n, taken from [shared] and not yet given out
}

// shared is what the handlers work with. They run between any two instructions of
// the program, on whatever thread; see the assembly.
type shared struct {
	pipe   atomic.Int32     // 1 + the end to write to; 0 is none
	pid    int32            // of the process that catches; its child is another until exec
	inside atomic.Int32     // handlers that may be using the pipe
	lost   [2]atomic.Uint32 // bit n: the pipe was full for signal n; sent by [a process, the kernel]
	busy   atomic.Bool      // there is a Source
}

// state is a package variable because the actions of signals belong to the process,
// and a handler is given nothing by which it could find anything else.
var state shared

// recordSize is the size of the kernel's siginfo_t. A pipe takes so little whole or
// not at all.
const recordSize = 128

// Catch catches these signals until Close. There can be one Source at a time. A
// signal that is ignored when it is called is left alone: whoever started this
// program wants it to be ignored (nohup, a background job of a simple shell). Of
// signals that the Go runtime handles itself only SIGHUP and SIGINT can still be
// seen to have been ignored.
//
// Programs that are started meanwhile begin with the default actions, as ever.
// Signals can be HUP, INT, QUIT, USR1, USR2, ALRM, TERM, CHLD, CONT, TSTP, TTIN, TTOU
// and WINCH; others give an error that is unix.EINVAL.
func Catch(signals ...unix.Signal) (*Source, error) {
	return open(signals, catch)
}

// open makes a Source; how is what fills its pipe, and gives back what stops that.
func open(signals []unix.Signal, how func(signals []unix.Signal, w int) (func() error, error)) (*Source, error) {
	for _, sig := range signals {
		if !catchable(sig) {
			return nil, fmt.Errorf("catch %s: the Go runtime needs it, or nobody can: %w", unix.SignalName(sig), unix.EINVAL)
		}
	}
	if !state.busy.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("catch signals: they are being caught already: %w", unix.EBUSY)
	}
	var ends [2]int
	err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		state.busy.Store(false)
		return nil, fmt.Errorf("make a pipe for signals: %w", err)
	}
	s := &Source{r: ends[0], w: ends[1]}
	if s.release, err = how(signals, s.w); err != nil {
		s.closePipe()
		state.busy.Store(false)
		return nil, err
	}
	return s, nil
}

// catchable lists what a program may want to catch and the runtime can do without.
func catchable(sig unix.Signal) bool {
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCHLD, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH:
		return true
	}
	return false
}

// FD returns the descriptor that is readable while there is a signal to be had, for
// poll. A handler interrupts system calls: poll answers EINTR then. It is valid until
// Close, and only to be polled.
func (s *Source) FD() int { return s.r }

// Next returns the next signal, and false when there is none now; it never blocks.
// Call it until it says false, and only then poll again.
//
// The kernel keeps one signal of a kind until it is handled; of those handled the
// pipe keeps hundreds. When it is full, of each kind and sort of sender one more is
// remembered, so that none goes unnoticed, but not who sent it.
func (s *Source) Next() (Info, bool, error) {
	if info, ok := s.nextLost(); ok {
		return info, true, nil
	}
	var record [recordSize]byte
	for {
		n, err := unix.Read(s.r, record[:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return s.takeLost()
		case err != nil:
			return Info{}, false, fmt.Errorf("read caught signals: %w", err)
		case n != recordSize:
			return Info{}, false, fmt.Errorf("read caught signals: %d bytes, want %d", n, recordSize)
		default:
			return decode(&record), true, nil
		}
	}
}

// takeLost fetches what did not fit into the pipe. A handler leaves its mark while
// the pipe is full, so the mark is there when the pipe has been emptied.
func (s *Source) takeLost() (Info, bool, error) {
	for i := range s.lost {
		s.lost[i] = state.lost[i].Swap(0)
	}
	info, ok := s.nextLost()
	return info, ok, nil
}

func (s *Source) nextLost() (Info, bool) {
	for code, set := range s.lost {
		for sig := range 32 {
			if set&(1<<sig) == 0 {
				continue
			}
			s.lost[code] &^= 1 << sig
			return Info{Signal: unix.Signal(sig), Code: int32(code) * siKernel}, true
		}
	}
	return Info{}, false
}

// Close gives the signals back their former actions and closes the pipe. What was
// not fetched by Next is lost. A second Close returns [os.ErrClosed].
func (s *Source) Close() error {
	if s.r < 0 {
		return fmt.Errorf("close caught signals: %w", os.ErrClosed)
	}
	err := s.release()
	s.closePipe()
	for i := range state.lost {
		state.lost[i].Store(0)
	}
	state.busy.Store(false)
	return err
}

func (s *Source) closePipe() {
	_ = unix.Close(s.r) // nobody wants what is in it any more
	_ = unix.Close(s.w)
	s.r, s.w = -1, -1
}

// Values of si_code, from asm-generic/siginfo.h.
const (
	siKernel = 0x80
	siUser   = 0
	siQueue  = -1
	siTkill  = -6
)

// senderAt is where si_pid is in a siginfo_t: behind three numbers, in a union that is
// aligned like a pointer. si_uid follows.
const senderAt = 8 + int(unsafe.Sizeof(uintptr(0)))

// decode reads a siginfo_t. The sender is in it only when a process sent the signal,
// or for SIGCHLD, where it is the child.
func decode(record *[recordSize]byte) Info {
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(record[at:]) }
	info := Info{Signal: unix.Signal(word(0)), Code: int32(word(8))}
	switch {
	case info.Code == siUser, info.Code == siQueue, info.Code == siTkill, info.Signal == unix.SIGCHLD:
		info.PID, info.UID = int32(word(senderAt)), word(senderAt+4)
	}
	return info
}
