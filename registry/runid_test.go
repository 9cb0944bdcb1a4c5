package registry

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestRunIDAsTextAndBack(t *testing.T) {
	for range 1000 {
		id := NewRunID()
		got, err := ParseRunID(id.String())
		if err != nil || got != id {
			t.Fatalf("ParseRunID(%q) = %v, %v, want the id it was made of", id, got, err)
		}
	}
	id := RunID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	if got, want := id.String(), "7zzzzzzzzz0000000000000001"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestParseRunIDRefuses(t *testing.T) {
	good := NewRunID().String()
	for _, s := range []string{
		"", "x", good[1:], good + "0", strings.ToUpper(good), " " + good[1:], good[:25] + "\n",
		"8" + good[1:], // more than 128 bits
		strings.Repeat("0", 26), good[:25] + "i", good[:25] + "l", good[:25] + "o", good[:25] + "u",
		good[:25] + "\xff", "../../../../../../../../..", strings.Repeat("0", 300),
	} {
		if id, err := ParseRunID(s); err == nil {
			t.Errorf("ParseRunID(%q) = %v, want an error", s, id)
		}
	}
}

func TestRunIDsSortByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var texts []string
		for range 1000 {
			id := NewRunID()
			if got := id.Time(); !got.Equal(time.Now().Truncate(time.Millisecond)) {
				t.Fatalf("Time() = %v, want %v", got, time.Now())
			}
			texts = append(texts, id.String())
			<-time.After(7 * time.Millisecond) // bubble time
		}
		if !slices.IsSorted(texts) {
			t.Error("ids made one after the other are not in order")
		}
	})
}

func TestRunIDInJSON(t *testing.T) {
	for _, id := range []RunID{NewRunID(), {}} {
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var got RunID
		if err := json.Unmarshal(text, &got); err != nil || got != id {
			t.Errorf("Unmarshal(%s) = %v, %v, want %v", text, got, err, id)
		}
	}
	var got RunID
	if err := json.Unmarshal([]byte(`"nonsense"`), &got); err == nil {
		t.Errorf("Unmarshal of nonsense = %v, want an error", got)
	}
}

// TestH34R03RunIDsNeverCollide: four processes start in the same instant and make ids as fast as they
// can. The project that this is told of had three equal ones among the first four.
func TestH34R03RunIDsNeverCollide(t *testing.T) {
	const processes, each = 4, 50_000
	gate, open := pipe(t)
	outs := make([]*os.File, processes)
	helpers := make([]*linuxtest.Process, processes)
	for i := range outs {
		var err error
		if outs[i], err = os.CreateTemp(t.TempDir(), "ids"); err != nil {
			t.Fatal(err)
		}
		defer outs[i].Close()
		helpers[i] = linuxtest.Command{
			Args:  linuxtest.Helper(t, "ids", strconv.Itoa(each)),
			Stdin: gate, Stdout: outs[i], Stderr: os.Stderr,
		}.Start(t)
	}
	_ = open.Close() // all of them begin now
	seen := make(map[string]bool, processes*each)
	for i, out := range outs {
		if status := helpers[i].Wait(t, 60*time.Second); status != 0 {
			t.Fatalf("helper ended with %#x", uint32(status))
		}
		if _, err := out.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if seen[lines.Text()] {
				t.Fatalf("id %s was made twice", lines.Text())
			}
			seen[lines.Text()] = true
		}
	}
	if len(seen) != processes*each {
		t.Errorf("%d ids, want %d", len(seen), processes*each)
	}
}

// modeIDs prints ids after its stdin has ended.
func modeIDs(args []string) int {
	n, _ := strconv.Atoi(args[0])
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	out := bufio.NewWriter(os.Stdout)
	for range n {
		fmt.Fprintln(out, NewRunID())
	}
	if err := out.Flush(); err != nil {
		return fail(err)
	}
	return 0
}

func FuzzParseRunID(f *testing.F) {
	f.Add(NewRunID().String())
	f.Add("01jd0q3v3k7m1x4n8p2r5t9w6y")
	f.Add("run-01jd0q3v3k7m1x4n8p2r5t9w6y")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseRunID(s)
		if err == nil && (id.String() != s || id.IsZero()) {
			t.Errorf("ParseRunID(%q) = %v: not what it was read from", s, id)
		}
		if err != nil && !id.IsZero() {
			t.Errorf("ParseRunID(%q) = %v with error %v", s, id, err)
		}
	})
}
