package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/spawn"
)

// strikeTime is how long after a strike an end that may have another cause is told
// together with it.
const strikeTime = 10 * time.Second

// strike is what somebody has done to the processes of a start by a command, without
// the supervisor's doing.
type strike struct {
	sig  unix.Signal
	kill bool   // of everything in the leaf
	by   string // who
	at   time.Duration
}

// hit says whether the strike is how the main process ended. Of the last process of a
// leaf it is not known how it ended.
func (k *strike) hit(exit *spawn.Exit) bool {
	if k == nil {
		return false
	}
	return exit == nil && k.kill || exit != nil && exit.Signal == k.sig
}

// cause is what a strike has to do with an end at that time; nil is nothing.
func (k *strike) cause(exit *spawn.Exit, at time.Duration) error {
	switch {
	case k == nil:
		return nil
	case k.hit(exit) && k.kill:
		return fmt.Errorf("killed by a command of %s", k.by)
	case k.hit(exit):
		return fmt.Errorf("by a command of %s", k.by)
	case at-k.at <= strikeTime:
		return fmt.Errorf("%v after %s by a command of %s", (at - k.at).Round(time.Millisecond), units.SignalName(k.sig), k.by)
	}
	return nil
}

// Strike says that somebody, named for people, is about to send a signal to the
// processes of a start, or with kill to kill its leaf. When the start ends by that, the
// cause is told. It changes nothing else: the worker ends by itself, as far as its pool
// is concerned.
func (s *Supervisor) Strike(ctx context.Context, id WorkerID, start uint64, sig unix.Signal, kill bool, by string) error {
	err := s.ask(ctx, func() error {
		p := s.poolNamed(id.Pool)
		if p == nil || id.Slot < 0 || id.Slot >= len(p.slots) {
			return ErrNoMatch
		}
		now := s.now()
		s.step(p.slots[id.Slot], input{kind: inStruck, start: start, at: now, strike: &strike{sig: sig, kill: kill, by: by, at: now}})
		return nil
	})
	if errors.Is(err, ErrEnding) {
		return nil // whatever ends now ends because everything does
	}
	return err
}
