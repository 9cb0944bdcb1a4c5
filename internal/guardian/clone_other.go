//go:build !amd64 && !arm64

package guardian

import (
	"errors"
	"fmt"
	"runtime"
)

// startClone has no assembly for this processor.
func startClone(Options) (*Guardian, error) {
	return nil, fmt.Errorf("clone a guardian on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
}

func startWitness() (*Guardian, error) { return startClone(Options{}) }
