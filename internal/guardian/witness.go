package guardian

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Witness is a process in the process group of the calling process that does nothing
// but be there until the caller ends. All signals are blocked in it, so what is pending
// for it was sent to the whole group, and not to the caller alone: that is nothing that
// the kernel would tell the receiver of a signal.
//
// It is a clone as a guardian may be, and there is none where that cannot be.
type Witness struct{ clone *Guardian }

// StartWitness starts a witness. The error is [errors.ErrUnsupported] where there
// cannot be one.
func StartWitness() (*Witness, error) {
	clone, err := startWitness()
	if err != nil {
		return nil, err
	}
	return &Witness{clone}, nil
}

// witnessComm is the name of a witness in the process list.
const witnessComm = "pitvisor-group"

// newWitnessPlan makes the steps of a witness.
func newWitnessPlan(owner int) (*plan, error) {
	p, err := mapPlan(8, len(witnessComm)+1)
	if err != nil {
		return nil, err
	}
	p.Add(unix.SYS_PRCTL, unix.PR_SET_NAME, p.Text(witnessComm))
	p.closeAllBut(owner)
	p.watch(owner)
	p.exit()
	return p, nil
}

// Pending returns the signals that the group has got since the witness was started:
// signal n is bit n-1. A caller that has got one knows that it is in there: the kernel
// gives a signal to a group's latest member first. A stop signal is there no more when
// SIGCONT has come.
func (w *Witness) Pending() (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.clone.PID())) // ours until it is reaped
	if err != nil {
		return 0, fmt.Errorf("look for the signals of the process group: %w", err)
	}
	_, after, _ := strings.Cut(string(status), "\nShdPnd:")
	mask, _, _ := strings.Cut(after, "\n")
	pending, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read the pending signals of process %d: %w", w.clone.PID(), err)
	}
	return pending, nil
}

// Stop ends the witness and reaps it. A second Stop does nothing.
func (w *Witness) Stop() error { return w.clone.Stop() }
