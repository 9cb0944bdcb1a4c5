package probe

import (
	"context"
	"errors"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"github.com/pitvisor/pitvisor/supervise"
)

// Watch returns when the worker is unwell, or ctx is done.
func (v *vigil) Watch(ctx context.Context, p *pidfd.Process, leaf *cgroup.Dir, ready supervise.ReadyInfo) error {
	v.main, v.leaf, v.linePort = p, leaf, ready.Port
	if !v.rules.any() {
		<-ctx.Done() // it only counts
		return context.Cause(ctx)
	}
	inner, cancel := context.WithCancel(ctx)
	defer v.readers.Wait()
	defer cancel()
	v.follow(inner)
	v.look()
	return v.watch(ctx)
}

// watch checks until the worker is unwell, or ctx is done.
func (v *vigil) watch(ctx context.Context) error {
	timer, beat := time.NewTimer(v.lv.live.Delay), time.NewTimer(time.Hour)
	defer timer.Stop()
	defer beat.Stop()
	beat.Stop() // until the worker chooses another interval
	var all, beats score
	for {
		var rule string
		var err error
		s := &all
		select {
		case <-timer.C:
			timer.Reset(v.lv.live.Period)
			if v.asleep() {
				v.rearm(beat)
				continue
			}
			rule, err = v.check(ctx)
			timer.Reset(v.lv.live.Period)
		case <-v.retimed():
			v.own = true
			v.rearm(beat)
			continue
		case <-beat.C:
			v.rearm(beat)
			if v.asleep() {
				timer.Reset(v.lv.live.Period)
				continue
			}
			s, rule, err = &beats, notifyRule, v.checkNotify(ctx)
		case <-v.triggered():
			return &UnwellError{Rule: "sd_notify", Checks: 1, Last: errors.New("the worker sent WATCHDOG=trigger")}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil && v.asleep() {
			continue // it was frozen meanwhile
		}
		switch failures := s.add(err == nil, &v.lv.live); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && v.gone() != nil:
			<-ctx.Done() // that it has ended is seen by others
			return context.Cause(ctx)
		case err != nil && failures >= v.lv.live.Failures:
			return &UnwellError{Rule: rule, Checks: failures, Last: err}
		}
	}
}

// asleep says that a check would mean nothing: the worker is frozen, or was when that was
// looked at last. Then the time for its heartbeats begins anew.
func (v *vigil) asleep() bool {
	events, err := v.leaf.Events()
	was := v.frozen
	v.frozen = err == nil && events.Frozen // a leaf that is gone is not frozen
	if was && !v.frozen {
		v.look()
		for stream, b := range v.lines {
			v.seen[stream] = b.beats.Load()
		}
	}
	return was || v.frozen
}

// score is how the checks of a worker went.
type score struct{ failures, successes int }

// add counts one check, and returns how many have failed in a row.
func (s *score) add(held bool, l *Live) int {
	if !held {
		s.successes = 0
		s.failures++
		return s.failures
	}
	if s.successes++; s.successes >= l.Successes {
		s.failures = 0
	}
	return s.failures
}

// rearm sets the timer for the next heartbeat where the worker has chosen its interval.
func (v *vigil) rearm(beat *time.Timer) {
	if !v.own {
		return
	}
	if every := v.notify.interval(); every > 0 {
		beat.Reset(max(every, minBeat))
	} else {
		beat.Stop()
	}
}

// retimed returns what tells that the worker has chosen another interval.
func (v *vigil) retimed() <-chan struct{} {
	if !v.rules.Notify {
		return nil
	}
	return v.notify.retimed
}

// triggered returns what tells that the worker calls itself unwell.
func (v *vigil) triggered() <-chan struct{} {
	if !v.rules.Notify {
		return nil
	}
	return v.notify.trigger
}
