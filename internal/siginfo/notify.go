package siginfo

import (
	"encoding/binary"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// notify fills the pipe by os/signal, which knows no sender. It costs a goroutine.
func notify(signals []unix.Signal, w int) (func() error, error) {
	came := make(chan os.Signal, 64)
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(came, sig)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sig := range came {
			if sig, ok := sig.(unix.Signal); ok {
				tell(w, sig)
			}
		}
	}()
	return func() error {
		signal.Stop(came)
		close(came)
		<-done
		return nil
	}, nil
}

// tell does what the handler does.
func tell(w int, sig unix.Signal) {
	var record [recordSize]byte
	binary.NativeEndian.PutUint32(record[:], uint32(sig))
	if _, err := unix.Write(w, record[:]); err == nil {
		return
	}
	state.lost[0].Or(1 << sig)
	if _, err := unix.Write(w, record[:]); err == nil {
		state.lost[0].And(^uint32(1 << sig))
	}
}
