package supervise

import (
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestSlotIsSmall(t *testing.T) {
	if got := unsafe.Sizeof(slot{}); got > 256 {
		t.Errorf("size of slot = %d bytes, want at most 256", got)
	}
}

// TestIdleCostsNothing: no wake-up, one descriptor per worker, few threads.
func TestIdleCostsNothing(t *testing.T) {
	size := linuxtest.Times(200, 50)
	before := len(openFiles(t, os.Getpid()))
	r := begin(t, sleeper("web", size))
	r.await("ready", size, kind(EventReady))
	linuxtest.Wait(t, patience, func() (bool, string) {
		// The garbage collector and the runtime's own monitor go to sleep too.
		woken := switches(t)
		pause(300 * time.Millisecond)
		n := switches(t) - woken
		return n <= 6, "the process still wakes up" // 6: this question itself
	})
	if n := len(openFiles(t, os.Getpid())) - before; n > size+30 {
		t.Errorf("%d descriptors for %d workers, want at most %d", n, size, size+30)
	}
	r.mu.Lock()
	pending := len(r.timers.heap)
	r.mu.Unlock()
	if pending != 0 {
		t.Errorf("%d timers while idle, want none", pending)
	}
}

// pause waits without waking anything.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
