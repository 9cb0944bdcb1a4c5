package probe

import (
	"errors"

	"github.com/pitvisor/pitvisor/supervise"
)

// Channel is what workers of a pool can say by sd_notify beside what its rules wait for,
// and what they can store.
type Channel struct {
	Notify *NotifyServer

	// Tell is told that a start has said something, which take returns: it is to be called
	// once. It must not block. It is not a part of what the workers are given.
	Tell func(info supervise.StartInfo, take func() supervise.Said)

	Store int // how many descriptors each worker may store for its next start; 0 is none
}

// channel is a Channel in use.
type channel struct{ Channel }

// NewChannel returns what opens the channel for each start of a pool.
func NewChannel(c Channel) (supervise.Inheritance, error) {
	if c.Notify == nil || c.Tell == nil {
		return nil, errors.New("open a channel for sd_notify: no notification server, or nobody to tell")
	}
	return &channel{c}, nil
}

// Equal says whether other gives workers the same.
func (c *channel) Equal(other any) bool {
	o, ok := other.(*channel)
	return ok && c.Notify == o.Notify && c.Store == o.Store
}

// Prepare opens the channel for one start, before it can say anything.
func (c *channel) Prepare(info supervise.StartInfo) (supervise.Inherited, error) {
	n := c.Notify.expect(info.Leaf, info.LeafID)
	l := &line{info: info, tell: func(take func() supervise.Said) { c.Tell(info, take) }}
	if c.Store > 0 {
		l.keep = func(m *said, fds []int) int { return c.Notify.store.keep(info, c.Store, m, fds) }
	}
	n.attach(l)
	got := supervise.Inherited{
		Env:    []string{"NOTIFY_SOCKET=" + c.Notify.path},
		Settle: c.Notify.drain,
		Done: func() {
			n.detach()
			c.Notify.forget(info.LeafID)
		},
	}
	var err error
	if c.Store > 0 {
		got.Files, got.Names, err = c.Notify.store.give(info.Worker, c.Store)
	}
	return got, err
}
