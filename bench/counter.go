package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// counter sees every worker come to life, the same way for every contender: a worker writes its pid as one line into a
// FIFO, as its first act. A restarted worker is one more line.
type counter struct {
	path string
	file *os.File
	over chan struct{} // closed when the reader has ended

	mu    sync.Mutex // guards the fields below
	pids  []int
	times []time.Time
	want  int           // wake is closed when there are so many lines
	wake  chan struct{} // nil when nobody waits
}

func newCounter(path string) (*counter, error) {
	if err := unix.Mkfifo(path, 0o666); err != nil {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	// Open for reading and writing: the FIFO never ends though workers come and go.
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	c := &counter{path: path, file: file, over: make(chan struct{})}
	go c.read()
	return c, nil
}

func (c *counter) read() {
	defer close(c.over)
	lines := bufio.NewReader(c.file)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // closed by close
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			continue
		}
		c.add(pid, time.Now())
	}
}

func (c *counter) add(pid int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pids = append(c.pids, pid)
	c.times = append(c.times, now)
	if c.wake != nil && len(c.pids) >= c.want {
		close(c.wake)
		c.wake = nil
	}
}

// wait returns when the n-th worker came to life. Only one goroutine may wait.
func (c *counter) wait(ctx context.Context, n int) (time.Time, error) {
	c.mu.Lock()
	wake := make(chan struct{})
	if len(c.pids) >= n {
		close(wake)
	} else {
		c.want, c.wake = n, wake
	}
	c.mu.Unlock()
	select {
	case <-wake:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.times[n-1], nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("wait for %d processes, got %d: %w", n, c.count(), context.Cause(ctx))
	}
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pids)
}

// all returns the pids so far. They are for telling workers and supervisors apart, never for signals.
func (c *counter) all() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]int(nil), c.pids...)
}

func (c *counter) close() {
	_ = c.file.Close() // nothing is written
	<-c.over
}
