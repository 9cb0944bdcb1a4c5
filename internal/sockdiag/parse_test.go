package sockdiag

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEachInetReadsTheTable(t *testing.T) {
	var one [4]byte
	binary.NativeEndian.PutUint32(one[:], 0x0100007F)
	table := `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 00000000 100 0 0 10 0
   1: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12 1
   2: 0100007F:9999 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 13 1
   3: not reached
`
	var got []string
	err := eachInet(bufio.NewScanner(strings.NewReader(table)), "0A", true, func(s Socket) {
		got = append(got, fmt.Sprint(s, " ", s.UID, " ", s.Inode))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprint(netip.AddrFrom4(one), ":8080 1000 4711"), "[::]:8081 0 12"}
	if strings.Join(got, ";") != strings.Join(want, ";") {
		t.Errorf("listeners are %q, want %q", got, want)
	}
}

func TestEachInetOfAnUnsortedTable(t *testing.T) {
	table := `  1: 00000000:0035 00000000:0000 01 0:0 0:0 0 0 0 1 2
  2: 00000000:0044 00000000:0000 07 0:0 0:0 0 0 0 2 2
  3: 00000000:0045 00000000:0000 07 0:0 0:0 0 0 0 3 2
`
	var got []uint64
	err := eachInet(bufio.NewScanner(strings.NewReader(table)), "07", false, func(s Socket) { got = append(got, s.Inode) })
	if err != nil || fmt.Sprint(got) != "[2 3]" {
		t.Errorf("sockets are %v, %v, want 2 and 3", got, err)
	}
	err = eachInet(bufio.NewScanner(strings.NewReader("nonsense\n")), "07", false, func(Socket) {})
	if err == nil || !strings.Contains(err.Error(), `unknown line "nonsense"`) {
		t.Errorf("error = %v, want the line named", err)
	}
}

func TestEachUnixReadsTheTable(t *testing.T) {
	table := `0000000000000000: 00000003 00000000 00000000 0001 03 10
0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/a b
0000000000000000: 00000002 00000000 00010000 0005 01 12 @abs
0000000000000000: 00000002 00000000 00000000 0002 01 13 /dev/log
0000000000000000: 00000002 00000000 00000000 0002 01 14
0000000000000000: 00000002 00000000 00010000 0001 01 15 /tmp/x
0: 2 0 00010000 0001 01 11 /forged
nonsense
0000000000000000: 00000002 00000000 00010000 0001 01 16 /run/last
`
	var got []string
	err := eachUnix(bufio.NewScanner(strings.NewReader(table)), func(s Socket) {
		got = append(got, fmt.Sprint(s.Proto, " ", s.Inode, " ", s.Path))
	})
	want := "unix 11 /run/a b;unixpacket 12 @abs;unixgram 13 /dev/log;unix 15 /tmp/x;unix 16 /run/last"
	if err != nil || strings.Join(got, ";") != want {
		t.Errorf("sockets are %q, %v, want %q", got, err, want)
	}
}

// inetMessage and unixMessage are answers as the kernel gives them.
func inetMessage() []byte {
	message := make([]byte, sizeofInetMessage)
	message[0], message[1] = unix.AF_INET, stateListen
	return append(message, 5, 0, inetDiagV6only, 0, 1, 0, 0, 0, 12, 0, inetDiagCgroupID, 0, 1, 2, 3, 4, 5, 6, 7, 8)
}

func unixMessage(name string) []byte {
	message := make([]byte, sizeofUnixMessage)
	message[0], message[1], message[2] = unix.AF_UNIX, unix.SOCK_STREAM, stateListen
	message = binary.NativeEndian.AppendUint16(message, uint16(unix.SizeofRtAttr+len(name)))
	return append(append(message, unixDiagName, 0), name...)
}

func TestParseUnixNames(t *testing.T) {
	for name, want := range map[string]string{
		"/run/x\x00":    "/run/x",
		"/run/x":        "/run/x",
		"\x00abs":       "@abs",
		"\x00a\x00\xff": "@a\x00\xff",
		"\x00":          "@",
	} {
		if s, ok := parseDiag(unixMessage(name)); !ok || s.Path != want || s.Proto != Unix {
			t.Errorf("%q: %+v, %v, want the path %q", name, s, ok, want)
		}
	}
}

func FuzzParseDiag(f *testing.F) {
	f.Add(inetMessage())
	f.Add(inetMessage()[:sizeofInetMessage])
	f.Add(unixMessage("\x00abs"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseDiag(b) })
}

func FuzzTables(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 1000 0 4711 1")
	f.Add("0: 00000002 00000000 00010000 0001 01 11 /run/a b\n\n0:")
	f.Fuzz(func(_ *testing.T, s string) {
		_ = eachInet(bufio.NewScanner(strings.NewReader(s)), "0A", false, func(Socket) {})
		_ = eachUnix(bufio.NewScanner(strings.NewReader(s)), func(Socket) {})
	})
}
