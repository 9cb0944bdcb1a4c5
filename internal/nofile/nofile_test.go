//go:build amd64 || arm64

// Inside of the package these imports would put its initialisation off.
package nofile_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/nofile"
	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m, linuxtest.Modes{"limit": limitMode}) }

// limitMode prints the limit before and after this program has changed it itself.
func limitMode([]string) int {
	fmt.Println(nofile.Original())
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return 1
	}
	now.Cur = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return 1
	}
	fmt.Println(nofile.Original())
	return 0
}

func TestOriginalIsWhatTheProgramWasStartedWith(t *testing.T) {
	for limits, want := range map[string]string{
		"ulimit -Sn 100; ulimit -Hn 300": "{100 300} true\n{100 300} false",
		"ulimit -Sn 300; ulimit -Hn 300": "{300 300} false\n{300 300} false",
		"ulimit -Sn 299; ulimit -Hn 300": "{299 300} false\n{299 300} false",
	} {
		argv := append([]string{"/bin/sh", "-c", limits + `; exec "$@"`, "sh"}, linuxtest.Helper(t, "limit")...)
		if got := (linuxtest.Command{Args: argv}).Output(t, time.Minute); got != want {
			t.Errorf("after %s: %q, want %q", limits, got, want)
		}
	}
}
