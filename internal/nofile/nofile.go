//go:build amd64 || arm64

package nofile

// Limit is what the kernel calls struct rlimit64.
type Limit struct{ Soft, Hard uint64 }

// original is what the program was started with.
var original = current()

// read leaves a limit as it is if the kernel does not tell it.
//
//go:noescape
func read(limit *Limit)

func current() (limit Limit) {
	read(&limit)
	return limit
}

// Original returns what the program was started with, and whether package syscall, and
// nobody after it, has raised the soft limit: to one below the hard one.
func Original() (limit Limit, raised bool) {
	raised = original.Soft+1 < original.Hard && current() == Limit{original.Hard - 1, original.Hard}
	return original, raised
}
