package guardian

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// modeWitnessed leads a process group with a witness. It says what is pending for that
// on each order, and stops it on the order "stop".
func modeWitnessed([]string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGWINCH, unix.SIGCONT, unix.SIGHUP)
	if err := unix.Setpgid(0, 0); err != nil {
		return complain(err)
	}
	w, err := StartWitness()
	if errors.Is(err, errors.ErrUnsupported) {
		fmt.Println("unsupported")
		return 0
	}
	if err != nil {
		return complain(err)
	}
	fmt.Println(w.clone.PID())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() == "stop" {
			if err := errors.Join(w.Stop(), w.Stop()); err != nil {
				return complain(err)
			}
			fmt.Println("stopped")
			continue
		}
		pending, err := w.Pending()
		if err != nil {
			return complain(err)
		}
		fmt.Println(pending)
	}
	return 0
}

// witnessed is a running modeWitnessed.
type witnessed struct {
	*linuxtest.Process
	witness linuxtest.Identity
	orders  *os.File
	lines   *bufio.Scanner
}

func startWitnessed(t *testing.T) *witnessed {
	t.Helper()
	ordersR, ordersW := pipe(t)
	linesR, linesW := pipe(t)
	w := &witnessed{orders: ordersW, lines: bufio.NewScanner(linesR)}
	w.Process = linuxtest.Command{
		Args: linuxtest.Helper(t, "witnessed"), Stdin: ordersR, Stdout: linesW, Stderr: os.Stderr,
	}.Start(t)
	_, _ = ordersR.Close(), linesW.Close() // the helper has its own
	if err := linesR.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	var pid int
	if !w.lines.Scan() {
		t.Fatalf("the helper said nothing: %v", w.lines.Err())
	}
	if w.lines.Text() == "unsupported" {
		linuxtest.Skip(t, "needs a clone that shares memory")
	}
	if _, err := fmt.Sscan(w.lines.Text(), &pid); err != nil {
		t.Fatalf("the helper said %q", w.lines.Text())
	}
	var ok bool
	if w.witness, ok = linuxtest.Identify(pid); !ok {
		t.Fatalf("no witness %d", pid)
	}
	return w
}

// order sends a line and returns the answer.
func (w *witnessed) order(t *testing.T, what string) string {
	t.Helper()
	if _, err := w.orders.WriteString(what + "\n"); err != nil {
		t.Fatal(err)
	}
	if !w.lines.Scan() {
		t.Fatalf("no answer to %q: %v", what, w.lines.Err())
	}
	return w.lines.Text()
}

// mustHave wants exactly these signals to be pending for the witness.
func (w *witnessed) mustHave(t *testing.T, signals ...unix.Signal) {
	t.Helper()
	var want uint64
	for _, s := range signals {
		want |= 1 << (s - 1)
	}
	if got := w.order(t, "pending"); got != fmt.Sprint(want) {
		t.Errorf("Pending() = %s, want %d for %v", got, want, signals)
	}
}

func (w *witnessed) gone(t *testing.T) {
	t.Helper()
	linuxtest.Wait(t, within, func() (bool, string) {
		now, alive := linuxtest.Identify(w.witness.PID)
		return !alive || now != w.witness, "the witness lives"
	})
}

func TestWitnessTellsTheGroupFromTheCaller(t *testing.T) {
	linuxtest.NoLeaks(t)
	w := startWitnessed(t)
	w.mustHave(t)
	for _, alone := range []unix.Signal{unix.SIGUSR1, unix.SIGINT, unix.SIGCONT} {
		if err := w.Signal(alone); err != nil {
			t.Fatal(err)
		}
	}
	w.mustHave(t)
	all := []unix.Signal{unix.SIGUSR2, unix.SIGINT, unix.SIGWINCH, unix.SIGCONT, unix.SIGHUP}
	for i, sig := range all {
		err := unix.PidfdSendSignal(w.FD(), sig, nil, killGroup)
		if err == unix.EINVAL {
			linuxtest.Skip(t, "needs pidfd_send_signal to a process group")
		}
		if err != nil {
			t.Fatal(err)
		}
		w.mustHave(t, all[:i+1]...)
	}
	if got := w.order(t, "stop"); got != "stopped" {
		t.Errorf("stop: %q", got)
	}
	w.gone(t)
	w.Kill(t)
}

// The witness keeps nothing open but the pidfd of its owner, and ends with that.
func TestWitnessEndsWithItsOwner(t *testing.T) {
	linuxtest.NoLeaks(t)
	w := startWitnessed(t)
	linuxtest.Wait(t, within, func() (bool, string) {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.witness.PID))
		return err == nil && len(open) == 1, fmt.Sprintf("it has %v open, %v", open, err)
	})
	w.Kill(t)
	w.gone(t)
}
