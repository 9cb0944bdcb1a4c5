package registry

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/pidfd"
)

// wantAsJSON compares encode with json.Marshal.
func wantAsJSON(t *testing.T, i Info) {
	t.Helper()
	want, wantErr := json.Marshal(i)
	got, err := i.encode()
	if string(got) != string(want) || (err == nil) != (wantErr == nil) {
		t.Errorf("encode() = %s, %v, want %s, %v", got, err, want, wantErr)
	}
}

func TestEncodeGivesWhatMarshalGives(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 30, 15, 120_000_000, time.UTC)
	plain := Info{
		ID: NewRunID(), Boot: "b", Owner: pidfd.Identity{Boot: "b", Inode: 7, PID: 12, Start: 9}, PIDNS: 1 << 63,
		Kind: "run", Name: "make test", Version: "1.0", Started: now,
	}
	if !plain.plain() {
		t.Error("a usual record is not encoded the short way")
	}
	tests := map[string]func(*Info){
		"plain":           func(*Info) {},
		"zero":            func(i *Info) { *i = Info{} },
		"no id":           func(i *Info) { i.ID = RunID{} },
		"old kernel":      func(i *Info) { i.Owner.Inode = 0 },
		"new kernel":      func(i *Info) { i.Owner.Start = 0 },
		"one label":       func(i *Info) { i.Labels = map[string]string{"a": "b"} },
		"sorted labels":   func(i *Info) { i.Labels = map[string]string{"b": "1", "a": "2", "ab": "", "": "x"} },
		"no labels":       func(i *Info) { i.Labels = map[string]string{} },
		"label to escape": func(i *Info) { i.Labels = map[string]string{"a": "b", "q": `"`} },
		"key to escape":   func(i *Info) { i.Labels = map[string]string{"<": ""} },
		"markup":          func(i *Info) { i.Name = "a < b && c" },
		"quotes":          func(i *Info) { i.Kind = `\"` },
		"control":         func(i *Info) { i.Version = "1\x00\n" },
		"not UTF-8":       func(i *Info) { i.Name = "\xff" },
		"not ASCII":       func(i *Info) { i.Boot = "Zürich\u2028" },
		"delete":          func(i *Info) { i.Owner.Boot = "\x7f" },
		"expires":         func(i *Info) { i.Expires = now.In(time.FixedZone("", 5*3600+45*60)) },
		"odd zone":        func(i *Info) { i.Expires = now.In(time.FixedZone("", -3601)) },
		"far zone":        func(i *Info) { i.Started = now.In(time.FixedZone("", 24*3600)) },
		"far year":        func(i *Info) { i.Started = now.AddDate(9000, 0, 0) },
		"before Christ":   func(i *Info) { i.Expires = now.AddDate(-3000, 0, 0) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			i := plain
			change(&i)
			wantAsJSON(t, i)
		})
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("run", "make test", "boot", "key", "value", uint64(1), 2, int64(3), int64(4), 3600)
	f.Add("<", "\u2028", "\xff", `"`, `\`, uint64(0), 0, int64(-1), int64(1)<<62, 1<<20)
	f.Fuzz(func(t *testing.T, kind, name, boot, key, value string, inode uint64, pid int, sec, nano int64, zone int) {
		started := time.Unix(sec, nano).In(time.FixedZone("", zone))
		i := Info{
			ID: RunID{byte(pid), 1: byte(sec)}, Boot: boot, Owner: pidfd.Identity{Boot: boot, Inode: inode, PID: pid, Start: uint64(nano)},
			PIDNS: inode, Kind: kind, Name: name, Version: value, Started: started,
		}
		if key != "" {
			i.Labels = map[string]string{key: value, value: key, "c": name}
			i.Expires = started
		}
		wantAsJSON(t, i)
	})
}
