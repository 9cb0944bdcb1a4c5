package sockdiag

import "strconv"

// Addr is an IP address. It is not package netip's, whose initialisation costs a
// program that is started for every command 60 µs.
type Addr struct {
	ip [16]byte // an IPv4 address is in the first four
	v4 bool
}

// AddrFrom makes an address of its 4 or 16 bytes.
func AddrFrom(b []byte) Addr {
	a := Addr{v4: len(b) == 4}
	copy(a.ip[:], b)
	return a
}

// Bytes returns the 4 or 16 bytes of the address.
func (a Addr) Bytes() []byte {
	if a.v4 {
		return a.ip[:4]
	}
	return a.ip[:]
}

// String returns the address as RFC 5952 writes it.
func (a Addr) String() string {
	if a.v4 {
		return string(a.dotted(nil, 0))
	}
	if a.mapped() {
		return string(a.dotted([]byte("::ffff:"), 12))
	}
	from, to := a.zeros()
	var b []byte
	for i := 0; i < 16; i += 2 {
		if i == from {
			b = append(b, "::"...)
			i = to
			if i >= 16 {
				break
			}
		} else if i > 0 {
			b = append(b, ':')
		}
		b = strconv.AppendUint(b, uint64(a.ip[i])<<8|uint64(a.ip[i+1]), 16)
	}
	return string(b)
}

// dotted appends four bytes of the address in decimal.
func (a Addr) dotted(b []byte, at int) []byte {
	for i, n := range a.ip[at : at+4] {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	return b
}

// mapped says whether it is an IPv4 address within IPv6.
func (a Addr) mapped() bool {
	for _, n := range a.ip[:10] {
		if n != 0 {
			return false
		}
	}
	return a.ip[10] == 0xff && a.ip[11] == 0xff
}

// zeros returns the longest run of at least two groups of zeros, the first of
// several; both 16 when there is none.
func (a Addr) zeros() (from, to int) {
	from, to = 16, 16
	for i := 0; i < 16; i += 2 {
		end := i
		for end < 16 && a.ip[end] == 0 && a.ip[end+1] == 0 {
			end += 2
		}
		if end-i >= 4 && (from == 16 || end-i > to-from) {
			from, to = i, end
		}
	}
	return from, to
}
