package supervise

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Until says how far another pool must have come.
type Until uint8

// The conditions of a [Dependency].
const (
	UntilReady     Until = iota // every worker of it was ready once
	UntilStarted                // every worker of it was executed once
	UntilCompleted              // every worker of it has completed
)

// String returns the condition as it is written in a configuration.
func (u Until) String() string {
	switch u {
	case UntilReady:
		return "ready"
	case UntilStarted:
		return "started"
	case UntilCompleted:
		return "completed"
	}
	return fmt.Sprintf("until(%d)", uint8(u))
}

// Dependency lets a pool wait for another one before its workers are started for
// the first time. When everything ends it ends before the other one.
type Dependency struct {
	Pool  string
	Until Until
}

// met says whether the crew has come so far.
func (u Until) met(c *crew) bool {
	switch u {
	case UntilStarted:
		return c.begun >= c.size
	case UntilCompleted:
		return c.done >= c.size
	case UntilReady:
	}
	return c.proven >= c.size
}

// releaseHeld starts the pools that have waited long enough. The caller holds mu.
func (s *Supervisor) releaseHeld() {
	if s.halting.Load() {
		return
	}
	for _, p := range s.pools {
		p.awaited = false
	}
	for _, p := range s.pools {
		if !p.crew.held || p.going {
			continue
		}
		if missing := s.missing(p); missing != "" {
			s.keepWaiting(p, missing)
			continue
		}
		p.crew.boot(ReasonBoot)
		s.collect(p)
		s.wait(p, "")
	}
}

// missing says in words what a pool waits for; empty is nothing.
func (s *Supervisor) missing(p *pool) string {
	var texts []string
	p.hopeless = false
	for _, d := range p.after {
		q := s.poolNamed(d.Pool)
		if q == nil || d.Until.met(&q.crew) {
			continue // who was removed is not waited for
		}
		q.awaited = true
		text := fmt.Sprintf("pool %s to be %v", d.Pool, d.Until)
		if q.open == 0 || q.crew.held && q.hopeless {
			text += ", which will not be"
			p.hopeless = true
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " and ")
}

// keepWaiting tells, when it is news, what a pool waits for.
func (s *Supervisor) keepWaiting(p *pool, missing string) {
	text := "waits for " + missing
	if p.waitsFor == text {
		return
	}
	s.wait(p, text)
	s.emit(Event{Worker: WorkerID{Pool: p.name, Slot: -1}, Kind: EventWaiting, Err: errors.New(text)})
}

func (s *Supervisor) wait(p *pool, text string) {
	p.waitsFor = text
	s.members(p, func(i int32, _ *member) { s.slots[i].cause = text })
}

// poolNamed returns the pool of that name, nil if there is none.
func (s *Supervisor) poolNamed(name string) *pool {
	for _, p := range s.pools {
		if p.name == name {
			return p
		}
	}
	return nil
}

// checkAfter refuses dependencies on nobody, and on oneself by whatever way.
func checkAfter(specs []PoolSpec) error {
	after := map[string][]Dependency{}
	restarts := map[string]RestartPolicy{}
	for i := range specs {
		after[specs[i].Name] = specs[i].After
		restarts[specs[i].Name] = specs[i].Restart
	}
	for i := range specs {
		for _, d := range specs[i].After {
			restart, known := restarts[d.Pool]
			switch {
			case !known:
				return fmt.Errorf("pool %q: comes after pool %q, which there is not", specs[i].Name, d.Pool)
			case d.Until > UntilCompleted:
				return fmt.Errorf("pool %q: unknown condition %v", specs[i].Name, d.Until)
			case d.Until == UntilCompleted && restart == RestartAlways:
				return fmt.Errorf("pool %q: waits until pool %q has completed, which it never does: its workers are always restarted", specs[i].Name, d.Pool)
			}
		}
		if way := circle(after, specs[i].Name, nil); way != nil {
			return fmt.Errorf("pool %q: comes after itself: %s", specs[i].Name, strings.Join(way, " after "))
		}
	}
	return nil
}

// circle returns a way from the last name back to the first, nil if there is none.
func circle(after map[string][]Dependency, name string, way []string) []string {
	way = append(way, name)
	if len(way) > 1 && name == way[0] {
		return way
	}
	if slices.Contains(way[:len(way)-1], name) {
		return nil // another circle, which is found from there
	}
	for _, d := range after[name] {
		if found := circle(after, d.Pool, way); found != nil {
			return found
		}
	}
	return nil
}
