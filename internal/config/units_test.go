package config

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "10s": 10 * time.Second, "1m30s": 90 * time.Second, "1min 30s": 90 * time.Second,
		"1.5h": 90 * time.Minute, "2 days": 48 * time.Hour, "1w": 168 * time.Hour, "5 sec": 5 * time.Second,
		"100ms": 100 * time.Millisecond, "3us": 3 * time.Microsecond, "3µs": 3 * time.Microsecond, " 1s ": time.Second,
		"1h2min3s4ms": time.Hour + 2*time.Minute + 3*time.Second + 4*time.Millisecond,
	} {
		if got, err := parseDuration(text); got != want || err != nil {
			t.Errorf("parseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "s", "1", "1 ", "-1s", "+1s", "1s -1s", "1x", "1M", "1..5s", ".", "1e3s", "1s2", "١s", "99999999999h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512B": 512, "1K": 1024, "1KiB": 1024, "512M": 512 << 20, "1.5G": 3 << 29, "1GiB": 1 << 30, "2T": 2 << 40, "1 M": 1 << 20,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("parseSize(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1KB", "1m", "1X", "1iB", "1MiBx", "1.5", "9999P", "1..2K", "0x10"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %v, want an error", text, got)
		}
	}
}

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

func TestParseCPU(t *testing.T) {
	for text, want := range map[string][2]time.Duration{
		"150%": {150 * time.Millisecond, 100 * time.Millisecond}, "50000": {50 * time.Millisecond, 100 * time.Millisecond},
		"1000 1000000": {time.Millisecond, time.Second}, "12.5%": {12500 * time.Microsecond, 100 * time.Millisecond},
	} {
		if quota, period, err := parseCPU(text); quota != want[0] || period != want[1] || err != nil {
			t.Errorf("parseCPU(%q) = %v, %v, %v, want %v", text, quota, period, err, want)
		}
	}
	for _, text := range []string{"", "%", "NaN%", "0.5%", "-5%", "1", "1 2 3", "5000 10", "x y", "5000 2000000"} {
		if quota, period, err := parseCPU(text); err == nil {
			t.Errorf("parseCPU(%q) = %v, %v, want an error", text, quota, period)
		}
	}
}
