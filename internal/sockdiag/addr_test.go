package sockdiag

import (
	"net/netip"
	"testing"
)

func addr(s string) Addr { return AddrFrom(netip.MustParseAddr(s).AsSlice()) }

// netip writes the same; it is only not linked by what is started often.
func TestAddrString(t *testing.T) {
	for _, s := range []string{
		"0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "1::", "::ffff:10.1.2.3", "2001:db8::1",
		"1:0:0:2::3", "1:0:0:2:0:0:3:4", "1:2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:0", "::ffff:0:0", "1:0:2:0:3:0:4:0",
	} {
		if got, want := addr(s).String(), netip.MustParseAddr(s).String(); got != want {
			t.Errorf("String of %s = %s, want %s", s, got, want)
		}
	}
}

func FuzzAddrString(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		want, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		if got := AddrFrom(b).String(); got != want.String() {
			t.Errorf("String of %x = %s, want %s", b, got, want)
		}
	})
}
