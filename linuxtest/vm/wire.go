package vm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// job is what the guest is told: a file in its initramfs.
type job struct {
	Root     bool      `json:"root,omitempty"`    // the first disk is the root file system
	Payload  bool      `json:"payload,omitempty"` // the next one goes to /src
	Env      []string  `json:"env,omitempty"`
	Programs []Program `json:"programs"`
}

// Program is one program to be run in the guest, in the order given.
type Program struct {
	Name  string        `json:"name"` // for the report; a Go package's import path
	Path  string        `json:"path"` // in the guest
	Args  []string      `json:"args,omitempty"`
	Dir   string        `json:"dir,omitempty"`   // "" is /
	Env   []string      `json:"env,omitempty"`   // in addition
	Limit time.Duration `json:"limit,omitempty"` // SIGQUIT after it, SIGKILL 10 s later; 0 is ten minutes
	Cold  bool          `json:"cold,omitempty"`  // with a System: boot for it, and let it reboot
}

// message is what the guest tells, one JSON object in a frame.
type message struct {
	Type    string   `json:"type"` // ready, start, end, error, bye; up and restart of a system
	Guest   *Guest   `json:"guest,omitempty"`
	Program int      `json:"program"`
	Exit    *Exit    `json:"exit,omitempty"`
	Text    string   `json:"text,omitempty"`
	Left    []string `json:"left,omitempty"` // processes that outlived their program
}

// Guest is what the guest found out about its kernel.
type Guest struct {
	Release     string          `json:"release"`
	Controllers []string        `json:"controllers"`
	Features    map[string]bool `json:"features"`
	Tier        string          `json:"tier"`
	Uptime      float64         `json:"uptime"` // seconds, when the guest was ready
}

// Exit says how a program ended.
type Exit struct {
	Code    int     `json:"code"` // -1 when it was killed
	Signal  string  `json:"signal,omitempty"`
	Late    bool    `json:"late,omitempty"` // it ran into its limit
	Seconds float64 `json:"seconds"`
}

// portName is the virtio port between host and guest.
const portName = "org.pitvisor.linuxtest"

// Kinds of frames.
const (
	frameMessage = 'J'
	frameOutput  = 'O'
)

// sender writes frames: a byte that says what it is, the length, the content.
type sender struct {
	mu sync.Mutex // guards w: programs' output and messages come from different goroutines
	w  io.Writer
}

func (s *sender) send(kind byte, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data)))
	_, err := s.w.Write(append(frame, data...))
	return err
}

func (s *sender) message(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.send(frameMessage, data)
}

// Write sends a part of a program's output.
func (s *sender) Write(data []byte) (int, error) {
	if err := s.send(frameOutput, data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// mostFrame is more than the guest ever puts into a frame.
const mostFrame = 16 << 20

// receive reads one frame. io.EOF after the last one.
func receive(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > mostFrame || head[0] != frameMessage && head[0] != frameOutput {
		return 0, nil, fmt.Errorf("a frame of kind %q with %d bytes", head[0], n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("read a frame of %d bytes: %w", n, err)
	}
	return head[0], data, nil
}

// limit is how long the program may run.
func (p Program) limit() time.Duration {
	if p.Limit == 0 {
		return 10 * time.Minute
	}
	return p.Limit
}
