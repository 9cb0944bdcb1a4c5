//go:build !amd64 && !arm64

package siginfo

import "golang.org/x/sys/unix"

// catch has no handler for this processor.
func catch(signals []unix.Signal, w int) (func() error, error) { return notify(signals, w) }
