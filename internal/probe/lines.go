package probe

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// maxShown bounds what an error quotes of a worker's output.
const maxShown = 200

// awaitLine waits for a line of the stream that matches.
func (a *attempt) awaitLine(ctx context.Context, stream string, re *regexp.Regexp) error {
	rule := fmt.Sprintf("%s line matching %q", stream, re)
	last := errors.New("no line was printed")
	seen := 0
	for line := range a.out.Lines(ctx, stream) {
		seen++
		m := re.FindStringSubmatch(line)
		if m == nil {
			last = fmt.Errorf("none of %d lines matched, the last was %q", seen, shorten(line))
			continue
		}
		port, err := capturedPort(re, m)
		if err != nil {
			last = fmt.Errorf("line %q: %w", shorten(line), err)
			continue
		}
		if a.linePort == 0 {
			a.linePort = port
		}
		return nil
	}
	if ctx.Err() == nil {
		return &NotReadyError{Rule: rule, Last: fmt.Errorf("the output ended: %w", last)}
	}
	return notReady(ctx, rule, last)
}

// capturedPort returns the port in a match, 0 when the expression captures
// none. An unnamed group that is no number is not meant as a port.
func capturedPort(re *regexp.Regexp, m []string) (int, error) {
	group := re.SubexpIndex("port")
	named := group >= 0
	if !named {
		group = 1
	}
	if group >= len(m) || m[group] == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(m[group])
	if err != nil && !named {
		return 0, nil
	}
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q is not 1 to 65535", m[group])
	}
	return n, nil
}

func shorten(s string) string {
	if len(s) > maxShown {
		return s[:maxShown] + "..."
	}
	return s
}
