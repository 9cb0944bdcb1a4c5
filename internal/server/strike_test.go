package server

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/pidfd"
)

// exitOf waits for the next event that tells the end of a worker.
func (r *rig) exitOf(since uint64) api.Event {
	r.Helper()
	for e, err := range r.Events(r.ctx(), api.EventOptions{Since: since, All: true, Kinds: []string{"exited", "start-failed"}}) {
		if err != nil {
			r.Fatal(err)
		}
		return e
	}
	r.Fatal("no event")
	return api.Event{}
}

// kill kills the main process of the only worker behind the supervisor's back.
func (r *rig) kill() {
	r.Helper()
	p, err := pidfd.Open(r.ready().Workers[0].PID)
	if err != nil {
		r.Fatal(err)
	}
	if err := errors.Join(p.Signal(unix.SIGKILL), p.Close()); err != nil {
		r.Fatal(err)
	}
}

// TestCommandIsTheCause: an end by kill or signal is told as what it is, with who asked
// for it; any other is not.
func TestCommandIsTheCause(t *testing.T) {
	me := fmt.Sprintf("uid %d", os.Geteuid())
	r := begin(t, nil, sleepers(t, "web", 1))
	signal := func(name string, all bool) {
		if _, err := r.Signal(r.ctx(), api.Action{Select: []string{"web/0"}, Signal: name, All: all}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		do           func()
		reason, text string
	}{
		{func() { signal("TERM", false) }, "command", "by a command of " + me},
		{func() { signal("KILL", true) }, "command", "by a command of " + me},
		{func() {
			signal("URG", false) // ends nobody
			r.kill()
		}, "", "after SIGURG by a command of " + me},
		{r.kill, "", ""},
		{func() {
			if _, err := r.Kill(r.ctx(), api.Action{Select: []string{"web/0"}}); err != nil {
				t.Fatal(err)
			}
		}, "command", "killed by a command of " + me},
	} {
		status := r.ready()
		c.do()
		e := r.exitOf(status.Seq)
		if e.Reason != c.reason || !strings.Contains(e.Error, c.text) || c.text == "" && e.Error != "" {
			t.Errorf("told %+v, want %q %q", e, c.reason, c.text)
		}
	}
	if c := r.ready().Workers[0].Cause; c != "SIGKILL: killed by a command of "+me {
		t.Errorf("cause %q", c)
	}
}
