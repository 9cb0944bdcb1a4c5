package supervise

import (
	"errors"
	"fmt"
	"time"

	"github.com/pitvisor/pitvisor/internal/pressure"
)

// Pressure says when a resource counts as short: when programs have waited for it for a
// share of the time, as the kernel measures (Documentation/accounting/psi). The zero
// value watches nothing.
type Pressure struct {
	Where PressurePlace

	// From which share of the time on, 0 to 1, some programs, or all of them at once
	// (Full), wait; 0 is not looked at.
	CPU, Memory, MemoryFull, IO, IOFull float64

	For     time.Duration // measured over so long; 0 means 10 s
	Calm    float64       // below which part of a share it is over, above 0 to 1; 0 means a half
	CalmFor time.Duration // measured over so long, and it lasts as long at least; 0 means 30 s
}

// PressurePlace says whose programs wait.
type PressurePlace uint8

// The places.
const (
	PressureOfHost PressurePlace = iota // any on this host
	PressureOfRun                       // those of the run
)

// String returns the place as it is written in a configuration.
func (p PressurePlace) String() string {
	switch p {
	case PressureOfHost:
		return "host"
	case PressureOfRun:
		return "run"
	}
	return fmt.Sprintf("place(%d)", uint8(p))
}

// PressureAction is what a pool does under pressure.
type PressureAction uint8

// The actions.
const (
	PressureHold   PressureAction = iota + 1 // nobody is started, whatever for; who runs goes on
	PressureShrink                           // a quarter of the workers goes, and another one each time it has lasted For once more
	PressureFreeze                           // the ready workers are frozen, pools of the least Priority first, and nobody is started
)

// String returns the action as it is written in a configuration.
func (a PressureAction) String() string {
	switch a {
	case PressureHold:
		return "hold-starts"
	case PressureShrink:
		return "shrink"
	case PressureFreeze:
		return "freeze"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// PressurePolicy is what a pool does under which pressure. The zero value is nothing.
//
// What was done is undone when the pressure is over: held starts go on at once, workers
// come back by quarters, and pools are thawed one priority after the other, the greatest
// first. Between two steps lies For, or CalmFor on the way back.
//
// Pressure may have another cause, and last for ever. What has been done for MaxFor is
// undone in the same way as if it were over, but that frozen pools do not wait for each
// other. Then the pool rests: while the pressure goes on it does nothing more until all
// was undone for MaxFor.
//
// A frozen worker keeps what it has and its connections, and is not checked for liveness.
// A stop thaws it, a kill does not need to. Who is not ready yet is frozen once it is.
type PressurePolicy struct {
	Pressure
	Action   PressureAction
	MinSize  int // PressureShrink leaves so many; 0 means 1
	Priority int // PressureFreeze

	MaxFor time.Duration // how long something is done at a time; 0 is as long as there is pressure
}

// PressureInfo is what was measured.
type PressureInfo struct {
	Where    PressurePlace
	Resource string        // "cpu", "memory" or "io"
	Kind     string        // "some" or "full"
	Share    float64       // of the time, 0 to 1
	Over     time.Duration // measured over so long
}

// String says it in words: "some programs of the host waited for memory 45% of 10s".
func (p PressureInfo) String() string {
	return fmt.Sprintf("%s programs of the %v waited for %s %.0f%% of %v", map[string]string{"some": "some", "full": "all"}[p.Kind], p.Where, p.Resource, 100*p.Share, p.Over)
}

// threshold is one share that is looked at.
type threshold struct {
	pressure.Source
	share float64
}

// thresholds are those that are set.
func (p *Pressure) thresholds() []threshold {
	var all []threshold
	for _, t := range []threshold{
		{pressure.Source{Resource: "cpu"}, p.CPU},
		{pressure.Source{Resource: "memory"}, p.Memory},
		{pressure.Source{Resource: "memory", Full: true}, p.MemoryFull},
		{pressure.Source{Resource: "io"}, p.IO},
		{pressure.Source{Resource: "io", Full: true}, p.IOFull},
	} {
		if t.share > 0 {
			all = append(all, t)
		}
	}
	return all
}

const (
	pressureFor     = 10 * time.Second
	pressureCalm    = 0.5
	pressureCalmFor = 30 * time.Second
	// leastPressure is what the kernel's triggers look at.
	leastPressure = 2 * time.Second
)

// filled puts in what is meant by 0.
func (p Pressure) filled() Pressure {
	if p.For == 0 {
		p.For = pressureFor
	}
	if p.Calm == 0 {
		p.Calm = pressureCalm
	}
	if p.CalmFor == 0 {
		p.CalmFor = pressureCalmFor
	}
	return p
}

func (p *Pressure) rule(t threshold) pressure.Rule {
	return pressure.Rule{Above: t.share, For: p.For, Below: t.share * p.Calm, CalmFor: p.CalmFor}
}

func (p *Pressure) validate() error {
	if p.Where > PressureOfRun {
		return fmt.Errorf("unknown place of pressure %v", p.Where)
	}
	for what, share := range map[string]float64{"cpu": p.CPU, "memory": p.Memory, "memory full": p.MemoryFull, "io": p.IO, "io full": p.IOFull, "calm": p.Calm} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("%s pressure %v is not within 0 and 1", what, share)
		}
	}
	for what, d := range map[string]time.Duration{"time of pressure": p.For, "time of calm": p.CalmFor} {
		if d != 0 && d < leastPressure {
			return fmt.Errorf("%s %v is less than %v", what, d, leastPressure)
		}
	}
	return nil
}

func (p *PressurePolicy) validate() error {
	switch {
	case p.Action > PressureFreeze:
		return fmt.Errorf("unknown action under pressure %v", p.Action)
	case p.Action == 0 && len(p.thresholds()) > 0:
		return errors.New("pressure without an action")
	case p.Action != 0 && len(p.thresholds()) == 0:
		return fmt.Errorf("%v under pressure, but of nothing", p.Action)
	case p.MaxFor != 0 && p.MaxFor < leastPressure:
		return fmt.Errorf("longest time under pressure %v is less than %v", p.MaxFor, leastPressure)
	case p.MinSize < 0 || p.MinSize > maxWorkers:
		return fmt.Errorf("least size %d under pressure is not within 0 and %d", p.MinSize, maxWorkers)
	}
	return p.Pressure.validate()
}
