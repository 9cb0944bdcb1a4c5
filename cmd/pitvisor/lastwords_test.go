package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is not read is waited for, but not for ever; what is read is not waited for.
func TestWaitReadWaitsForTheReader(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	if _, err := unix.Write(pair[0], []byte("last words")); err != nil {
		t.Fatal(err)
	}
	const limit = 50 * time.Millisecond
	begin := time.Now()
	waitRead(pair[0], limit)
	if took := time.Since(begin); took < limit {
		t.Errorf("nobody has read, and it waited %v, want %v", took, limit)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		waitRead(pair[0], patience)
	}()
	if _, err := unix.Read(pair[1], make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(patience / 2):
		t.Error("everything is read, and it waits")
	}
}
