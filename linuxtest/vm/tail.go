package vm

import (
	"slices"
	"strings"
	"sync"
)

// tail keeps the end of what the console says, and the kernel's complaints.
type tail struct {
	mu         sync.Mutex // guards what follows
	text       []byte
	line       []byte // not finished yet
	complaints []string
}

const (
	mostTail       = 256 << 10
	mostComplaints = 50
)

// Write never fails.
func (t *tail) Write(data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, data...)
	if len(t.text) > 2*mostTail {
		t.text = slices.Clone(t.text[len(t.text)-mostTail:])
	}
	for _, b := range data {
		if b != '\n' {
			t.line = append(t.line, b)
			continue
		}
		line := strings.TrimSpace(string(t.line))
		t.line = t.line[:0]
		if complains(line) && len(t.complaints) < mostComplaints {
			t.complaints = append(t.complaints, line)
		}
	}
	return len(data), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// found returns the kernel's complaints.
func (t *tail) found() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.complaints)
}

// complains says whether a line of the console is about a fault of the kernel.
func complains(line string) bool {
	return slices.ContainsFunc([]string{
		"BUG: ", "WARNING: ", "Oops", "Kernel panic", "soft lockup", "blocked for more than", "general protection fault",
		"rcu_sched self-detected stall", "unable to handle",
	}, func(word string) bool { return strings.Contains(line, word) })
}
