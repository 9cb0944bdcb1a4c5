package supervise

import (
	"context"
	"runtime"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// Before Linux 5.14 a leaf is killed by freezing it. What is spawned into it at that moment
// must not be frozen before its exec, for which the runtime would wait for ever.
func TestWorkersAreKilledBesideVisits(t *testing.T) {
	linuxtest.NeedClone3(t)
	n := linuxtest.Times(200, 50)
	r := begin(t, sleeper("web", n))
	r.await("ready", n, kind(EventReady))
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // for which all have to stand still
			}
		}
	}()
	for slot := range n {
		id := WorkerID{"web", slot}
		visited, over := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(over)
			for r.visitOnce(id) {
				select {
				case visited <- struct{}{}:
				default:
				}
			}
		}()
		<-visited
		if _, err := r.Kill(t.Context(), only(id.String())); err != nil {
			t.Error(err)
		}
		<-over
	}
	r.await("stopped", n, kind(EventStopped))
}

// visitOnce returns false when there is nobody to visit any more.
func (r *rig) visitOnce(id WorkerID) bool {
	v, err := r.Visit(id, 1)
	if err != nil {
		return false
	}
	defer r.leave(v)
	p, err := v.Exec(VisitCommand{Args: []string{"true"}})
	if err != nil {
		return true // it has just ended
	}
	_, _ = p.Wait(context.Background()) // killed or not
	_ = p.Close()                       // a pidfd
	return true
}

// TestNoVisitorSpawnsWhileALeafIsFrozenToBeKilled is the same, step by step.
func TestNoVisitorSpawnsWhileALeafIsFrozenToBeKilled(t *testing.T) {
	p := &pool{}
	p.visiting.RLock() // somebody spawns
	killed := make(chan bool, 1)
	kill := func() error {
		free := p.visiting.TryRLock()
		if free {
			p.visiting.RUnlock()
		}
		killed <- free
		return nil
	}
	if err := p.withoutVisits(false, kill); err != nil || !<-killed {
		t.Errorf("a kill that freezes nothing: %v; it keeps visitors out", err)
	}
	over := make(chan error, 1)
	go func() { over <- p.withoutVisits(true, kill) }()
	p.visiting.RUnlock()
	if err := <-over; err != nil || <-killed {
		t.Errorf("a kill that freezes: %v; it does not keep visitors out", err)
	}
}
