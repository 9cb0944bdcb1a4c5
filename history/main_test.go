package history

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{
		"nobody":    modeNobody,
		"full-disk": modeFullDisk,
	})
}

// modeNobody gives up root for good before it writes.
func modeNobody(args []string) int {
	const nobody = 65534
	err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
	if err != nil {
		return fail(err)
	}
	return writeTwo(args[0])
}

// fail is the end of a helper process.
func fail(err error) int {
	fmt.Fprintln(os.Stderr, "helper:", err)
	return 1
}
