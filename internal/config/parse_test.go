package config

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestSignals(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		`"TERM"`: unix.SIGTERM, `"SIGTERM"`: unix.SIGTERM, `"int"`: unix.SIGINT, `15`: unix.SIGTERM, `"9"`: unix.SIGKILL,
		`"RTMIN"`: 34, `"SIGRTMIN+3"`: 37, `"RTMAX"`: 64, `"RTMAX-1"`: 63, `64`: 64, `"USR1"`: unix.SIGUSR1,
	} {
		if got := pool(t, "stop_signal = "+text).Spec.Stop.Signal; got != want {
			t.Errorf("stop_signal = %s is %d, want %d", text, got, want)
		}
	}
	for _, text := range []string{`""`, `"SIG"`, `"RTMIN-1"`, `"RTMIN+31"`, `"RTMAX+1"`, `"RTMIN3"`, `"-1"`, `-1`, `1.5`} {
		if got := errorsOf(t, valid+"stop_signal = "+text+"\n"); len(got) != 1 {
			t.Errorf("stop_signal = %s: %q, want one error", text, got)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	words := []string{"command", "size", "env", "stop_grace", "memory.max"}
	for found, want := range map[string]string{
		"comand": "command", "commnad": "command", "Command": "command", "sise": "size", "stop-grace": "stop_grace", "stopGrace": "stop_grace",
		"memory_max": "memory.max", "envs": "env", "xyz": "", "e": "", "completely": "",
	} {
		hint := ""
		if want != "" {
			hint = `did you mean "` + want + `"?`
		}
		if got := didYouMean(found, words); got != hint {
			t.Errorf("didYouMean(%q) = %q, want %q", found, got, hint)
		}
	}
}
