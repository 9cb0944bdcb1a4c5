package cgroup

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func wantLocked(t testing.TB, d *Dir, want bool) {
	t.Helper()
	if got, err := d.Locked(); got != want || err != nil {
		t.Errorf("Locked = %v, %v, want %v", got, err, want)
	}
}

func TestLockExcludes(t *testing.T) {
	d := testDir(t)
	c := child(t, d, "run")
	wantLocked(t, c, false)
	wantNil(t, "Lock", c.Lock())
	wantLocked(t, c, true)
	again, err := d.OpenChild("run")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	wantErr(t, "Lock through another Dir", again.Lock(), ErrLocked)
	wantLocked(t, again, true)
	wantNil(t, "Close", c.Close())
	wantLocked(t, again, false)
	wantNil(t, "Lock", again.Lock())
}

// Promise 4: the lock is free as soon as its holder is dead, however it died.
func TestLockIsFreeAfterSIGKILL(t *testing.T) {
	d := testDir(t)
	run, leaf := child(t, d, "run"), child(t, d, "leaf")
	holder := helper(t, leaf, "call", "lock", run.Path())
	wantLocked(t, run, true)
	holder.Kill(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		locked, err := run.Locked()
		return !locked && err == nil, "still locked"
	})
	wantNil(t, "Lock", run.Lock())
}

func TestLockIsNotInherited(t *testing.T) {
	d := testDir(t)
	run, leaf := child(t, d, "run"), child(t, d, "leaf")
	holder := helper(t, leaf, "call", "lock", run.Path(), "/bin/sleep", "60")
	pids, err := leaf.PIDs()
	if err != nil || len(pids) != 2 {
		t.Fatalf("PIDs = %v, %v, want the holder and its child", pids, err)
	}
	holder.Kill(t)
	linuxtest.Wait(t, waitTime, func() (bool, string) {
		locked, err := run.Locked()
		return !locked && err == nil, "still locked, by the holder's child"
	})
	wantPopulated(t, leaf, true)
	wantNil(t, "Destroy", d.Destroy(within(t, waitTime), "leaf", 0))
}

func TestLockWaitsForOneWhoLooks(t *testing.T) {
	d := testDir(t)
	looking, err := openAt(d.fd, ".", dirFlags)
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(looking, unix.LOCK_SH); err != nil { // as Locked does
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { closeFD(looking) })
	wantNil(t, "Lock", d.Lock())
}

// Looking at a lock must not keep its rightful owner from taking it.
func TestLockBesideManyWhoLook(t *testing.T) {
	d := testDir(t)
	stop := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := d.Locked(); err != nil {
						t.Errorf("Locked = %v", err)
						return
					}
				}
			}
		})
	}
	for range 200 {
		c, err := Open(d.Path())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Lock(); err != nil {
			t.Errorf("Lock = %v, want nil", err)
		}
		c.Close()
	}
	close(stop)
	looking.Wait()
}

func TestXattrs(t *testing.T) {
	d := testDir(t)
	_, err := d.Xattr("user.pitvisor.run")
	wantErr(t, "Xattr that is not set", err, fs.ErrNotExist)
	for _, value := range [][]byte{[]byte("a"), {}, {0, '\n', 0xff}, bytes.Repeat([]byte("x"), 5000)} {
		wantNil(t, "SetXattr", d.SetXattr("user.pitvisor.run", value))
		got, err := d.Xattr("user.pitvisor.run")
		if !bytes.Equal(got, value) || err != nil {
			t.Errorf("Xattr = %.20q, %v, want %.20q", got, err, value)
		}
	}
	wantErr(t, "SetXattr of too much", d.SetXattr("user.pitvisor.big", make([]byte, 65_537)), unix.E2BIG)
	wantErr(t, "SetXattr of a strange name", d.SetXattr("strange.name", nil), ErrNotSupported)
}

func TestFullXattrs(t *testing.T) {
	d := testDir(t)
	var err error
	for i := 0; err == nil && i < 200; i++ {
		err = d.SetXattr("user."+strings.Repeat("x", i+1), []byte("1"))
	}
	wantErr(t, "SetXattr of the 129th", err, unix.ENOSPC)
}

// threads counts the threads of this process.
func threads(t testing.TB) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// epolls counts the epoll descriptors of this process.
func epolls(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && target == "anon_inode:[eventpoll]" {
			n++
		}
	}
	return n
}
