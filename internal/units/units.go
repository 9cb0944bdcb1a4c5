// Package units reads durations, sizes and signals as people write them.
//
// It is not for what the kernel writes.
package units

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unit returns how long a unit of time is; 0 if there is none of that name.
func unit(name string) time.Duration {
	switch name {
	case "ns", "nsec":
		return time.Nanosecond
	case "us", "usec", "µs", "μs":
		return time.Microsecond
	case "ms", "msec":
		return time.Millisecond
	case "s", "sec", "second", "seconds":
		return time.Second
	case "m", "min", "minute", "minutes":
		return time.Minute
	case "h", "hr", "hour", "hours":
		return time.Hour
	case "d", "day", "days":
		return 24 * time.Hour
	case "w", "week", "weeks":
		return 7 * 24 * time.Hour
	}
	return 0
}

// Duration reads a duration as Go writes it ("1m30s") or as systemd does
// ("1min 30s"). A number without a unit is an error, but for 0.
func Duration(text string) (time.Duration, error) {
	rest := strings.TrimSpace(text)
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, errors.New("it is empty")
	}
	total := 0.0
	for rest != "" {
		number, after := cutNumber(rest)
		if number == "" {
			return 0, fmt.Errorf("no number at %q", shorten(rest))
		}
		after = strings.TrimLeft(after, " ")
		end := strings.IndexFunc(after, func(r rune) bool { return r == ' ' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '+' })
		if end < 0 {
			end = len(after)
		}
		name := after[:end]
		length := unit(name)
		if name == "" {
			return 0, fmt.Errorf("%s has no unit", number)
		}
		if length == 0 {
			return 0, fmt.Errorf("unknown unit %q", shorten(name))
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number", shorten(number))
		}
		total += f * float64(length)
		rest = strings.TrimLeft(after[end:], " ")
	}
	if total >= math.MaxInt64 {
		return 0, errors.New("it is longer than 292 years")
	}
	return time.Duration(math.Round(total)), nil
}

// cutNumber cuts a decimal number off the front.
func cutNumber(text string) (number, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

func shorten(text string) string {
	if len(text) <= 20 {
		return text
	}
	return string([]rune(text[:20])) + "..."
}

// Size reads a number of bytes: "512", "512K", "1.5G", "1GiB". As with
// systemd and the kernel, K is 1024; KB is refused because it may mean either.
func Size(text string) (int64, error) {
	text = strings.TrimSpace(text)
	number, suffix := cutNumber(text)
	suffix = strings.TrimSpace(suffix)
	if number == "" {
		return 0, errors.New("it does not begin with a number")
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", shorten(number))
	}
	power, err := sizeUnit(suffix)
	if err != nil {
		return 0, err
	}
	f *= math.Pow(1024, float64(power))
	if f > 1<<60 {
		return 0, errors.New("it is larger than any memory")
	}
	if f != math.Trunc(f) && power == 0 {
		return 0, errors.New("half a byte does not exist")
	}
	return int64(f), nil
}

// sizeUnit returns which power of 1024 a unit of size is.
func sizeUnit(name string) (int, error) {
	switch name {
	case "", "B":
		return 0, nil
	case "KB", "kB", "k", "MB", "m", "GB", "g", "TB", "t":
		return 0, fmt.Errorf("unknown unit %q, write %q", name, strings.ToUpper(name[:1]))
	}
	for i, letter := range []string{"K", "M", "G", "T", "P"} {
		if name == letter || name == letter+"iB" {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("unknown unit %q", shorten(name))
}
