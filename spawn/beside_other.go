//go:build !amd64 && !arm64

package spawn

import "golang.org/x/sys/unix"

// startBeside has no assembly for this processor.
func (b *Beside) startBeside([]uintptr, *namespaces) (*Process, error) {
	return nil, b.fail(CauseNamespace, "enter namespaces: not on this processor", unix.ENOSYS)
}
