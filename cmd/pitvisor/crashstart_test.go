package main

import (
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestCrashInStartsWithSockets: a supervisor that found its sockets taken by the dead one's
// workers is killed itself, before or while it sweeps, listens and starts.
func TestCrashInStartsWithSockets(t *testing.T) {
	w := newWorld(t)
	n := crashes(20)
	await := instants(t, n, 120*time.Millisecond)
	linuxtest.Bystander(t, linuxtest.Command{Args: []string{"/bin/sleep", "1000"}, Cgroup: linuxtest.Cgroup(t)})
	address := freePort(t)
	config := w.config(webConfig(t, address, "a", 3, ""))
	var all []*wreck
	for range n {
		u := w.up(config)
		await()
		all = append(all, u.crash(w))
	}
	last := w.up(config)
	last.ready(names("web", 3)...)
	for _, left := range all {
		left.isGone()
	}
	w.hasOneRun(all[n-1])
	if got := askOnce(t, address); got != "a http" {
		t.Errorf("it answers %q", got)
	}
	last.endsClean(w)
}

// TestCrashOfFrozenWithSockets: who has the sockets of the dead one is frozen.
func TestCrashOfFrozenWithSockets(t *testing.T) {
	w := newWorld(t)
	address := freePort(t)
	config := w.config(webConfig(t, address, "a", 2, ""))
	u := w.up(config)
	u.ready("web/0", "web/1")
	if _, err := w.client().Freeze(bounded(t), api.Action{Select: []string{"web"}}); err != nil {
		t.Fatal(err)
	}
	left := u.crash(w)
	if left.frozen < 2 {
		t.Errorf("%d cgroups are frozen, want those of two workers", left.frozen)
	}
	next := w.up(config)
	next.ready("web/0", "web/1")
	left.isGone()
	w.hasOneRun(left)
	if got := askOnce(t, address); got != "a http" {
		t.Errorf("it answers %q", got)
	}
	next.endsClean(w)
}
