//go:build !amd64 && !arm64

package spawn

import "golang.org/x/sys/unix"

// autokillKnown has no assembly for this processor.
func autokillKnown() bool { return false }

// startSteps takes the helper.
func (c *Cmd) startSteps(files []uintptr) (*Process, error) { return c.startHelper(files) }

func (c *Cmd) startAutokill([]uintptr) (*Process, error) { return nil, unix.ENOSYS }
