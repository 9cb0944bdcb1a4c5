package supervise

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// maxWorkers bounds the workers of one supervisor; more do not fit into a
// host's PIDs anyway.
const maxWorkers = 1 << 20

func (o *Options) validate() error {
	if o.Run == nil {
		return errors.New("no run")
	}
	if o.Spawners < 0 {
		return fmt.Errorf("%d spawners", o.Spawners)
	}
	if err := o.RunSpec.validate(); err != nil {
		return err
	}
	return validateAll(o.Pools)
}

func validateAll(specs []PoolSpec) error {
	total := 0
	seen := map[string]bool{}
	for i := range specs {
		p := &specs[i]
		if err := p.validate(); err != nil {
			return fmt.Errorf("pool %q: %w", p.Name, err)
		}
		if seen[p.Name] {
			return fmt.Errorf("pool %q: is there twice", p.Name)
		}
		seen[p.Name] = true
		total += p.Size
	}
	if total > maxWorkers {
		return fmt.Errorf("%d workers, more than %d", total, maxWorkers)
	}
	return checkAfter(specs)
}

func (p *PoolSpec) validate() error {
	if !validName(p.Name) {
		return errors.New("name is not [a-z0-9][a-z0-9_-]{0,62}")
	}
	if p.Size < 1 || p.Size > maxWorkers {
		return fmt.Errorf("size %d is not within 1 and %d", p.Size, maxWorkers)
	}
	if p.Command.Path == "" {
		return errors.New("no command")
	}
	if p.Restart > RestartNever {
		return fmt.Errorf("unknown restart policy %v", p.Restart)
	}
	if p.Track > TrackLeaf {
		return fmt.Errorf("unknown way to track %v", p.Track)
	}
	if p.FailureLimit < 0 {
		return fmt.Errorf("failure limit %d is negative", p.FailureLimit)
	}
	if s := p.Stop.Signal; s < 0 || s > 64 {
		return fmt.Errorf("stop signal %d is not within 1 and 64", int(s))
	}
	if err := notNegative("stop grace", p.Stop.Grace); err != nil {
		return err
	}
	if err := notNegative("start timeout", p.StartTimeout); err != nil {
		return err
	}
	if r := p.Rollout; r.MaxSurge < 0 || r.MaxUnavailable < 0 {
		return fmt.Errorf("a rollout of %d more and %d less is negative", r.MaxSurge, r.MaxUnavailable)
	}
	for what, d := range map[string]time.Duration{"drain time": p.Stop.Drain, "least time ready": p.Rollout.MinReady, "time for progress": p.Rollout.Progress} {
		if err := notNegative(what, d); err != nil {
			return err
		}
	}
	return errors.Join(p.Recycle.validate(), p.Backoff.validate(), p.Pressure.validate(), validateInherit(p.Inherit))
}

func (r Recycle) validate() error {
	if err := notNegative("recycle age", r.Age); err != nil {
		return err
	}
	if !(r.AgeJitter >= 0 && r.AgeJitter <= 1) {
		return fmt.Errorf("recycle jitter %v is not within 0 and 1", r.AgeJitter)
	}
	if r.Memory < 0 {
		return fmt.Errorf("recycle memory %d is negative", r.Memory)
	}
	return notNegative("interval of recycle memory", r.MemoryEvery)
}

func (b Backoff) validate() error {
	for what, d := range map[string]time.Duration{"backoff min": b.Min, "backoff max": b.Max, "backoff reset": b.Reset} {
		if err := notNegative(what, d); err != nil {
			return err
		}
	}
	if b.Max != 0 && b.Max < b.Min {
		return fmt.Errorf("backoff max %v is less than min %v", b.Max, b.Min)
	}
	if b.Factor != 0 && !(b.Factor >= 1) || math.IsInf(b.Factor, 0) {
		return fmt.Errorf("backoff factor %v is less than 1", b.Factor)
	}
	if !(b.Jitter >= 0 && b.Jitter <= 1) {
		return fmt.Errorf("backoff jitter %v is not within 0 and 1", b.Jitter)
	}
	if b.Free < 0 {
		return fmt.Errorf("%d free restarts", b.Free)
	}
	return nil
}

func notNegative(what string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s %v is negative", what, d)
	}
	return nil
}

// validName says whether a pool may have the name. It becomes a directory, a
// part of log lines and an environment variable.
func validName(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' || name[0] == '_' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
