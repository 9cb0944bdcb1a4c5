package runverb

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/internal/oneshot"
	"github.com/pitvisor/pitvisor/internal/report"
	"github.com/pitvisor/pitvisor/internal/units"
	"golang.org/x/sys/unix"
)

// recorder appends to the file of --record. Every line is on disk before pitvisor
// goes on, so that a crash of the machine leaves the start of what was running.
type recorder struct {
	path string
	fd   int
	done bool // the start could not be written, so there is nothing to end
}

// recordLine is one line of the file.
type recordLine struct {
	Event   string    `json:"event"` // "start", "end"
	At      time.Time `json:"at"`
	Run     string    `json:"run"`
	Name    string    `json:"name"`
	Command []string  `json:"command,omitempty"` // of a start

	// Of an end:
	Outcome  string  `json:"outcome,omitempty"`   // as in the report, and "failed"
	ExitCode *int    `json:"exit_code,omitempty"` // of the command, when it exited by itself
	Signal   string  `json:"signal,omitempty"`    // that ended the command
	Left     int     `json:"left,omitempty"`      // processes that it left behind
	Seconds  float64 `json:"seconds,omitempty"`   // from the start to the end of the last process
	Error    string  `json:"error,omitempty"`     // why it did not run
}

func openRecord(path string) (*recorder, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--record: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &recorder{path: path, fd: fd}, nil
}

func (r *recorder) started(res *oneshot.Result, args []string) error {
	err := r.append(recordLine{
		Event: "start", At: res.Run.Started, Run: res.Run.ID.String(), Name: res.Run.Name, Command: args,
	})
	r.done = err != nil
	return err
}

// ended writes the last line and closes the file. A run that was never made has
// no start to end.
func (r *recorder) ended(res *oneshot.Result, failure error) error {
	if res.Run.ID.IsZero() || r.done {
		return unix.Close(r.fd)
	}
	line := recordLine{
		Event: "end", At: time.Now(), Run: res.Run.ID.String(), Name: res.Run.Name,
		Outcome: res.Cause.String(), Left: res.Left.Total,
	}
	switch {
	case failure != nil:
		line.Outcome, line.Error = "failed", failure.Error()
	case res.Exit.Signal != 0:
		line.Signal = units.SignalName(res.Exit.Signal)
		if res.Cause == oneshot.CauseExited {
			line.Outcome = string(report.Signalled)
		}
	default:
		line.ExitCode = &res.Exit.Code
	}
	if !res.Ended.IsZero() {
		line.Seconds = res.Ended.Sub(res.Started).Seconds()
	}
	return errors.Join(r.append(line), unix.Close(r.fd))
}

// append writes one whole line: several runs may share a file.
func (r *recorder) append(line recordLine) error {
	text, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("--record: %w", err)
	}
	text = append(text, '\n')
	n, err := unix.Write(r.fd, text)
	if err == nil && n < len(text) {
		err = unix.ENOSPC
	}
	if err != nil {
		return fmt.Errorf("--record: %w", &os.PathError{Op: "write", Path: r.path, Err: err})
	}
	if err := unix.Fdatasync(r.fd); err != nil && err != unix.EINVAL { // a pipe or device has no disk
		return fmt.Errorf("--record: %w", &os.PathError{Op: "sync", Path: r.path, Err: err})
	}
	return nil
}
