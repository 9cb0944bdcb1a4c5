package capture

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// watched returns what the kernel tells of the only directory of a store.
func watched(t *testing.T) uint64 {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if found := regexp.MustCompile(`inotify wd:\S+ ino:\S+ sdev:\S+ mask:(\S+)`).FindSubmatch(info); found != nil {
			mask, err := strconv.ParseUint(string(found[1]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return mask
		}
	}
	t.Fatal("there is no inotify watch")
	return 0
}

// While one stream floods, its directory rests most of the time; what others in it
// write is seen all the same, and when it is quiet it is watched again.
func TestFloodedDirectoryRests(t *testing.T) {
	linuxtest.NeedRealSpeed(t) // or there is no row of looks
	s := open(t, Options{MaxSize: 1 << 20})
	got := followBut(t, s, "web/0") // the flood is not kept
	flooder, other := start(t, s, 0, 1), start(t, s, 1, 1)
	stop, over := make(chan struct{}), make(chan struct{})
	defer func() { <-over }()
	defer close(stop)
	go func() {
		defer close(over)
		block := append(bytes.Repeat([]byte("f"), 3999), '\n')
		for {
			select {
			case <-stop:
				return
			default:
				write(t, flooder.Stdout, string(block))
			}
		}
	}()
	rested := 0
	var lines []string
	linuxtest.Wait(t, 3*soon, func() (bool, string) {
		if watched(t)&unix.IN_MODIFY == 0 {
			rested++
			lines = append(lines, fmt.Sprint("line ", rested))
			write(t, other.Stdout, lines[rested-1]+"\n")
			got.waitFor(t, "web/1", Stdout, lines...)
		}
		return rested == 5, fmt.Sprintf("the directory rested %d times", rested)
	})
	stop <- struct{}{}
	linuxtest.Wait(t, soon, func() (bool, string) { return watched(t)&unix.IN_MODIFY != 0, "the directory rests though it is quiet" })
}

// To look at all of many streams costs more than some events, and less than very many.
func TestFullDirectoryRestsFromManyEventsOnly(t *testing.T) {
	for _, c := range []struct {
		streams, events int // of each look
		rests           time.Duration
	}{
		{fewStreams, 1, floodPace},
		{fewStreams + 2, 1, watchPace},
		{fewStreams + 2, fewStreams + 1, watchPace},
		{fewStreams + 2, fewStreams + 2, floodPace},
		{4 * fewStreams, 500, 4 * fewStreams * perStream},
		{mostStreams + 2, 2 * mostStreams, watchPace},
	} {
		s := open(t, Options{MaxSize: 1 << 20})
		fl := floods{store: s}
		for slot := range c.streams / 2 {
			start(t, s, slot, 1)
		}
		dir := s.pools["web"]
		for range floodAfter {
			fl.begin(0)
			for range c.events {
				fl.saw(dir)
			}
		}
		if got := fl.pace(); got != c.rests {
			t.Errorf("%d streams, %d events a look: the next look is after %v, want %v", c.streams, c.events, got, c.rests)
		}
		if told := watched(t)&unix.IN_MODIFY != 0; told == (len(fl.resting) == 1) {
			t.Errorf("%d streams, %d events a look: %d directories rest, and the kernel tells: %v", c.streams, c.events, len(fl.resting), told)
		}
		fl.wake()
		if fl.pace() != watchPace || watched(t)&unix.IN_MODIFY == 0 {
			t.Errorf("%d streams, %d events a look: not watched again", c.streams, c.events)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Some events a second are no flood.
func TestAFewEventsAreNoFlood(t *testing.T) {
	s := open(t, Options{})
	start(t, s, 0, 1)
	fl := floods{store: s}
	dir := s.pools["web"]
	for range 10 * floodAfter {
		fl.begin(floodGap + 1)
		fl.saw(dir)
		fl.saw(dir)
	}
	if len(fl.resting) != 0 {
		t.Error("a directory with an event now and then rests")
	}
	for range floodAfter - 1 {
		fl.begin(floodGap)
		fl.saw(dir)
	}
	if len(fl.resting) != 1 || watched(t)&unix.IN_MODIFY != 0 {
		t.Errorf("%d directories rest, want the one with a flood", len(fl.resting))
	}
	fl.wake()
	if watched(t)&unix.IN_MODIFY == 0 {
		t.Error("it is not watched again")
	}
}
