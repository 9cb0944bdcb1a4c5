package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// syncClock measures what it takes to have one more line on disk, in the file system of the records.
type syncClock struct {
	path string
	fd   int
	took []time.Duration
}

func newSyncClock(path string) (*syncClock, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &syncClock{path: path, fd: fd}, nil
}

// measure does what a start and an end line do.
func (c *syncClock) measure() error {
	for range 2 {
		if _, err := unix.Write(c.fd, make([]byte, 200)); err != nil {
			return fmt.Errorf("write a line to sync: %w", err)
		}
		started := time.Now()
		if err := unix.Fdatasync(c.fd); err != nil {
			return fmt.Errorf("sync a line: %w", err)
		}
		c.took = append(c.took, time.Since(started))
	}
	return nil
}

func (c *syncClock) close() {
	_ = unix.Close(c.fd)    // every line was synced
	_ = unix.Unlink(c.path) // it is a scratch file
}
