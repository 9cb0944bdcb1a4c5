//go:build amd64 || arm64

package siginfo

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// action is the kernel's struct sigaction.
type action struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Flags and a handler, from asm-generic/signal-defs.h.
const (
	saSigInfo  = 0x4
	saOnStack  = 0x08000000 // a goroutine's stack is too small for a signal frame
	saRestart  = 0x10000000
	saRestorer = 0x04000000
	ignore     = 1 // SIG_IGN
)

// entries returns the addresses of the handler and, where the kernel wants one, of
// the code that it returns to.
func entries() (handler, restorer uintptr)

// caught is a signal with the action that it had before.
type caught struct {
	signal unix.Signal
	before action
}

// catch installs the handler.
func catch(signals []unix.Signal, w int) (func() error, error) {
	handler, restorer := entries()
	ours := action{handler: handler, flags: saSigInfo | saOnStack | saRestart, mask: ^uint64(0)}
	if restorer != 0 {
		ours.restorer = restorer
		ours.flags |= saRestorer
	}
	state.pid = int32(os.Getpid())
	state.pipe.Store(int32(w) + 1)
	var all []caught
	for _, sig := range signals {
		before, err := sigaction(sig, nil)
		if err == nil && before.handler != ignore {
			_, err = sigaction(sig, &ours)
			all = append(all, caught{sig, before})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("catch %s: %w", unix.SignalName(sig), err), release(all))
		}
	}
	return func() error { return release(all) }, nil
}

// release puts the former actions back and waits for the handlers that are at work,
// so that none writes into whatever gets the pipe's number next.
func release(all []caught) error {
	var errs []error
	for _, c := range all {
		if _, err := sigaction(c.signal, &c.before); err != nil {
			errs = append(errs, fmt.Errorf("give %s back its action: %w", unix.SignalName(c.signal), err))
		}
	}
	// A handler counts itself before it looks at the pipe: one that is not counted
	// now will find none.
	state.pipe.Store(0)
	for state.inside.Load() != 0 {
		runtime.Gosched() // it is a few instructions long, on another thread
	}
	return errors.Join(errs...)
}

// sigaction sets the action of a signal, unless it is nil, and returns the former one.
func sigaction(sig unix.Signal, set *action) (action, error) {
	var before action
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(set)),
		uintptr(unsafe.Pointer(&before)), unsafe.Sizeof(before.mask), 0, 0)
	if errno != 0 {
		return before, errno
	}
	return before, nil
}
