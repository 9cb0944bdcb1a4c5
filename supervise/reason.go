package supervise

import "fmt"

// Reason says why a worker is started or stopped, or why a rollout began.
type Reason uint8

// The reasons.
const (
	ReasonNone        Reason = iota
	ReasonBoot               // the supervisor, or the pool, begins
	ReasonShutdown           // the supervisor ends
	ReasonCommand            // somebody asked for it
	ReasonScale              // the pool got another size
	ReasonRestart            // a rolling restart
	ReasonReload             // the pool got another spec
	ReasonSurge              // stands in while others are replaced
	ReasonAge                // recycled: it has reached its age
	ReasonMemory             // recycled: its leaf holds too much memory
	ReasonCount              // recycled: it has done its count
	ReasonExited             // the worker ended by itself
	ReasonStartFailed        // the start before failed
	ReasonUnhealthy          // the liveness rule failed
	ReasonRollback           // the spec before, because the new one did not become ready
	ReasonAnnounced          // the worker has said that it is stopping
	ReasonPressure           // a resource is short, or is not any more
)

// String returns the reason in kebab case; of ReasonNone it is empty.
func (r Reason) String() string {
	words := [...]string{
		"", "boot", "shutdown", "command", "scale", "restart", "reload", "surge", "age", "memory", "count",
		"exited", "start-failed", "unhealthy", "rollback", "announced", "pressure",
	}
	if int(r) < len(words) {
		return words[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}
