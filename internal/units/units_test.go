package units

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "10s": 10 * time.Second, "1m30s": 90 * time.Second, "1min 30s": 90 * time.Second,
		"1.5h": 90 * time.Minute, "2 days": 48 * time.Hour, "1w": 168 * time.Hour, "5 sec": 5 * time.Second,
		"100ms": 100 * time.Millisecond, "3us": 3 * time.Microsecond, "3µs": 3 * time.Microsecond, " 1s ": time.Second,
		"1h2min3s4ms": time.Hour + 2*time.Minute + 3*time.Second + 4*time.Millisecond,
	} {
		if got, err := Duration(text); got != want || err != nil {
			t.Errorf("Duration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "s", "1", "1 ", "-1s", "+1s", "1s -1s", "1x", "1M", "1..5s", ".", "1e3s", "1s2", "١s", "99999999999h"} {
		if got, err := Duration(text); err == nil {
			t.Errorf("Duration(%q) = %v, want an error", text, got)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "512B": 512, "1K": 1024, "1KiB": 1024, "512M": 512 << 20, "1.5G": 3 << 29, "1GiB": 1 << 30, "2T": 2 << 40, "1 M": 1 << 20,
	} {
		if got, err := Size(text); got != want || err != nil {
			t.Errorf("Size(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1KB", "1m", "1X", "1iB", "1MiBx", "1.5", "9999P", "1..2K", "0x10"} {
		if got, err := Size(text); err == nil {
			t.Errorf("Size(%q) = %v, want an error", text, got)
		}
	}
}
