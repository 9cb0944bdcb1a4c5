package pidfd

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// identities returns what each tier would have stored. A test forces a tier by
// using that identity with that tier's way to open it.
func identities(t *testing.T, p *Process) map[Tier]Identity {
	t.Helper()
	ids := map[Tier]Identity{}
	byStart, err := p.identityByStart()
	if err != nil {
		t.Fatal(err)
	}
	ids[TierC] = byStart
	byInode, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	f := Probe()
	if f.Pidfs {
		ids[TierB] = byInode
	}
	if f.Handles {
		ids[TierA] = byInode
	}
	return ids
}

// openers are the ways to open of each tier.
var openers = map[Tier]func(Identity) (*Process, error){
	TierA: Identity.openByHandle,
	TierB: Identity.openByInode,
	TierC: Identity.openByStart,
}

func TestIdentityFindsTheSameProcess(t *testing.T) {
	child, p := start(t)
	for tier, id := range identities(t, p) {
		if alive, err := id.Alive(); !alive || err != nil {
			t.Errorf("tier %v: Alive() = %v, %v, want true", tier, alive, err)
		}
		again, err := openers[tier](id)
		if err != nil {
			t.Errorf("tier %v: %v", tier, err)
			continue
		}
		defer func() { _ = again.Close() }()
		if ids := identities(t, again); ids[tier] != id {
			t.Errorf("tier %v: found %v, want %v", tier, ids[tier], id)
		}
	}
	child.Kill(t)
	for tier, id := range identities(t, start2(t)) {
		if id.PID == child.PID() {
			t.Errorf("tier %v: PID %d was reused by chance", tier, id.PID)
		}
	}
}

func start2(t *testing.T) *Process {
	t.Helper()
	_, p := start(t)
	return p
}

// H-01: the PID of a dead worker goes to an unrelated process, by force. Nothing
// that is held or stored of the worker may find, or touch, the unrelated one.
func TestH01ReusedPIDIsAStranger(t *testing.T) {
	child, p := start(t)
	ids := identities(t, p)
	child.Kill(t)
	waitForTick(t)
	stranger := linuxtest.ReusePID(t, child.PID(), linuxtest.Helper(t, "run")...)
	if stranger.PID() != child.PID() {
		t.Fatalf("the stranger has PID %d, want %d", stranger.PID(), child.PID())
	}
	for tier, id := range ids {
		if q, err := openers[tier](id); !errors.Is(err, ErrGone) {
			t.Errorf("tier %v: opened %v as %v, want ErrGone", tier, id, q)
		}
		if q, err := id.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("tier %v: Open() = %v, %v, want ErrGone", tier, q, err)
		}
		if alive, err := id.Alive(); alive || err != nil {
			t.Errorf("tier %v: Alive() = %v, %v, want false", tier, alive, err)
		}
	}
	for _, sig := range []unix.Signal{0, unix.SIGTERM, unix.SIGKILL} {
		if err := p.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("Signal(%d) through the old pidfd = %v, want ErrProcessDone", sig, err)
		}
	}
	if exited, err := p.Exited(); !exited || err != nil {
		t.Errorf("Exited() = %v, %v, want true", exited, err)
	}
	if !stranger.Alive() {
		t.Error("the stranger died")
	}
	// The stranger itself is found by its own identity.
	for tier, id := range identities(t, open(t, stranger.PID())) {
		if alive, err := id.Alive(); !alive || err != nil || id == ids[tier] {
			t.Errorf("tier %v: %v: Alive() = %v, %v, want true", tier, id, alive, err)
		}
	}
}

// waitForTick lets the clock that start times are counted in go on.
func waitForTick(t *testing.T) {
	t.Helper()
	const perTick = 10_000_000 // nanoseconds
	ticks := func() int64 {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			t.Fatal(err)
		}
		return now.Nano() / perTick
	}
	first := ticks()
	linuxtest.Wait(t, within, func() (bool, string) { return ticks() > first+1, "the clock stands still" })
}

func TestIdentityOfAnotherBootIsGone(t *testing.T) {
	_, p := start(t)
	for tier, id := range identities(t, p) {
		id.Boot = "00000000-0000-0000-0000-000000000000"
		if _, err := id.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("tier %v: Open() = %v, want ErrGone", tier, err)
		}
	}
}

func TestIdentityIsStoredAsJSON(t *testing.T) {
	_, p := start(t)
	for tier, id := range identities(t, p) {
		data, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var again Identity
		if err := json.Unmarshal(data, &again); err != nil || again != id {
			t.Errorf("tier %v: %s = %+v, %v, want %+v", tier, data, again, err, id)
		}
	}
}

// Another process without any privilege finds it: what a supervisor does that is
// started after the first was killed.
func TestIdentityIsFoundByAnotherUser(t *testing.T) {
	_, p := start(t)
	for tier, id := range identities(t, p) {
		data, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		got := linuxtest.Command{Args: linuxtest.Helper(t, "open-as-nobody", string(data))}.Output(t, within)
		if want := id.String() + " <nil>"; tier != TierC && got != want {
			t.Errorf("tier %v: %q, want %q", tier, got, want)
		}
		if tier == TierC && strings.Contains(got, "gone") {
			t.Errorf("tier %v: %q", tier, got)
		}
	}
}

func TestIdentityString(t *testing.T) {
	for want, id := range map[string]Identity{
		"4711:84423": {PID: 4711, Inode: 84423},
		"4711:99":    {PID: 4711, Start: 99},
	} {
		if got := id.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

func TestStartTime(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	for _, line := range []string{"1 (sh)" + tail, "1 (a b) S (c)" + tail, "1 ())" + tail, "1 (\n)" + tail + "\n"} {
		if got, err := startTime([]byte(line)); got != 4711 || err != nil {
			t.Errorf("startTime(%q) = %d, %v, want 4711", line, got, err)
		}
	}
	for _, line := range []string{"", "1 sh S", "1 (sh) S 1 2", "1 (sh)" + strings.Replace(tail, "4711", "x", 1)} {
		if got, err := startTime([]byte(line)); err == nil {
			t.Errorf("startTime(%q) = %d, want an error", line, got)
		}
	}
}

func TestStatusNumber(t *testing.T) {
	status := []byte("Name:\tPPid: 7\nPPid:\t12\nUid:\t1000\t1001\t1002\t1003\nEmpty:\n")
	for key, want := range map[string]int{"PPid:": 12, "Uid:": 1000} {
		if got, err := statusNumber(status, key); got != want || err != nil {
			t.Errorf("statusNumber(%q) = %d, %v, want %d", key, got, err, want)
		}
	}
	for _, key := range []string{"Empty:", "None:", "Name:"} {
		if got, err := statusNumber(status, key); err == nil {
			t.Errorf("statusNumber(%q) = %d, want an error", key, got)
		}
	}
}

func TestProbeTellsTheTruth(t *testing.T) {
	f := Probe()
	if !f.Open {
		t.Error("no pidfds here, but the tests ran")
	}
	_, p := start(t)
	_, err := p.inode()
	if (err == nil) != f.Pidfs {
		t.Errorf("Pidfs = %v, but inode() = %v", f.Pidfs, err)
	}
	_, err = p.infoIoctl()
	if (err == nil) != f.Info {
		t.Errorf("Info = %v, but infoIoctl() = %v", f.Info, err)
	}
	child, p := start(t)
	child.Kill(t)
	_, err = p.ExitStatus()
	if err != nil && f.ExitInfo {
		t.Errorf("ExitInfo = %v, but ExitStatus() = %v", f.ExitInfo, err)
	}
}

func TestTierOfFeatures(t *testing.T) {
	for _, c := range []struct {
		f    Features
		want Tier
	}{
		{Features{}, TierE},
		{Features{Open: true}, TierC},
		{Features{Open: true, Pidfs: true}, TierB},
		{Features{Open: true, Pidfs: true, Info: true, Handles: true}, TierB},
		{Features{Open: true, Pidfs: true, Info: true, Handles: true, ExitInfo: true}, TierA},
	} {
		if got := c.f.Tier(); got != c.want {
			t.Errorf("%+v.Tier() = %v, want %v", c.f, got, c.want)
		}
	}
}
