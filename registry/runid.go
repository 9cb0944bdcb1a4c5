package registry

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RunID names one run: 48 bits of milliseconds since 1970, then 80 random bits. Ids made in different
// milliseconds sort by time, as bytes and as text. The zero RunID names no run.
type RunID [16]byte

// idAlphabet is Crockford's base32 in lower case: no i, l, o or u, and in the order of the values.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// idLength is the length of an id as text: 26 characters of 5 bits, the first of which holds only 3.
const idLength = 26

// NewRunID makes a fresh id. Nothing has to be remembered or agreed on for it to be unique: its random
// part comes from the kernel's CSPRNG, so neither restarts within one millisecond, nor clones of a
// virtual machine, nor a clock set back make two equal ones. It panics when the kernel refuses to give
// random bytes, which no kernel that this package runs on does.
func NewRunID() RunID {
	var id RunID
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], stamp[2:])
	fillRandom(id[6:])
	return id
}

// fillRandom asks the kernel itself: crypto/rand would be a tenth of the price of a
// one-shot command, and the vDSO that unix.Getrandom asks needs memory of its own. It
// panics where crypto/rand ends the program: when the kernel has no random bytes to
// give, no id is unique.
func fillRandom(b []byte) {
	for len(b) > 0 {
		n, _, err := unix.Syscall(unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
		switch err {
		case 0:
			b = b[n:]
		case unix.EINTR:
		default:
			panic("registry: getrandom: " + err.Error())
		}
	}
}

// ParseRunID reads what String wrote and nothing else: 26 characters, lower case, no zero id.
func ParseRunID(s string) (RunID, error) {
	var id RunID
	if len(s) != idLength {
		return id, fmt.Errorf("parse run id %q: %d characters instead of %d", clip(s), len(s), idLength)
	}
	var high, low uint64 // the 128 bits, filled from the right
	for i := range len(s) {
		v := idValue(s[i])
		if v < 0 || i == 0 && v > 7 {
			return id, fmt.Errorf("parse run id %q: character %d is not allowed there", clip(s), i+1)
		}
		high = high<<5 | low>>59
		low = low<<5 | uint64(v)
	}
	if high == 0 && low == 0 {
		return id, fmt.Errorf("parse run id %q: the zero id names no run", s)
	}
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], low)
	return id, nil
}

// String is the id as 26 lower-case characters; it is part of file and cgroup names.
func (id RunID) String() string {
	high, low := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	var text [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		text[i] = idAlphabet[low&31]
		low = low>>5 | high<<59
		high >>= 5
	}
	return string(text[:])
}

// IsZero says that the id names no run.
func (id RunID) IsZero() bool { return id == RunID{} }

// Time is the moment the id was made, by the clock of the machine that made it.
func (id RunID) Time() time.Time {
	var stamp [8]byte
	copy(stamp[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(stamp[:])))
}

// MarshalText gives String, and nothing for the zero id.
func (id RunID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (id *RunID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = RunID{}
		return nil
	}
	parsed, err := ParseRunID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// idValue is the value of one character, or -1.
func idValue(c byte) int {
	for v := range len(idAlphabet) {
		if idAlphabet[v] == c {
			return v
		}
	}
	return -1
}

// clip keeps a nonsense id from filling the screen.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
