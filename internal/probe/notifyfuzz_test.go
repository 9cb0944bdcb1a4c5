package probe

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/supervise"
)

func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// FuzzNotifyMessage: whatever a worker sends, its descriptors are either stored, within
// the bound, or closed, and what is told is within bounds.
func FuzzNotifyMessage(f *testing.F) {
	for _, text := range []string{
		"READY=1", "STATUS=\xff\nREADY=1", "FDSTORE=1\nFDNAME=x", "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=x", "BARRIER=1",
		"MAINPID=1\nERRNO=2\nEXTEND_TIMEOUT_USEC=18446744073709551615", "WATCHDOG_USEC=0\nWATCHDOG=trigger\nWATCHDOG=1",
		"RELOADING=1\nMONOTONIC_USEC=1\nSTOPPING=1\n\n=\n==", "X_PITVISOR_COUNT=1\x00",
	} {
		f.Add([]byte(text), uint8(2))
	}
	f.Fuzz(func(t *testing.T, text []byte, number uint8) {
		const most = 3
		store := &fdStore{}
		defer store.clear()
		n := &notice{leaf: "/nowhere", ready: make(chan struct{})}
		n.care(true, func(uint64) {})
		info := supervise.StartInfo{Start: 1}
		told := 0
		n.attach(&line{
			info: info, tell: func(func() supervise.Said) { told++ },
			keep: func(m *said, fds []int) int { return store.keep(info, most, m, fds) },
		})
		defer n.detach()
		var fds, sent []int
		for range number % 8 {
			fd, err := unix.MemfdCreate("sent", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		sent = append(sent, fds...)
		got := n.hear(parseNotify(text), fds)
		stored := len(store.slots[info.Worker])
		if stored > most || got.closed != len(sent)-stored {
			t.Errorf("%d sent, %d stored, %d closed", len(sent), stored, got.closed)
		}
		open := 0
		for _, fd := range sent {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				open++
			}
		}
		if open != stored {
			t.Errorf("%d descriptors are open, %d are stored", open, stored)
		}
		now := n.take()
		if now.Main != nil || now.Extend < 0 || now.Extend > maxWish || len(now.Status) > maxShown+len("...") || now.Errno < 0 || told > 1 {
			t.Errorf("told %d times, %+v", told, now)
		}
	})
}
