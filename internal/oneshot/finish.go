package oneshot

import (
	"context"
	"errors"
	"time"

	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// freezeTime bounds the wait for a run that is frozen to be looked at.
const freezeTime = time.Second

// finish looks at what is left of the run, kills it, and measures. Removing is for
// close.
func (j *job) finish() error {
	empty, err := j.keeper.empty()
	if err != nil {
		return err
	}
	if !empty {
		if err := j.endRest(); err != nil {
			return err
		}
	}
	j.result.Ended = time.Now()
	if j.spec.Measure != nil {
		j.keeper.measure(j.spec.Measure)
	}
	return nil
}

// endRest names what is left and kills it. A list that cannot be made is no reason to
// leave anything alive.
func (j *job) endRest() error {
	j.result.Left, j.result.LeftErr = j.keeper.left(j.command())
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := j.keeper.kill(ctx); err != nil {
		return nil // close tries again, and names what is in the way
	}
	exit, err := j.proc.Wait(ctx) // it may have been killed with the rest
	if err != nil {
		return err
	}
	j.result.Exit = exit
	return nil
}

// command is what tells the leftovers from the command.
func (j *job) command() leftover.Command {
	c := leftover.Command{Session: -1, Group: j.result.PID, UID: uint32(unix.Geteuid()), RunID: j.result.Run.ID.String()}
	if j.term != nil {
		c.Group = unix.Getpgrp()
	}
	if cr := j.spec.Command.Credential; cr != nil {
		c.UID = cr.UID
	}
	if sid, err := unix.Getsid(0); err == nil {
		c.Session = sid
	}
	if _, err := j.proc.Reap(); errors.Is(err, spawn.ErrRunning) {
		if leader, err := j.proc.Handle().Identity(); err == nil {
			c.Leader = leader
		}
	}
	return c
}
